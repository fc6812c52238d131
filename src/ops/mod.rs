//! What operators see: metrics, health, the status page.

pub mod http;
pub mod metrics;
