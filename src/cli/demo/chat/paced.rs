//! The chat at its own pace, as lines of JSON.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{Chat, SLICE_MS};
use crate::cli::demo::happenings::Happenings;
use crate::wire::query::{Form, encode_reply};

/// When what is read comes so late, the time until then is left out instead of being made up for.
const LATE_MAX: Duration = Duration::from_secs(1);
/// How long it may take until it is noticed that it is to stop.
const TURN: Duration = Duration::from_millis(100);

/// Events as JSON, one a line, in real time. Ends when told to.
pub struct Paced {
    chat: Chat,
    happenings: Arc<Happenings>,
    stopped: watch::Receiver<bool>,
    next_at: Option<Instant>,
    text: Vec<u8>,
    read: usize,
}

impl Paced {
    /// Begins with the first read, and tells `happenings` what happens from then on.
    pub fn new(chat: Chat, happenings: Arc<Happenings>, stopped: watch::Receiver<bool>) -> Self {
        Paced {
            chat,
            happenings,
            stopped,
            next_at: None,
            text: Vec::new(),
            read: 0,
        }
    }

    fn make_more(&mut self) {
        let now = Instant::now();
        let events = match self.next_at {
            None => {
                self.next_at = Some(now);
                self.chat.begin()
            }
            Some(at) if at > now => {
                std::thread::sleep((at - now).min(TURN));
                Vec::new()
            }
            Some(at) => {
                let began = if at + LATE_MAX < now { now } else { at };
                self.next_at = Some(began + Duration::from_millis(SLICE_MS));
                let events = self.chat.slice();
                events.iter().for_each(|event| self.happenings.happens(event));
                events
            }
        };
        self.text.clear();
        self.read = 0;
        for event in &events {
            self.text.extend_from_slice(&encode_reply(event, Form::Json));
            self.text.push(b'\n');
        }
    }
}

impl Read for Paced {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.read == self.text.len() {
            if *self.stopped.borrow() {
                return Ok(0);
            }
            self.make_more();
        }
        let length = (self.text.len() - self.read).min(buffer.len());
        buffer[..length].copy_from_slice(&self.text[self.read..self.read + length]);
        self.read += length;
        Ok(length)
    }
}
