//! What users have read in channels.

use std::future::IntoFuture;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::answer::{Answer, ReadState};
use super::position::Positions;
use super::{AskError, Question, patience};
use crate::model::ids::ReadStateKey;
use crate::wire::proto::v1;

/// A question for read states; `.await` asks it. See [`Client::get`](super::Client::get).
#[derive(Clone, Debug)]
#[must_use = "nothing is asked before it is awaited"]
pub struct Get {
    question: Question,
    request: v1::GetRequest,
}

impl Get {
    pub(super) fn new(question: Question, keys: impl IntoIterator<Item = ReadStateKey>) -> Self {
        let request = v1::GetRequest {
            keys: keys.into_iter().map(v1::Key::from).collect(),
            ..v1::GetRequest::default()
        };
        Get { question, request }
    }

    patience!();

    /// Answers only once these records have been applied, and waits for them if need be.
    pub fn after(mut self, positions: impl Into<Positions>) -> Self {
        let positions = positions.into();
        self.request
            .after
            .extend(positions.iter().map(v1::Position::from));
        self
    }

    /// Answers what can be answered, if some partitions can't be reached, and says of which keys nothing is known.
    pub fn partial(mut self) -> GetPartial {
        self.request.partial = true;
        GetPartial(self)
    }

    async fn ask(self) -> Result<Vec<Answer>, AskError> {
        let subject = self.question.client.subjects.get();
        let reply: v1::GetReply = self.question.ask(&subject, &self.request).await?;
        let (asked, answered) = (self.request.keys.len(), reply.read_states.len());
        if asked != answered {
            return Err(AskError::Unavailable(format!(
                "the answer on {subject} has {answered} read states for {asked} keys: does something else listen there?"
            )));
        }
        Ok(reply.read_states.into_iter().map(Answer::from).collect())
    }
}

impl IntoFuture for Get {
    /// One for each key, in the order of the keys.
    type Output = Result<Vec<ReadState>, AskError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let known = |answer| match answer {
            Answer::Known(read_state) => Ok(read_state),
            Answer::Unavailable(key) => Err(AskError::Unavailable(format!(
                "user {} in channel {} is not known",
                key.user, key.channel
            ))),
        };
        async move { self.ask().await?.into_iter().map(known).collect() }.boxed()
    }
}

/// A question for read states that may be answered in part; `.await` asks it.
#[derive(Clone, Debug)]
#[must_use = "nothing is asked before it is awaited"]
pub struct GetPartial(Get);

impl IntoFuture for GetPartial {
    /// One for each key, in the order of the keys.
    type Output = Result<Vec<Answer>, AskError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.0.ask().boxed()
    }
}
