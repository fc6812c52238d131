//! Proves what the service does while its servers fail, on real servers that the tests hurt, with events published and
//! questions asked all the time: what is cached is answered, the rest is refused in time, nothing is ever wrong, memory
//! and the log stay small, and it goes on by itself afterwards. Every answer on the way and all counts at the end are
//! compared with the oracle.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;
#[path = "whole_path/mod.rs"]
#[allow(dead_code)]
mod whole_path;

#[path = "bad_days/load.rs"]
mod load;
#[path = "bad_days/probes.rs"]
mod probes;

#[path = "bad_days/store.rs"]
mod store;
#[path = "bad_days/streams.rs"]
mod streams;
