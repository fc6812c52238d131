//! The subjects of one deployment.

use crate::model::ids::PartitionId;

/// The subjects of one deployment. Ids of users and channels are never part of one.
#[derive(Clone, Debug)]
pub struct Subjects {
    prefix: String,
    /// What replies are never sent to.
    refused: Vec<String>,
}

impl Subjects {
    /// Of the deployment with this `nats.subject_prefix`. Nothing is ever published below `refused` either (such as
    /// the subjects of the stream), whatever a request says that its reply subject is.
    pub fn new(prefix: &str, refused: &[String]) -> Self {
        // `$` is where servers listen: JetStream's API would be commanded with the rights of this service.
        let mut all = vec!["$".to_owned(), format!("{prefix}.")];
        all.extend(
            refused
                .iter()
                .map(|subject| format!("{}.", subject.trim_end_matches('.'))),
        );
        Subjects {
            prefix: prefix.to_owned(),
            refused: all,
        }
    }

    /// `get`, to any instance.
    pub fn get(&self) -> String {
        format!("{}.v1.get", self.prefix)
    }

    /// `overview`, to any instance.
    pub fn overview(&self) -> String {
        format!("{}.v1.overview", self.prefix)
    }

    /// `explain`, to any instance.
    pub fn explain(&self) -> String {
        format!("{}.v1.explain", self.prefix)
    }

    /// `status`, to every instance.
    pub fn status(&self) -> String {
        format!("{}.v1.status", self.prefix)
    }

    /// `get`, to the owner of a partition.
    pub fn partition_get(&self, partition: PartitionId) -> String {
        format!("{}.v1.partition.{partition}.get", self.prefix)
    }

    pub(super) fn stamp(&self, partition: PartitionId) -> String {
        format!("{}.internal.v1.partition.{partition}.stamp", self.prefix)
    }

    pub(super) fn hand_over(&self, partition: PartitionId) -> String {
        format!("{}.internal.v1.partition.{partition}.overview", self.prefix)
    }

    /// Whether a reply may go there. A caller chooses the subject, the rights to publish are ours.
    pub(super) fn may_reply_to(&self, subject: &str) -> bool {
        !self
            .refused
            .iter()
            .any(|refused| subject.starts_with(refused.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_go_to_inboxes_only() {
        let subjects = Subjects::new("readstates", &["message-events".to_owned()]);
        for fine in [
            "_INBOX.a.b",
            "_R_.x",
            "readstatesque.inbox",
            "my.inbox",
            "message-events-inbox",
        ] {
            assert!(subjects.may_reply_to(fine), "{fine}");
        }
        let partition = PartitionId(3);
        for refused in [
            subjects.get(),
            subjects.overview(),
            subjects.status(),
            subjects.partition_get(partition),
            subjects.stamp(partition),
            subjects.hand_over(partition),
            "message-events.3".to_owned(),
            "$JS.API.STREAM.DELETE.message-events".to_owned(),
            "$SRV.PING".to_owned(),
        ] {
            assert!(!subjects.may_reply_to(&refused), "{refused}");
        }
    }
}
