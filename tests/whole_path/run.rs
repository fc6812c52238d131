//! One deployment under test, from its servers to the comparison of everything.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, TopicPartitionList};
use readstates::config::StreamKind;
use readstates::model::ids::PartitionId;
use readstates::oracle::{Limits, Membership, Oracle};
use readstates::store::Store;
use readstates::store::cassandra::{CassandraConfig, CassandraStore, Password};
use readstates::store::either::EitherStore;
use readstates::store::embedded::EmbeddedStore;
use tokio::task::block_in_place;

use super::asker::Asker;
use super::dead_letters;
use super::publishing::{EVENT_BYTES_LIMIT, LISTED_LIMIT};
use super::rng::Rng;
use super::truth::Truth;
use crate::support::servers::{self, wait_for};
use crate::support::service::Deployment;
use crate::support::streams::{Records, read_dead_letters, read_stream};

/// Users whose overview is compared at the end, as far as there are so many.
const OVERVIEWS: usize = 300;

/// Write delay, store and commit interval take some seconds.
const COMMITTED_DEADLINE: Duration = Duration::from_secs(30);

/// Where the servers of a run are.
pub struct Addresses {
    pub brokers: String,
    pub nats: String,
    pub cassandra: String,
}

/// The tests need the whole machine, so one runs at a time.
pub async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ONE.lock().await
}

/// The settings of an embedded store in a folder of its own.
pub fn embedded(name: &str) -> Vec<(&'static str, String)> {
    let path = servers::fresh_dir(name).join("store");
    vec![
        ("store.kind", "embedded".to_owned()),
        ("store.embedded.path", path.to_str().unwrap().to_owned()),
    ]
}

/// The settings of a JetStream stream.
pub fn jetstream() -> Vec<(&'static str, String)> {
    vec![("stream.kind", "jetstream".to_owned())]
}

/// A run, which tells its seed when it fails.
pub struct Run {
    pub name: &'static str,
    pub seed: u64,
    pub rng: Rng,
    pub deployment: Deployment,
    pub limits: Limits,
    /// Who may read the store, where not everyone may: user and password.
    pub login: Option<(String, String)>,
    began: Instant,
}

impl Run {
    /// Of a deployment of its own, on servers that all runs share and none may hurt.
    pub fn new(
        name: &'static str,
        partitions: u32,
        limits: Limits,
        settings: &[(&'static str, &str)],
    ) -> Self {
        let servers = servers::shared();
        let addresses = Addresses {
            brokers: servers.kafka.url(),
            nats: servers.nats.url(),
            cassandra: servers.cassandra.url(),
        };
        Self::on(&addresses, name, partitions, limits, settings)
    }

    /// Of a deployment of its own, on these servers. `READSTATES_SEED` repeats the decisions of another run.
    pub fn on(
        addresses: &Addresses,
        name: &'static str,
        partitions: u32,
        limits: Limits,
        settings: &[(&'static str, &str)],
    ) -> Self {
        let seed = match std::env::var("READSTATES_SEED") {
            Ok(seed) => seed.parse().expect("READSTATES_SEED is a number"),
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs(),
        };
        let mut all = vec![
            ("limits.max_unread_count", limits.max_unread_count.to_string()),
            (
                "limits.max_direct_mentions",
                limits.max_direct_mentions.to_string(),
            ),
            ("limits.max_mentions", LISTED_LIMIT.to_string()),
            ("limits.max_deletes", LISTED_LIMIT.to_string()),
            ("limits.max_event_bytes", EVENT_BYTES_LIMIT.to_string()),
        ];
        all.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let run = Run {
            name,
            seed,
            rng: Rng::new(seed ^ 0x00c0_ffee),
            deployment: Deployment {
                name: name.to_owned(),
                brokers: addresses.brokers.clone(),
                nats: addresses.nats.clone(),
                cassandra: addresses.cassandra.clone(),
                partitions,
                settings: all,
            },
            limits,
            login: None,
            began: Instant::now(),
        };
        run.say(format_args!("seed {seed}"));
        run
    }

    /// A line of progress, also where the runner keeps what tests print to itself.
    pub fn say(&self, what: std::fmt::Arguments<'_>) {
        let seconds = self.began.elapsed().as_secs_f64();
        let mut output = std::io::stderr().lock();
        writeln!(output, "[{} {seconds:6.1} s] {what}", self.name).unwrap();
    }

    /// Asks for everything, and compares it, and all that was answered before, with the oracle. Everything must be
    /// settled.
    pub async fn compare_all(&mut self, asker: &Asker, truth: &Truth, keys: &[(u64, u64)]) {
        let asking = Instant::now();
        asker.ask_all(keys, &truth.ends()).await;
        let rate = keys.len() as f64 / asking.elapsed().as_secs_f64();
        let users: BTreeSet<u64> = keys.iter().map(|key| key.0).collect();
        let mut users: Vec<u64> = users.into_iter().collect();
        while users.len() > OVERVIEWS {
            users.swap_remove(self.rng.index(users.len()));
        }
        let oracle = truth.final_oracle();
        let overviews = Instant::now();
        let mut rows = 0;
        let mut misled = Vec::new();
        for (n, user) in users.iter().enumerate() {
            let limit = if n % 3 == 0 { 4 } else { 0 };
            let listed = asker.overview(*user, limit, n % 5 == 0, 20_000).await;
            let listed = listed.expect("settled, so every question is answered");
            let channels: Vec<u64> = listed.iter().map(|state| state.channel_id).collect();
            let expected = shown(&oracle, *user);
            if channels != expected {
                misled.push(format!("user {user}: listed {channels:?}, not {expected:?}"));
            }
            rows += channels.len();
        }
        let each = overviews.elapsed() / users.len().max(1) as u32;
        let seen = asker.take_seen();
        let comparing = Instant::now();
        let compared = block_in_place(|| truth.verify(&seen));
        // After the comparison of numbers, which says more about what went wrong.
        assert!(
            misled.is_empty(),
            "{} overviews are wrong: {misled:#?}",
            misled.len()
        );
        self.say(format_args!(
            "{compared} answers are right: {} keys, {rate:.0} keys/s; {} overviews of {rows} rows, {each:.1?} each; \
             compared in {:.1?}",
            keys.len(),
            users.len(),
            comparing.elapsed()
        ));
    }

    /// The stream read back.
    pub fn truth(&self) -> (Records, Truth) {
        let records = read_stream(&self.deployment);
        let truth = Truth::new(&records, self.limits);
        (records, truth)
    }

    /// Compares the dead letters with the stream.
    pub fn check_dead_letters(
        &self,
        topic: &Records,
        unusable: &BTreeMap<&'static str, u64>,
        may_repeat: bool,
    ) {
        let letters = read_dead_letters(&self.deployment);
        let (records, again) = dead_letters::check(topic, &letters, may_repeat);
        assert_eq!(records as u64, unusable.values().sum::<u64>());
        self.say(format_args!(
            "{records} dead letters are right, {again} came again: {unusable:?}"
        ));
    }

    fn consumer(&self) -> BaseConsumer {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.deployment.brokers)
            .set("group.id", self.deployment.group());
        config.create().unwrap()
    }

    /// Checks, while no instance runs, that there is nothing to replay: in the store and in the group every position is
    /// the end; in JetStream, which has no group, it is there or has moved on with the records of other partitions.
    pub async fn check_all_is_durable(&self, ends: &[Option<u64>]) {
        let store = self.store().await;
        let committed = match self.deployment.stream_kind() {
            StreamKind::Kafka => Some(block_in_place(|| self.committed())),
            StreamKind::JetStream => None,
        };
        for (partition, end) in ends.iter().enumerate() {
            let stored = store.load_position(PartitionId(partition as u32)).await.unwrap();
            let stored = stored
                .and_then(|stored| stored.durable.offset())
                .map(|offset| offset.0);
            let Some(committed) = &committed else {
                assert!(
                    stored == *end || end.is_some() && stored > *end,
                    "the stored position of partition {partition}: {stored:?}, not {end:?}"
                );
                continue;
            };
            assert_eq!(stored, *end, "the stored position of partition {partition}");
            assert_eq!(
                committed[partition], *end,
                "the committed position of partition {partition}"
            );
        }
    }

    /// The store, while no instance runs.
    async fn store(&self) -> EitherStore {
        if let Some(path) = self.deployment.embedded_path() {
            return EitherStore::Embedded(EmbeddedStore::open(&path).await.unwrap());
        }
        let config = CassandraConfig {
            nodes: vec![self.deployment.cassandra.clone()],
            keyspace: self.deployment.keyspace(),
            create_schema: false,
            replication: String::new(),
            datacenter: None,
            username: self.login.as_ref().map(|(user, _)| user.clone()),
            password: self
                .login
                .as_ref()
                .map(|(_, password)| Password(password.clone())),
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
        };
        EitherStore::Cassandra(CassandraStore::connect(&config).await.unwrap())
    }

    /// By partition, the last record that is committed in the group.
    fn committed(&self) -> Vec<Option<u64>> {
        let mut asked = TopicPartitionList::new();
        for partition in 0..self.deployment.partitions {
            asked.add_partition(&self.deployment.topic(), partition as i32);
        }
        let committed = self
            .consumer()
            .committed_offsets(asked, Duration::from_secs(30))
            .unwrap();
        let last = |next: i64| (next as u64).checked_sub(1);
        let offsets = committed
            .elements()
            .into_iter()
            .map(|place| place.offset().to_raw());
        offsets
            .map(|next| next.filter(|next| *next >= 0).and_then(last))
            .collect()
    }

    /// Waits until everything is durable, while an instance runs, and the group (which JetStream has none of) shows it. How
    /// long that took.
    pub async fn wait_until_committed(&self, asker: &Asker, ends: &[Option<u64>]) -> Duration {
        let began = Instant::now();
        asker.wait_until_durable(ends).await;
        if self.deployment.stream_kind() == StreamKind::Kafka {
            block_in_place(|| {
                wait_for("all is committed", COMMITTED_DEADLINE, || {
                    self.committed() == ends
                });
            });
        }
        began.elapsed()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("[{}] failed with READSTATES_SEED={}", self.name, self.seed);
        }
    }
}

/// The channels of a user's overview.
fn shown(oracle: &Oracle, user: u64) -> Vec<u64> {
    let is_shown = |channel: &u64| {
        let state = oracle.read_state(user, *channel);
        state.is_some_and(|(_, membership)| membership != Membership::Left)
    };
    oracle.channels_of(user).into_iter().filter(is_shown).collect()
}

/// Everything that a history has to do with.
pub fn shared_keys(events: &[readstates::wire::proto::v1::Event]) -> Arc<Vec<(u64, u64)>> {
    Arc::new(super::history::keys(events))
}
