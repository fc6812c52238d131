//! Ids, events, channels and read states: what the numbers mean. Pure: no clock, no I/O.

pub mod channel;
pub mod event;
pub mod ids;
pub mod read_state;
