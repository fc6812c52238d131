//! What the tests that need real servers share. Each takes what it needs, so parts are unused in each of them.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub mod certificates;
pub mod jwt;
pub mod owners;
pub mod proxy;
pub mod servers;
pub mod service;
pub mod stores;
pub mod streams;
pub mod truth;
