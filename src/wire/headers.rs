//! Names and values of headers, of records and of NATS messages.

/// What a value or a payload is written in. Absent: protobuf.
pub const CONTENT_TYPE: &str = "content-type";
/// The value of [`CONTENT_TYPE`] for JSON.
pub const CONTENT_TYPE_JSON: &str = "application/json";
/// The value of [`CONTENT_TYPE`] for protobuf, which is the default.
pub const CONTENT_TYPE_PROTOBUF: &str = "application/protobuf";

/// JetStream records only: the record key, which is optional there.
pub const KEY: &str = "key";

/// Dead letters: [`Reason::name`](super::record::Reason::name).
pub const DEAD_LETTER_REASON: &str = "readstates-reason";
/// Dead letters: the partition of the record, decimal.
pub const DEAD_LETTER_SOURCE_PARTITION: &str = "readstates-source-partition";
/// Dead letters: the offset of the record, decimal.
pub const DEAD_LETTER_SOURCE_OFFSET: &str = "readstates-source-offset";
/// Dead letters: `true` where the value was too large and is cut.
pub const DEAD_LETTER_TRUNCATED: &str = "readstates-truncated";

/// Requests: how long the caller waits, in milliseconds, decimal.
pub const TIMEOUT_MS: &str = "readstates-timeout-ms";
/// How long a caller waits who does not say.
pub const TIMEOUT_DEFAULT_MS: u64 = 2000;

/// Replies that are errors: one of the `ERROR_` numbers, decimal. The body is empty then.
pub const ERROR_CODE: &str = "Nats-Service-Error-Code";
/// Replies that are errors: what went wrong, for people.
pub const ERROR_TEXT: &str = "Nats-Service-Error";

/// The request is malformed.
pub const ERROR_MALFORMED: u16 = 400;
/// More keys than `limits.max_keys`.
pub const ERROR_TOO_MANY_KEYS: u16 = 413;
/// Too much is waiting already.
pub const ERROR_OVERLOADED: u16 = 429;
/// The partition has no live owner, or the store can't be reached.
pub const ERROR_UNAVAILABLE: u16 = 503;
/// The time of [`TIMEOUT_MS`] ran out.
pub const ERROR_TIMED_OUT: u16 = 504;

/// Whether the value of a [`CONTENT_TYPE`] header says JSON. Case does not matter, and neither do parameters such
/// as `; charset=utf-8`.
pub fn is_json_content_type(value: &[u8]) -> bool {
    let media_type = value.split(|byte| *byte == b';').next().unwrap_or_default();
    media_type
        .trim_ascii()
        .eq_ignore_ascii_case(CONTENT_TYPE_JSON.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_told_from_other_content_types() {
        for json in [
            "application/json",
            "Application/JSON",
            " application/json ; charset=utf-8",
        ] {
            assert!(is_json_content_type(json.as_bytes()), "{json:?}");
        }
        for other in [
            "",
            ";",
            "application/protobuf",
            "application/jsonl",
            "text/json",
            "application/json+x",
        ] {
            assert!(!is_json_content_type(other.as_bytes()), "{other:?}");
        }
    }
}
