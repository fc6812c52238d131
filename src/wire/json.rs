//! Canonical proto3 JSON of the generated types, by reflection.

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions,
};

use super::proto::DESCRIPTORS;

#[expect(
    clippy::expect_used,
    reason = "the build script has written the descriptors, whatever the input is"
)]
static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).expect("descriptors of the build script"));

/// Reads a message. Names in lowerCamelCase and as in the schema, 64-bit numbers as strings and as numbers; fields
/// that are not known are ignored, bytes after the message are not.
///
/// # Errors
/// What is wrong, with line and column, in one string.
///
/// However deep the input is nested, the stack is not: serde_json skips unknown fields in a loop, and stops at a depth of
/// 128 in known ones.
pub fn from_json<T: Message + Name + Default>(json: &[u8]) -> Result<T, String> {
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let message = DynamicMessage::deserialize_with_options(descriptor::<T>(), &mut deserializer, &options)
        .map_err(|error| error.to_string())?;
    deserializer.end().map_err(|error| error.to_string())?;
    message.transcode_to().map_err(|error| error.to_string())
}

/// Writes a message: names in lowerCamelCase, 64-bit numbers as strings, default values (0, false, empty) written out.
/// What can be absent and is (messages, `optional` fields) is left out.
pub fn to_json<T: Message + Name>(message: &T) -> Vec<u8> {
    let mut dynamic = DynamicMessage::new(descriptor::<T>());
    let mut json = Vec::with_capacity(128);
    let options = SerializeOptions::new().skip_default_fields(false);
    let written = dynamic
        .transcode_from(message)
        .map_err(|error| error.to_string())
        .and_then(|()| {
            dynamic
                .serialize_with_options(&mut serde_json::Serializer::new(&mut json), &options)
                .map_err(|error| error.to_string())
        });
    if let Err(error) = written {
        unreachable!(
            "a {} is of its own schema, and a Vec takes every byte: {error}",
            T::NAME
        );
    }
    json
}

#[expect(
    clippy::expect_used,
    reason = "types and descriptors are generated from the same schemas"
)]
fn descriptor<T: Name>() -> MessageDescriptor {
    POOL.get_message_by_name(&T::full_name())
        .expect("every generated type has a descriptor")
}
