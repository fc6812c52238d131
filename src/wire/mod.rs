//! Protobuf and JSON to and from the model.
