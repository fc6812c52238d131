//! Asking until there is an answer, or the time has run out.

use std::time::Duration;

use async_nats::Client;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use prost::Message;
use tokio::time::{Instant, sleep_until};

use super::error::AskError;
use crate::query::{Code, QueryError, ask};

/// Pauses between attempts grow from this…
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// … to this. Each is shortened by up to a half, by chance.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// A question that is not answered may have got lost: it is asked once more after this, then after twice as long, and so
/// on. Whoever answers first is heard.
const PATIENCE_FIRST: Duration = Duration::from_secs(1);
/// The last attempt has so long.
const LAST_ATTEMPT: Duration = Duration::from_millis(50);
/// What an attempt needs at least.
const ATTEMPT_MIN: Duration = Duration::from_millis(10);
/// How much longer than asked for the answer is waited for: a 504 that says why is on its way then.
const GRACE: Duration = Duration::from_millis(50);

/// How long to wait, and whether to ask again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// All attempts and pauses together.
    pub timeout: Duration,
    /// One attempt, and what comes of it.
    pub is_once: bool,
}

/// Asks, and asks again for as long as that can help and there is time.
pub(super) async fn ask_within<Req, Rep>(
    client: &Client,
    subject: &str,
    request: &Req,
    patience: Patience,
) -> Result<Rep, AskError>
where
    Req: Message,
    Rep: Message + Default,
{
    let silence_of = || QueryError::new(Code::TimedOut, format_args!("no answer on {subject} in time"));
    if patience.is_once {
        // Handing the question over can take time as well, while the connection stands still.
        let asking = ask(client, subject, request, patience.timeout);
        let answer = tokio::time::timeout(patience.timeout + GRACE + GRACE, asking).await;
        return Ok(answer.unwrap_or_else(|_| Err(silence_of()))?);
    }
    let deadline = Instant::now() + patience.timeout;
    let attempt = || {
        ask(
            client,
            subject,
            request,
            deadline.saturating_duration_since(Instant::now()),
        )
    };
    let mut under_way = FuturesUnordered::from_iter([attempt()]);
    let (mut pause, mut silence) = (PAUSE_FIRST, PATIENCE_FIRST);
    let mut next = Some(Instant::now() + silence);
    let mut failure: Option<QueryError> = None;
    loop {
        let ask_next = next.unwrap_or(deadline).min(deadline);
        tokio::select! {
            Some(result) = under_way.next() => {
                let error = match result {
                    Ok(reply) => return Ok(reply),
                    Err(error) if is_final(error.code) => return Err(error.into()),
                    Err(error) => error,
                };
                failure = Some(more_telling(failure, error));
                if under_way.is_empty() {
                    next = Some(after_pause(deadline, shortened(pause)));
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
            () = sleep_until(ask_next), if next.is_some() => {
                if deadline.saturating_duration_since(Instant::now()) >= ATTEMPT_MIN {
                    under_way.push(attempt());
                    silence *= 2;
                    next = Some(Instant::now() + silence);
                } else if under_way.is_empty() {
                    break;
                } else {
                    next = None;
                }
            }
            () = sleep_until(deadline + GRACE + GRACE) => break,
        }
    }
    Err(failure.unwrap_or_else(silence_of).into())
}

/// When to ask again; once more just before the deadline, rather than after it.
fn after_pause(deadline: Instant, pause: Duration) -> Instant {
    let (now, last) = (Instant::now(), deadline - LAST_ATTEMPT);
    match now + pause > last && now + PAUSE_FIRST <= last {
        true => last,
        false => now + pause,
    }
}

/// Whether asking again would bring the same.
fn is_final(code: Code) -> bool {
    match code {
        Code::Malformed | Code::TooLarge => true,
        Code::Overloaded | Code::Unavailable | Code::TimedOut | Code::StampVoid => false,
    }
}

/// Silence at the end says less than what somebody answered before.
fn more_telling(before: Option<QueryError>, now: QueryError) -> QueryError {
    let is_silence = now.code == Code::TimedOut && now.again;
    match before {
        Some(before) if is_silence => before,
        _ => now,
    }
}

/// By up to a half, so that callers who were refused together don't come back together.
fn shortened(pause: Duration) -> Duration {
    // Each of these hashers has keys of its own.
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(0_u8) % 1000;
    pause - pause * (random as u32) / 2000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_differ_and_are_at_least_half() {
        let pauses: Vec<_> = (0..100).map(|_| shortened(PAUSE_MAX)).collect();
        assert!(pauses.iter().all(|it| (PAUSE_MAX / 2..=PAUSE_MAX).contains(it)));
        assert!(pauses.iter().any(|it| *it != pauses[0]), "{pauses:?}");
    }

    #[test]
    fn what_was_answered_is_told_rather_than_that_nobody_did() {
        let moving = QueryError::moving("nobody");
        let told = QueryError::new(Code::TimedOut, "waited for a position");
        let silence = QueryError {
            again: true,
            ..QueryError::new(Code::TimedOut, "no answer")
        };
        assert_eq!(more_telling(Some(moving.clone()), silence.clone()), moving);
        assert_eq!(more_telling(Some(moving), told.clone()), told);
        assert_eq!(more_telling(None, silence.clone()), silence);
    }
}
