//! Protobuf and JSON to and from the model.

pub mod event_json;
pub mod headers;
pub mod json;
pub mod partitioner;
pub mod proto;
pub mod query;
pub mod record;
pub mod records;
