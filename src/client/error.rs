//! Why a question got no answer.

use std::fmt;

use crate::query::{CannotConnect, Code, QueryError};
use crate::source::failure::PrepareError;

/// Why a question got no answer. Never is there a number that may be wrong instead.
///
/// What can pass by itself was asked again until the time ran out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskError {
    /// 400: the question is wrong, such as an id of 0 or a partition that does not exist. Mend the caller.
    Malformed(String),
    /// 413: more keys than `limits.max_keys`, or a reply larger than NATS lets through. Ask for less at a time.
    TooLarge(String),
    /// 429: too much is waiting there already. Ask less, or later.
    Overloaded(String),
    /// 503: nobody owns the partition, the store can't be reached, or no instance is there. Ask again later.
    Unavailable(String),
    /// 504: the time ran out. Allow more of it.
    TimedOut(String),
}

impl AskError {
    /// The code of the contract: 400, 413, 429, 503 or 504.
    pub fn code(&self) -> u16 {
        self.kind().number()
    }

    /// Whether asking the same later can help.
    pub fn is_passing(&self) -> bool {
        match self {
            AskError::Malformed(_) | AskError::TooLarge(_) => false,
            AskError::Overloaded(_) | AskError::Unavailable(_) | AskError::TimedOut(_) => true,
        }
    }

    fn kind(&self) -> Code {
        match self {
            AskError::Malformed(_) => Code::Malformed,
            AskError::TooLarge(_) => Code::TooLarge,
            AskError::Overloaded(_) => Code::Overloaded,
            AskError::Unavailable(_) => Code::Unavailable,
            AskError::TimedOut(_) => Code::TimedOut,
        }
    }

    /// What happened and where, for people; one line.
    pub fn message(&self) -> &str {
        match self {
            AskError::Malformed(message)
            | AskError::TooLarge(message)
            | AskError::Overloaded(message)
            | AskError::Unavailable(message)
            | AskError::TimedOut(message) => message,
        }
    }
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code(), self.message())
    }
}

impl std::error::Error for AskError {}

impl From<QueryError> for AskError {
    fn from(error: QueryError) -> Self {
        match error.code {
            Code::Malformed => AskError::Malformed(error.message),
            Code::TooLarge => AskError::TooLarge(error.message),
            Code::Overloaded => AskError::Overloaded(error.message),
            Code::TimedOut => AskError::TimedOut(error.message),
            // The last is none that instances tell to callers.
            Code::Unavailable | Code::StampVoid => AskError::Unavailable(error.message),
        }
    }
}

impl From<PrepareError> for CannotConnect {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::Unreachable(why) => CannotConnect::Unreachable(why),
            PrepareError::Misconfigured(why) => CannotConnect::Misconfigured(why),
        }
    }
}
