//! readstates: knows, for every user and every channel of a chat system, what has been read.
//!
//! A library for programs that ask the service and publish to it, and the program `readstates` itself. **Programs begin with
//! [`client`]**, and need what it names of [`model`] beside it; the other modules are the service, and may change.
//!
//! The modules are in reading order: a module imports those above it.

#![warn(missing_docs, clippy::unwrap_used, clippy::expect_used)]

pub mod memory;
pub mod model;

pub mod wire;

pub mod partition;

pub mod shard;

pub mod store;

pub mod source;

pub mod query;

pub mod client;

pub mod ops;

pub mod config;

pub mod oracle;

pub mod cli;
