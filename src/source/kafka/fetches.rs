//! What the fetcher has fetched, a thousand records with one call of librdkafka.
//!
//! `BaseConsumer::poll` makes an event and an `Arc` of each record and looks at the clock; the call that takes many at once
//! costs half of that, and rdkafka does not offer it. What librdkafka does in it otherwise (`rd_kafka_q_serve_rkmessages` and
//! `rd_kafka_poll_cb` of 2.12.1), and what follows from that here:
//!
//! - It hands out records and consumer errors, and gives all else to callbacks: log lines and the errors of the client as a
//!   whole would go to those that rdkafka does not set. Both come by the client's main queue, which rdkafka has forwarded
//!   to the consumer's. So that is undone, and [`FetchQueue::serve`] takes them from the main queue.
//! - A rebalance that comes by it is answered with giving up everything. The fetcher is in no group and never sees one.
//! - What was fetched before a partition was assigned anew is dropped as it is taken out, but what was taken out is in the
//!   caller's hand: a [`Batch`] is to be gone through to its end before a partition is assigned anew.
//! - It takes the offset of a partition's end for that of a record that was consumed, so `position` tells one too many. The
//!   end itself tells where it is: [`Taken::End`].
//! - With a timeout it waits until there are as many as were asked for. So one is waited for, and the others that are
//!   there are taken with it.
#![expect(
    unsafe_code,
    reason = "rd_kafka_consume_batch_queue is twice as fast as what rdkafka offers, and can only be called by its bindings"
)]

use std::borrow::Cow;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings::{self as sys, rd_kafka_timestamp_type_t as TimestampKind};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

use super::context::FetcherContext;

/// Records and errors taken with one call.
const TAKEN_MAX: usize = 1024;
/// Log lines and errors of the client that are served at once.
const EVENTS_MAX: usize = 64;

type Fetcher = BaseConsumer<FetcherContext>;
type Message = sys::rd_kafka_message_t;

/// The queues of a client that is a member of no group.
pub(super) struct FetchQueue {
    /// Records and errors of partitions.
    records: Queue,
    /// Log lines and errors of the client.
    events: Queue,
    /// What was taken and is not given back yet; empty unless there is a [`Batch`].
    messages: Vec<NonNull<Message>>,
    /// Below everything that points into it, so that it is dropped after that.
    fetcher: Arc<Fetcher>,
}

// SAFETY: librdkafka may be used from any thread ("completely thread-safe", its INTRODUCTION.md), and nothing in it is bound to
// a thread. There is one `FetchQueue` for its messages, and `&mut` for everything that touches them.
unsafe impl Send for FetchQueue {}

/// A reference to a queue of librdkafka, which counts them.
struct Queue(NonNull<sys::rd_kafka_queue_t>);

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: it was given to us by rd_kafka_queue_get_*, is given back here once, and its client still lives: in a
        // `FetchQueue` the client is dropped last, and in `FetchQueue::new` it is borrowed for longer.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

impl FetchQueue {
    /// Takes over what the client would tell by `poll`, which must not be called any more while this lives. Before anything
    /// is assigned.
    ///
    /// # Errors
    /// Where the client is not one that can fetch, in words.
    pub fn new(fetcher: Arc<Fetcher>) -> Result<Self, String> {
        let client = fetcher.client().native_ptr();
        // SAFETY: the client lives as long as `fetcher`. Each call returns a new reference, or null.
        let (records, events) = unsafe {
            (
                NonNull::new(sys::rd_kafka_queue_get_consumer(client)).map(Queue),
                NonNull::new(sys::rd_kafka_queue_get_main(client)).map(Queue),
            )
        };
        let (Some(records), Some(events)) = (records, events) else {
            return Err("librdkafka does not give the queues of its consumer".into());
        };
        // SAFETY: the queue is a valid one; null undoes its forwarding.
        unsafe { sys::rd_kafka_queue_forward(events.0.as_ptr(), ptr::null_mut()) };
        // What was said before that. Nothing is assigned, so that there are no records among it.
        // SAFETY: the queue is a valid one.
        while unsafe { sys::rd_kafka_queue_length(records.0.as_ptr()) } > 0 {
            drop(fetcher.poll(Duration::ZERO));
        }
        Ok(FetchQueue {
            records,
            events,
            messages: Vec::with_capacity(TAKEN_MAX),
            fetcher,
        })
    }

    /// Lets the client log what it has to say, and tells errors that are of no partition.
    pub fn serve(&mut self, mut trouble: impl FnMut(&KafkaError)) {
        for _ in 0..EVENTS_MAX {
            // SAFETY: the queue is a valid one. The event is ours.
            let event = unsafe { sys::rd_kafka_queue_poll(self.events.0.as_ptr(), 0) };
            let Some(event) = NonNull::new(event).map(Event) else {
                return;
            };
            // SAFETY: the event is a valid one.
            match unsafe { sys::rd_kafka_event_type(event.0.as_ptr()) } {
                sys::RD_KAFKA_EVENT_LOG => event.log(self.fetcher.context()),
                sys::RD_KAFKA_EVENT_ERROR => {
                    let (code, reason, is_fatal) = event.error();
                    self.fetcher
                        .context()
                        .error(KafkaError::Global(code), reason.trim());
                    trouble(&consumption(code, is_fatal));
                }
                // What is left was not asked for: statistics, tokens, reports.
                _ => {}
            }
        }
    }

    /// Takes what was fetched, after waiting for the first of it for so long.
    pub fn take(&mut self, wait: Duration) -> Batch<'_> {
        self.give_back();
        self.fill(Duration::ZERO, TAKEN_MAX);
        if self.messages.is_empty() && !wait.is_zero() {
            self.fill(wait, 1);
            if !self.messages.is_empty() {
                self.fill(Duration::ZERO, TAKEN_MAX);
            }
        }
        Batch { queue: self }
    }

    fn fill(&mut self, wait: Duration, most: usize) {
        let wait_ms = c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX);
        let room = self.messages.spare_capacity_mut();
        let most = most.min(room.len());
        // SAFETY: the queue is a valid one, `room` has space for `most` pointers and is ours alone, and a `NonNull` is laid
        // out as the pointer.
        let taken = unsafe {
            sys::rd_kafka_consume_batch_queue(
                self.records.0.as_ptr(),
                wait_ms,
                room.as_mut_ptr().cast::<*mut Message>(),
                most,
            )
        };
        let taken = usize::try_from(taken).unwrap_or_default().min(most);
        // SAFETY: so many pointers were written, one after the other; each is to a message that is now ours, so not null.
        unsafe { self.messages.set_len(self.messages.len() + taken) };
    }

    fn give_back(&mut self) {
        for message in self.messages.drain(..) {
            // SAFETY: the message is ours since `fill`, and given back here once. Nothing borrows from it: that would borrow
            // from a `Batch`, which borrows this queue. The client lives.
            unsafe { sys::rd_kafka_message_destroy(message.as_ptr()) };
        }
    }
}

impl Drop for FetchQueue {
    fn drop(&mut self) {
        self.give_back();
        // As rdkafka expects it when it closes the client.
        // SAFETY: the client lives.
        unsafe { sys::rd_kafka_poll_set_consumer(self.fetcher.client().native_ptr()) };
    }
}

/// Something that came from the log or its broker.
pub(super) enum Taken<'a> {
    /// A record.
    Record(Fetched<'a>),
    /// The end of a partition: `next` is the offset of the record that will be appended next, or of one after transaction markers.
    End { partition: i32, next: i64 },
    /// An error, of a partition mostly.
    Trouble(KafkaError),
}

/// A record that was fetched.
pub(super) struct Fetched<'a> {
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since 1970, where the broker tells.
    pub timestamp_ms: Option<i64>,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    message: &'a NonNull<Message>,
}

/// What was taken with one call, in order. To be gone through to its end: what is in it does not come again.
pub(super) struct Batch<'a> {
    queue: &'a mut FetchQueue,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.queue.give_back();
    }
}

impl Batch<'_> {
    pub fn is_empty(&self) -> bool {
        self.queue.messages.is_empty()
    }

    /// Everything in it.
    pub fn iter(&self) -> impl Iterator<Item = Taken<'_>> {
        self.queue.messages.iter().map(|message| self.look(message))
    }

    fn look<'a>(&'a self, message: &'a NonNull<Message>) -> Taken<'a> {
        let native = message.as_ptr();
        // SAFETY: the message is valid until it is given back, which needs the queue that `self` borrows. The code is read as
        // a number, since not every number is one of the codes that Rust knows.
        let (code, partition, offset) = unsafe {
            (
                ptr::addr_of!((*native).err).cast::<i32>().read(),
                (*native).partition,
                (*native).offset,
            )
        };
        let code = error_code(code);
        match code {
            RDKafkaErrorCode::NoError => {
                // SAFETY: as above. librdkafka fills in all of its fields, and what they point to lives as long as the
                // message.
                let mut kind = TimestampKind::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
                let (key, value, timestamp_ms) = unsafe {
                    (
                        slice((*native).key, (*native).key_len),
                        slice((*native).payload, (*native).len),
                        sys::rd_kafka_message_timestamp(native, &raw mut kind),
                    )
                };
                let is_known =
                    timestamp_ms != NO_TIMESTAMP && kind != TimestampKind::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
                Taken::Record(Fetched {
                    partition,
                    offset,
                    timestamp_ms: is_known.then_some(timestamp_ms),
                    key,
                    value,
                    message,
                })
            }
            RDKafkaErrorCode::PartitionEOF => Taken::End {
                partition,
                next: offset,
            },
            code => {
                // SAFETY: as above. The payload of an error is its text.
                let reason = unsafe { slice((*native).payload, (*native).len) };
                let reason = String::from_utf8_lossy(reason.unwrap_or_default());
                Taken::Trouble(self.trouble(code, &reason))
            }
        }
    }

    fn trouble(&self, code: RDKafkaErrorCode, reason: &str) -> KafkaError {
        let fetcher = &self.queue.fetcher;
        let fatal = (code == RDKafkaErrorCode::Fatal)
            .then(|| fetcher.client().fatal_error())
            .flatten();
        let is_fatal = fatal.is_some();
        let (code, reason) = fatal.unwrap_or_else(|| (code, reason.to_owned()));
        fetcher.context().error(KafkaError::Global(code), reason.trim());
        consumption(code, is_fatal)
    }
}

/// What librdkafka says for the time of a record that has none.
const NO_TIMESTAMP: i64 = -1;

impl Fetched<'_> {
    /// Name and value of its headers, in order; none where they are malformed.
    pub fn headers(&self) -> impl Iterator<Item = (Cow<'_, str>, Option<&[u8]>)> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is valid as long as `self`, and only this thread looks at it. The headers stay its own.
        let found = unsafe { sys::rd_kafka_message_headers(self.message.as_ptr(), &raw mut headers) };
        let count = match found {
            // SAFETY: there are headers, of this message.
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => unsafe { sys::rd_kafka_header_cnt(headers) },
            _ => 0,
        };
        (0..count).filter_map(move |place| {
            let (mut name, mut value, mut length) = (ptr::null::<c_char>(), ptr::null::<c_void>(), 0);
            // SAFETY: the headers are valid as long as the message. Name and value are set where the place is in range, and
            // live as long; the name ends with a 0.
            unsafe {
                let found = sys::rd_kafka_header_get_all(
                    headers,
                    place,
                    &raw mut name,
                    &raw mut value,
                    &raw mut length,
                );
                (found == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR)
                    .then(|| (CStr::from_ptr(name).to_string_lossy(), slice(value, length)))
            }
        })
    }
}

/// # Safety
/// Where it is not null, it points to so many bytes that are valid and unchanged for `'a`.
unsafe fn slice<'a>(bytes: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: as the caller promises.
    (!bytes.is_null()).then(|| unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length) })
}

/// Something that the client tells.
struct Event(NonNull<sys::rd_kafka_event_t>);

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: it is ours, and given back here once.
        unsafe { sys::rd_kafka_event_destroy(self.0.as_ptr()) }
    }
}

impl Event {
    fn log(&self, context: &FetcherContext) {
        let (mut facility, mut text, mut level) = (ptr::null::<c_char>(), ptr::null::<c_char>(), 0);
        // SAFETY: the event is a valid one.
        let failed = unsafe {
            sys::rd_kafka_event_log(self.0.as_ptr(), &raw mut facility, &raw mut text, &raw mut level)
        };
        if failed == 0 {
            // SAFETY: it was a log line, so both were set, to text that ends with a 0 and lives as long as the event.
            let (facility, text) = unsafe { (self.text(facility), self.text(text)) };
            context.log(log_level(level), facility.trim(), text.trim());
        }
    }

    /// Code, text and whether the client is of no more use.
    fn error(&self) -> (RDKafkaErrorCode, Cow<'_, str>, bool) {
        // SAFETY: the event is a valid one and an error, so that there is a text, which lives as long.
        unsafe {
            let code = sys::rd_kafka_event_error(self.0.as_ptr());
            let reason = self.text(sys::rd_kafka_event_error_string(self.0.as_ptr()));
            let is_fatal = sys::rd_kafka_event_error_is_fatal(self.0.as_ptr()) != 0;
            (code.into(), reason, is_fatal)
        }
    }

    /// # Safety
    /// Null, or text of this event that ends with a 0.
    unsafe fn text(&self, text: *const c_char) -> Cow<'_, str> {
        if text.is_null() {
            return Cow::Borrowed("");
        }
        // SAFETY: as the caller promises.
        unsafe { CStr::from_ptr(text) }.to_string_lossy()
    }
}

fn consumption(code: RDKafkaErrorCode, is_fatal: bool) -> KafkaError {
    match is_fatal {
        true => KafkaError::MessageConsumptionFatal(code),
        false => KafkaError::MessageConsumption(code),
    }
}

fn error_code(code: i32) -> RDKafkaErrorCode {
    RDKafkaRespErr::try_from(code).map_or(RDKafkaErrorCode::Unknown, RDKafkaErrorCode::from)
}

/// As syslog numbers them.
fn log_level(level: i32) -> RDKafkaLogLevel {
    use RDKafkaLogLevel as L;
    match level {
        0 => L::Emerg,
        1 => L::Alert,
        2 => L::Critical,
        3 => L::Error,
        4 => L::Warning,
        5 => L::Notice,
        6 => L::Info,
        _ => L::Debug,
    }
}
