//! The state machine of one partition: pure, it takes an input and the time and returns effects.

pub mod io;
