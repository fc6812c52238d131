//! Why an event was not published.

/// Why an event was not published, or not for certain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The service would send it to the dead letters, so it was not sent. Mend who made it.
    #[error("{0}")]
    Invalid(String),
    /// The stream did not take it: it isn't there. What it says is to be mended first, or the rights or the space there.
    #[error("{0}")]
    NotTaken(String),
    /// Nobody knows whether it is there. Publish it again: what is there twice counts once.
    #[error("{0}")]
    Unacknowledged(String),
    /// It is there, and the broker did not say where, which it does not after it was asked twice. Publish it again if the
    /// position is needed: what is there twice counts once.
    #[error("the event is published, and its position is not known")]
    PositionUnknown,
}
