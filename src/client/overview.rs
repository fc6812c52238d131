//! Every channel of a user.

use std::future::IntoFuture;

use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt, stream};

use super::answer::Overview;
use super::{AskError, Question, patience};
use crate::model::ids::{ChannelId, UserId};
use crate::wire::proto::v1;

/// What [`OverviewOf::all`] gathers before it ends with [`Overview::has_more`].
pub const OVERVIEW_ROWS_MAX: usize = 1_000_000;

/// A question for the channels of a user; `.await` asks for one page. See [`Client::overview`](super::Client::overview).
#[derive(Clone, Debug)]
#[must_use = "nothing is asked before it is awaited"]
pub struct OverviewOf {
    question: Question,
    request: v1::OverviewRequest,
}

impl OverviewOf {
    pub(super) fn new(question: Question, user: UserId) -> Self {
        let request = v1::OverviewRequest {
            user_id: user.0,
            ..v1::OverviewRequest::default()
        };
        OverviewOf { question, request }
    }

    patience!();

    /// Leaves out channels without unread messages.
    pub fn only_unread(mut self) -> Self {
        self.request.only_unread = true;
        self
    }

    /// Channels in a page: 1 to 1000, which is the default.
    pub fn limit(mut self, channels: u32) -> Self {
        self.request.limit = channels;
        self
    }

    /// Only channels with a larger id: the next page.
    pub fn after(mut self, channel: ChannelId) -> Self {
        self.request.after_channel_id = channel.0;
        self
    }

    /// Leaves out the channels of partitions that can't be reached, and names these.
    pub fn partial(mut self) -> Self {
        self.request.partial = true;
        self
    }

    /// One page after the other, each asked for when it is wanted, with a timeout of its own. Ends after the first error.
    pub fn pages(self) -> impl Stream<Item = Result<Overview, AskError>> + Send + Unpin {
        stream::unfold(Some(self), |next| async {
            let mut question = next?;
            let page = question.page().await;
            let following = match &page {
                Ok(page) => page.read_states.last().filter(|_| page.has_more).map(|last| {
                    question.request.after_channel_id = last.channel.0;
                    question
                }),
                Err(_) => None,
            };
            Some((page, following))
        })
        .boxed()
    }

    /// All pages as if they were one, at most [`OVERVIEW_ROWS_MAX`] channels. Each page has a timeout of its own.
    ///
    /// # Errors
    /// That of the first page that could not be had.
    pub async fn all(self) -> Result<Overview, AskError> {
        let mut all = Overview::default();
        let mut pages = self.pages();
        while let Some(page) = pages.next().await {
            let page = page?;
            all.has_more = page.has_more;
            all.read_states.extend(page.read_states);
            all.missing_partitions.extend(page.missing_partitions);
            if all.read_states.len() >= OVERVIEW_ROWS_MAX {
                break;
            }
        }
        all.missing_partitions.sort_unstable();
        all.missing_partitions.dedup();
        Ok(all)
    }

    async fn page(&self) -> Result<Overview, AskError> {
        let subject = self.question.client.subjects.overview();
        let reply: v1::OverviewReply = self.question.ask(&subject, &self.request).await?;
        Ok(reply.into())
    }
}

impl IntoFuture for OverviewOf {
    /// One page.
    type Output = Result<Overview, AskError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        async move { self.page().await }.boxed()
    }
}
