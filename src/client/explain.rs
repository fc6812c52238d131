//! How numbers come about.

use std::future::IntoFuture;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::answer::Explanation;
use super::{AskError, Question, patience};
use crate::model::ids::ReadStateKey;
use crate::wire::proto::v1;

/// A question for how numbers come about; `.await` asks it. See [`Client::explain`](super::Client::explain).
#[derive(Clone, Debug)]
#[must_use = "nothing is asked before it is awaited"]
pub struct Explain {
    question: Question,
    key: v1::Key,
}

impl Explain {
    pub(super) fn new(question: Question, key: ReadStateKey) -> Self {
        let key = key.into();
        Explain { question, key }
    }

    patience!();
}

impl IntoFuture for Explain {
    /// The numbers and what they are made of.
    type Output = Result<Explanation, AskError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        async move {
            let subject = self.question.client.subjects.explain();
            let reply: v1::ExplainReply = self.question.ask(&subject, &self.key).await?;
            if reply.read_state.is_none() {
                return Err(AskError::Unavailable(format!(
                    "the answer on {subject} has no read state: does something else listen there?"
                )));
            }
            Ok(reply.into())
        }
        .boxed()
    }
}
