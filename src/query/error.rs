//! Why a question got no answer.

use std::fmt;

use async_nats::HeaderMap;
use async_nats::header::HeaderValue;

use crate::partition::io::Failure;
use crate::wire::headers;

/// The codes of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// 400: the request is malformed.
    Malformed,
    /// 413: more keys than allowed, or an answer larger than the server lets through.
    TooLarge,
    /// 429: too much is waiting already.
    Overloaded,
    /// 503: the partition has no live owner, or the store can't be reached.
    Unavailable,
    /// 504: the time ran out.
    TimedOut,
    /// 409, between instances only: an overview must begin again with another stamp.
    StampVoid,
}

impl Code {
    /// All of them.
    pub const ALL: [Code; 6] = [
        Code::Malformed,
        Code::TooLarge,
        Code::Overloaded,
        Code::Unavailable,
        Code::TimedOut,
        Code::StampVoid,
    ];

    /// As in the header `Nats-Service-Error-Code`.
    pub fn number(self) -> u16 {
        match self {
            Code::Malformed => headers::ERROR_MALFORMED,
            Code::TooLarge => headers::ERROR_TOO_MANY_KEYS,
            Code::Overloaded => headers::ERROR_OVERLOADED,
            Code::Unavailable => headers::ERROR_UNAVAILABLE,
            Code::TimedOut => headers::ERROR_TIMED_OUT,
            Code::StampVoid => STAMP_VOID,
        }
    }

    fn from_number(number: &str) -> Option<Self> {
        let number: u16 = number.parse().ok()?;
        Code::ALL.into_iter().find(|code| code.number() == number)
    }
}

/// Why a question got no answer: what the headers of the reply say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {message}", code.number())]
pub struct QueryError {
    /// What kind.
    pub code: Code,
    /// What happened and where, for people; one line.
    pub message: String,
    /// Asking again can help: nobody owns the partition just now, or the question got lost.
    pub again: bool,
}

/// The number of [`Code::StampVoid`], which is none of the contract's.
const STAMP_VOID: u16 = 409;
/// On replies of one that does not own the partition it was asked about.
const AGAIN: &str = "readstates-again";
/// Longer messages are cut: a header is no place for a payload.
const MESSAGE_CHARS_MAX: usize = 500;

impl QueryError {
    /// An error of this code.
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        QueryError {
            code,
            message: one_line(&message.to_string()),
            again: false,
        }
    }

    /// 400.
    pub fn malformed(message: impl fmt::Display) -> Self {
        QueryError::new(Code::Malformed, message)
    }

    /// 503, of a partition that may have another owner in a moment.
    pub fn moving(message: impl fmt::Display) -> Self {
        QueryError {
            again: true,
            ..QueryError::new(Code::Unavailable, message)
        }
    }

    /// What the headers of a reply say, if it is an error.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let number = headers.get(headers::ERROR_CODE)?.as_str();
        let text = headers.get(headers::ERROR_TEXT).map_or("", HeaderValue::as_str);
        Some(QueryError {
            again: headers.get(AGAIN).is_some(),
            ..match Code::from_number(number) {
                Some(code) => QueryError::new(code, text),
                None => QueryError::new(Code::Unavailable, format_args!("{number} {text}")),
            }
        })
    }

    /// As the headers of a reply.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = self.further_headers();
        headers.insert(headers::ERROR_CODE, self.code.number().to_string());
        headers.insert(headers::ERROR_TEXT, self.message.as_str());
        headers
    }

    /// The headers beside the two that every error has.
    pub(super) fn further_headers(&self) -> HeaderMap {
        let mut further = HeaderMap::new();
        if self.again {
            further.insert(AGAIN, "true");
        }
        further
    }
}

impl From<Failure> for QueryError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::StoreUnavailable => QueryError::new(
                Code::Unavailable,
                "the store can't be reached, and what is asked is not cached",
            ),
            Failure::Overloaded => {
                QueryError::new(Code::Overloaded, "too much is waiting: ask less at a time")
            }
            Failure::TimedOut => {
                QueryError::new(Code::TimedOut, "the time ran out before the answer was known")
            }
        }
    }
}

/// Headers end at a line's end, so a text from elsewhere must not have one.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MESSAGE_CHARS_MAX)
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_its_headers() {
        for code in Code::ALL {
            for again in [false, true] {
                let error = QueryError {
                    again,
                    ..QueryError::new(code, "partition 3:\r\nno\towner")
                };
                assert!(!error.message.contains(['\r', '\n', '\t']));
                assert_eq!(QueryError::from_headers(&error.headers()), Some(error));
            }
        }
    }

    #[test]
    fn a_code_that_is_not_known_is_no_answer_either() {
        let mut headers = HeaderMap::new();
        headers.insert(headers::ERROR_CODE, "500");
        headers.insert(headers::ERROR_TEXT, "oops");
        let error = QueryError::from_headers(&headers).unwrap();
        assert_eq!(
            (error.code, error.message.as_str()),
            (Code::Unavailable, "500 oops")
        );
        assert_eq!(QueryError::from_headers(&HeaderMap::new()), None);
    }
}
