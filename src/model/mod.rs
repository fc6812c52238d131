//! Ids, events, channels and read states: what the numbers mean. Pure: no clock, no I/O.

mod block;
pub mod channel;
pub mod counts;
pub mod event;
pub mod ids;
pub mod planted;
pub mod read_state;
