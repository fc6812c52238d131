//! Asking over NATS: what the commands do, and what instances do with each other.

use std::time::Duration;

use async_nats::client::{Request, RequestErrorKind};
use async_nats::{Client, HeaderMap};
use prost::Message;

use super::error::{Code, QueryError};
use crate::wire::headers;

/// How much longer than the answerer the asker waits, so that a 504 arrives and says why.
const GRACE: Duration = Duration::from_millis(50);

/// Asks and waits for the answer, in protobuf.
///
/// # Errors
/// What the reply says; 503 where nobody listens on the subject or the connection is down, 504 where nobody
/// answered within `timeout` (and a little more).
pub async fn ask<Req, Rep>(
    client: &Client,
    subject: &str,
    request: &Req,
    timeout: Duration,
) -> Result<Rep, QueryError>
where
    Req: Message,
    Rep: Message + Default,
{
    ask_patiently(client, subject, request, timeout, timeout + GRACE).await
}

/// Asks who may take `timeout` for the answer, and waits for `patience`: the question may have got lost.
pub(super) async fn ask_patiently<Req, Rep>(
    client: &Client,
    subject: &str,
    request: &Req,
    timeout: Duration,
    patience: Duration,
) -> Result<Rep, QueryError>
where
    Req: Message,
    Rep: Message + Default,
{
    let mut headers = HeaderMap::new();
    headers.insert(headers::TIMEOUT_MS, timeout.as_millis().to_string());
    let request = Request::new()
        .payload(request.encode_to_vec().into())
        .headers(headers)
        .timeout(Some(patience.min(timeout + GRACE)));
    let reply = client
        .send_request(subject.to_owned(), request)
        .await
        .map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => QueryError::moving(format_args!("nobody answers on {subject}")),
            RequestErrorKind::TimedOut => QueryError {
                again: true,
                ..QueryError::new(Code::TimedOut, format_args!("no answer on {subject} in time"))
            },
            RequestErrorKind::MaxPayloadExceeded => QueryError::new(
                Code::TooLarge,
                format_args!("{subject}: {error}: ask for less at a time"),
            ),
            _ => QueryError::new(Code::Unavailable, format_args!("asking {subject}: {error}")),
        })?;
    if let Some(error) = reply.headers.as_ref().and_then(QueryError::from_headers) {
        return Err(error);
    }
    Rep::decode(reply.payload).map_err(|error| {
        QueryError::new(
            Code::Unavailable,
            format_args!("the answer on {subject} can't be read: {error}"),
        )
    })
}
