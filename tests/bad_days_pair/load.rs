//! Events that are published all the time, callers that ask all the time, and the comparison of what they were told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, Context};
use prost::Message as _;
use readstates::model::ids::ChannelId;
use readstates::oracle::{Event, Limits, Membership, Oracle, Reported};
use readstates::wire::partitioner::partition_of;
use readstates::wire::proto::v1::event::Kind;
use readstates::wire::proto::v1::{self, MemberJoined, MemberLeft, MessageCreated, MessageDeleted};
use readstates::wire::proto::v1::{MessageMarkedUnread, MessageRead};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::support::truth::oracle_event;

const CHANNELS: u64 = 40;
const USERS: u64 = 25;
/// Between two events.
const PUBLISH_PAUSE: Duration = Duration::from_millis(2);
/// Between two questions of one caller.
const ASK_PAUSE: Duration = Duration::from_millis(8);
const CALLERS: u64 = 3;
const KEYS_MAX: u64 = 12;
/// What a question gives the service.
const TIMEOUT_MS: u64 = 2000;
const LIMITS: Limits = Limits {
    max_unread_count: 10_000,
    max_direct_mentions: 1000,
};

/// An answer for one key.
struct Answer {
    state: v1::ReadState,
    /// The position can't be behind this: it was durable before the question.
    floor: u64,
}

#[derive(Default)]
struct Shared {
    /// By partition, the sequence of the last record that was acknowledged, 0: none.
    ends: Mutex<Vec<u64>>,
    /// By partition, the furthest that was said to be durable.
    durable: Mutex<Vec<u64>>,
    answers: Mutex<Vec<Answer>>,
    tally: Mutex<BTreeMap<String, u64>>,
    stop: AtomicBool,
}

/// What goes on beside the troubles.
pub struct Load {
    client: async_nats::Client,
    name: String,
    partitions: u32,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins, over connections of its own.
    pub async fn start(url: &str, name: &str, partitions: u32) -> Self {
        let client = async_nats::connect(url).await.unwrap();
        let shared = Arc::new(Shared::default());
        *shared.ends.lock().unwrap() = vec![0; partitions as usize];
        *shared.durable.lock().unwrap() = vec![0; partitions as usize];
        let mut load = Load {
            client,
            name: name.to_owned(),
            partitions,
            shared,
            tasks: Vec::new(),
        };
        load.tasks.push(tokio::spawn(load.publisher()));
        for caller in 0..CALLERS {
            load.tasks.push(tokio::spawn(load.caller(caller)));
        }
        load.tasks.push(tokio::spawn(load.watcher()));
        load
    }

    fn publisher(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut context = jetstream::new(self.client.clone());
        context.set_timeout(Duration::from_secs(1));
        let (shared, partitions, name) = (self.shared.clone(), self.partitions, self.name.clone());
        async move {
            let (mut random, mut newest) = (Random(0x5eed), 1_000);
            while !shared.stop.load(Ordering::SeqCst) {
                let event = some_event(&mut random, &mut newest);
                let partition = partition_of(ChannelId(event.channel_id), partitions).0;
                let subject = format!("{name}-events.{partition}");
                // Until it is taken: one that was taken without our knowing is there twice, which changes nothing.
                while !shared.stop.load(Ordering::SeqCst) {
                    let sent = context
                        .publish(subject.clone(), event.encode_to_vec().into())
                        .await;
                    let Ok(sent) = sent else { continue };
                    match sent.await {
                        Ok(taken) => {
                            shared.ends.lock().unwrap()[partition as usize] = taken.sequence;
                            break;
                        }
                        Err(_) => sleep(Duration::from_millis(50)).await,
                    }
                }
                sleep(PUBLISH_PAUSE).await;
            }
        }
    }

    fn caller(&self, number: u64) -> impl Future<Output = ()> + Send + 'static {
        let (shared, client, partitions) = (self.shared.clone(), self.client.clone(), self.partitions);
        let subject = format!("{}.v1.get", self.name);
        async move {
            let mut random = Random(0xca11 + number);
            while !shared.stop.load(Ordering::SeqCst) {
                let count = 1 + random.below(KEYS_MAX);
                let keys: Vec<_> = (0..count).map(|_| random.key()).collect();
                let how = match ask(&shared, &client, &subject, partitions, keys, Vec::new()).await {
                    Ok(_) => "answered".to_owned(),
                    Err(why) => why,
                };
                *shared.tally.lock().unwrap().entry(how).or_default() += 1;
                sleep(ASK_PAUSE).await;
            }
        }
    }

    /// Learns what is durable.
    fn watcher(&self) -> impl Future<Output = ()> + Send + 'static {
        let (shared, client, subject) = (
            self.shared.clone(),
            self.client.clone(),
            format!("{}.v1.status", self.name),
        );
        async move {
            while !shared.stop.load(Ordering::SeqCst) {
                if let Ok(reply) = client.request(subject.clone(), "".into()).await
                    && let Ok(status) = v1::StatusReply::decode(reply.payload)
                {
                    let mut durable = shared.durable.lock().unwrap();
                    for partition in status.partitions {
                        let known = &mut durable[partition.partition as usize];
                        *known = (*known).max(partition.durable_offset.unwrap_or(0));
                    }
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Waits until everything that is acknowledged now is answered.
    pub async fn settle(&self, within: Duration) {
        let began = Instant::now();
        let subject = format!("{}.v1.get", self.name);
        let ends = self.shared.ends.lock().unwrap().clone();
        let after: Vec<v1::Position> = (0..)
            .zip(&ends)
            .filter(|(_, end)| **end > 0)
            .map(|(partition, end)| v1::Position {
                partition,
                offset: *end,
            })
            .collect();
        let keys: Vec<_> = (1..=CHANNELS).map(|channel| (1, channel)).collect();
        loop {
            let (keys, after) = (keys.clone(), after.clone());
            match ask(&self.shared, &self.client, &subject, self.partitions, keys, after).await {
                Ok(_) => return,
                Err(why) => assert!(began.elapsed() < within, "not settled: {why}; wanted {ends:?}"),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Expects nothing of what was durable before: the store may be gone.
    pub fn forget_durable(&self) {
        self.shared.durable.lock().unwrap().fill(0);
    }

    /// How often each thing came out since the last time.
    pub fn take_tally(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.shared.tally.lock().unwrap())
    }

    /// Ends all load, asks for everything, and compares every answer that there ever was.
    pub async fn finish(&mut self, context: &Context, stream: &str) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for task in self.tasks.drain(..) {
            task.await.expect("no question panicked");
        }
        self.settle(Duration::from_secs(60)).await;
        let subject = format!("{}.v1.get", self.name);
        for user in 1..=USERS {
            let keys = (1..=CHANNELS).map(|channel| (user, channel)).collect();
            let answered = ask(
                &self.shared,
                &self.client,
                &subject,
                self.partitions,
                keys,
                Vec::new(),
            )
            .await;
            answered.unwrap();
        }
        let records = read(context, stream).await;
        let mut answers = std::mem::take(&mut *self.shared.answers.lock().unwrap());
        answers.sort_by_key(|answer| position(&answer.state));
        let (mut oracle, mut records, count) =
            (Oracle::new(LIMITS), records.into_iter().peekable(), answers.len());
        for Answer { state, floor } in answers {
            let at = position(&state);
            while let Some((_, event)) = records.next_if(|(sequence, _)| *sequence <= at) {
                oracle.apply(event.0, &event.1);
            }
            assert!(at >= floor, "behind {floor}, which was durable before: {state:?}");
            let truth = oracle.numbers(state.user_id, state.channel_id);
            let checked = reported(&state).check(&truth);
            checked.unwrap_or_else(|what| panic!("{what}: {state:?}"));
        }
        println!("{count} answers are right");
        assert!(count > 5_000, "{count}");
    }
}

/// Asks for read states, and keeps what is answered.
async fn ask(
    shared: &Shared,
    client: &async_nats::Client,
    subject: &str,
    partitions: u32,
    keys: Vec<(u64, u64)>,
    after: Vec<v1::Position>,
) -> Result<(), String> {
    let floors = shared.durable.lock().unwrap().clone();
    let key = |(user_id, channel_id)| v1::Key { user_id, channel_id };
    let request = v1::GetRequest {
        keys: keys.into_iter().map(key).collect(),
        after,
        partial: false,
    };
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("readstates-timeout-ms", TIMEOUT_MS.to_string());
    let request = async_nats::Request::new()
        .payload(request.encode_to_vec().into())
        .headers(headers)
        .timeout(Some(Duration::from_millis(TIMEOUT_MS + 500)));
    let reply = client.send_request(subject.to_owned(), request).await;
    let reply = reply.map_err(|error| error.to_string())?;
    let code = reply
        .headers
        .as_ref()
        .and_then(|it| it.get("Nats-Service-Error-Code"));
    if let Some(code) = code {
        assert!(["503", "504"].contains(&code.as_str()), "{code}");
        return Err(code.to_string());
    }
    let reply = v1::GetReply::decode(reply.payload).unwrap();
    let answers = reply.read_states.into_iter().map(|state| Answer {
        floor: floors[partition_of(ChannelId(state.channel_id), partitions).0 as usize],
        state,
    });
    shared.answers.lock().unwrap().extend(answers);
    Ok(())
}

fn position(state: &v1::ReadState) -> u64 {
    state.position.map_or(0, |position| position.offset)
}

fn reported(state: &v1::ReadState) -> Reported {
    Reported {
        exists: None,
        last_read: state.last_read_message_id,
        last_message: state.last_message_id,
        unread: state.unread_count,
        unread_capped: state.unread_count_capped,
        mentions: state.mention_count,
        direct: state.direct_mention_count,
        mentions_capped: state.mention_count_capped,
        membership: match state.membership() {
            v1::Membership::Unspecified => Membership::Unspecified,
            v1::Membership::Joined => Membership::Joined,
            v1::Membership::Left => Membership::Left,
            v1::Membership::ChannelDeleted => Membership::ChannelDeleted,
        },
    }
}

/// All records of the stream that have an event.
async fn read(context: &Context, stream: &str) -> Vec<(u64, (u64, Event))> {
    let stream = context.get_stream(stream).await.unwrap();
    let mut records = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let record = stream.get_raw_message(sequence).await.unwrap();
        if let Ok(event) = v1::Event::decode(record.payload) {
            records.push((sequence, oracle_event(event)));
        }
    }
    records
}

/// `newest`: the id of the last message, in whichever channel.
fn some_event(random: &mut Random, newest: &mut u64) -> v1::Event {
    let (user_id, channel_id) = random.key();
    let message_id = *newest - random.below(200);
    let kind = match random.below(100) {
        0..55 => {
            *newest += 1;
            Kind::MessageCreated(MessageCreated {
                message_id: *newest,
                author_id: user_id,
                mentioned_user_ids: (0..random.below(3)).map(|_| random.key().0).collect(),
                mentions_everyone: random.below(10) == 0,
            })
        }
        55..85 => Kind::MessageRead(MessageRead { user_id, message_id }),
        85..90 => Kind::MessageMarkedUnread(MessageMarkedUnread { user_id, message_id }),
        90..94 => Kind::MessageDeleted(MessageDeleted {
            message_ids: vec![message_id],
        }),
        94..98 => Kind::MemberJoined(MemberJoined { user_id }),
        _ => Kind::MemberLeft(MemberLeft { user_id }),
    };
    v1::Event {
        channel_id,
        kind: Some(kind),
    }
}

/// The same numbers for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn key(&mut self) -> (u64, u64) {
        (1 + self.below(USERS), 1 + self.below(CHANNELS))
    }
}
