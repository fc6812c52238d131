//! How long a caller waits.

use std::time::Duration;

use async_nats::HeaderMap;
use tokio::time::Instant;

use super::error::QueryError;
use super::request::find;
use crate::wire::headers;

/// Callers that would wait longer are answered after this: a question that waits takes up room.
pub const TIMEOUT_MS_MAX: u64 = 60_000;

/// When the caller is gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Instant);

impl Deadline {
    /// From the headers of a request that came just now.
    pub fn of(headers: Option<&HeaderMap>) -> Result<Self, QueryError> {
        let timeout_ms = headers.map_or(Ok(headers::TIMEOUT_DEFAULT_MS), timeout_ms)?;
        Ok(Deadline(Instant::now() + Duration::from_millis(timeout_ms)))
    }

    /// Some time before the caller is gone: with `partial`, what was missing is told while someone listens.
    pub fn for_partial(self) -> Self {
        Deadline(Instant::now() + self.remaining() * 3 / 4)
    }

    /// None if it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// As a point in time.
    pub fn at(self) -> Instant {
        self.0
    }
}

fn timeout_ms(headers: &HeaderMap) -> Result<u64, QueryError> {
    let Some(value) = find(headers, headers::TIMEOUT_MS) else {
        return Ok(headers::TIMEOUT_DEFAULT_MS);
    };
    let timeout_ms: u64 = value.as_str().parse().map_err(|_| {
        QueryError::malformed(format_args!(
            "the header {} is {:?}, and must be a number of milliseconds",
            headers::TIMEOUT_MS,
            value.as_str()
        ))
    })?;
    Ok(timeout_ms.min(TIMEOUT_MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &str) -> Result<u64, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(headers::TIMEOUT_MS, value);
        timeout_ms(&headers).map_err(|error| error.code.number())
    }

    #[test]
    fn the_header_says_how_long() {
        assert_eq!(of("250"), Ok(250));
        assert_eq!(of("0"), Ok(0));
        assert_eq!(of("99999999"), Ok(TIMEOUT_MS_MAX));
        for garbage in ["", "-1", "1.5", "soon", "2000ms", "99999999999999999999999"] {
            assert_eq!(of(garbage), Err(400), "{garbage}");
        }
        assert_eq!(timeout_ms(&HeaderMap::new()), Ok(2000));
    }
}
