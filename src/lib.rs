//! readstates: knows, for every user and every channel of a chat system, what has been read.
//!
//! The modules in reading order; imports point upwards in this list only.

pub mod cli;
pub mod config;
pub mod model;
pub mod ops;
pub mod oracle;
pub mod partition;
pub mod query;
pub mod shard;
pub mod source;
pub mod store;
pub mod wire;
