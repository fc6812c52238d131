//! What a request says, before anything is made of it.

use async_nats::header::HeaderValue;
use async_nats::{HeaderMap, Message};
use prost::Name;

use super::error::{Code, QueryError};
use super::get::GetLimits;
use crate::wire::headers;
use crate::wire::query::{Form, decode_request};

/// What JSON takes for one key, with spaces for people. Much more than is needed for all keys that are allowed is not even
/// read: it would take a hundred times its size.
const JSON_KEY_BYTES_MAX: usize = 256;
/// The same for one position in `after`.
const JSON_POSITION_BYTES_MAX: usize = 128;
/// The same for everything else.
const JSON_OTHER_BYTES_MAX: usize = 64 * 1024;

/// Reads a request, and finds out in which form the reply is to be.
///
/// # Errors
/// 400 where it is malformed, 413 where it is JSON far larger than all that may be asked takes.
pub(super) fn decode<T: prost::Message + Name + Default>(
    message: &Message,
    limits: GetLimits,
) -> Result<(T, Form), QueryError> {
    let content_type = message
        .headers
        .as_ref()
        .and_then(|headers| find(headers, headers::CONTENT_TYPE));
    let json = content_type.is_some_and(|value| headers::is_json_content_type(value.as_ref()));
    let (bytes, bytes_max) = (message.payload.len(), json_bytes_max(limits));
    if bytes > bytes_max && Form::of_request(&message.payload, json) == Form::Json {
        // Looked through without keeping any of it.
        if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&message.payload) {
            return Err(QueryError::malformed(format_args!("this is no JSON: {error}")));
        }
        return Err(QueryError::new(
            Code::TooLarge,
            format_args!("{bytes} bytes of JSON: at most {bytes_max} are allowed, ask for less at a time"),
        ));
    }
    decode_request(&message.payload, json).map_err(QueryError::malformed)
}

/// The first value of a header, whose name may be in capitals: NATS tells them apart, and many libraries write names as
/// HTTP does.
pub(super) fn find<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a HeaderValue> {
    headers.get(name).or_else(|| {
        let mut all = headers.iter();
        all.find(|(other, _)| AsRef::<str>::as_ref(*other).eq_ignore_ascii_case(name))
            .and_then(|(_, values)| values.first())
    })
}

fn json_bytes_max(limits: GetLimits) -> usize {
    let positions = limits.partition_count as usize * JSON_POSITION_BYTES_MAX;
    let keys = limits.keys_max.saturating_mul(JSON_KEY_BYTES_MAX);
    keys.saturating_add(positions + JSON_OTHER_BYTES_MAX)
}
