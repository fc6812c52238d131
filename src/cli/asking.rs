//! What all commands have in common that ask the service over NATS: connecting, errors, printing.

use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use clap::Args;
use prost::{Message, Name};

use super::Failed;
use crate::client::{AskError, CannotConnect, Client, Options};
use crate::config::Config;
use crate::model::ids::MAX_ID;
use crate::wire::query::{Form, encode_reply};

/// How to ask, and how to show the answer.
#[derive(Debug, Args)]
pub struct Asking {
    /// Prints the reply as JSON.
    #[arg(long)]
    pub json: bool,
    /// How long to wait for the answer; what can pass by itself is asked again meanwhile.
    #[arg(long, default_value_t = 2000, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    timeout: u64,
}

impl Asking {
    /// How long to wait for the answer.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout)
    }
}

/// Reads the id of a user or a channel.
///
/// # Errors
/// What is allowed.
pub fn id(text: &str) -> Result<u64, String> {
    let id = text.parse().ok().filter(|id| (1..=MAX_ID).contains(id));
    id.ok_or_else(|| format!("an id is a whole number from 1 to {MAX_ID}"))
}

/// Connects, and does not wait for a server that isn't there.
///
/// # Errors
/// Which server can't be reached or does not let us in, and which settings to look at.
pub async fn connect(config: &Config) -> Result<Client, Failed> {
    Ok(Client::connect(Options::from(&config.nats)).await?)
}

impl From<CannotConnect> for Failed {
    fn from(error: CannotConnect) -> Self {
        match error {
            CannotConnect::Unreachable(why) => Failed::Broken(why),
            CannotConnect::Misconfigured(why) | CannotConnect::Refused(why) => Failed::Misconfigured(why),
        }
    }
}

impl From<AskError> for Failed {
    fn from(error: AskError) -> Self {
        Failed::Broken(error.to_string())
    }
}

/// Prints a reply as canonical JSON, on one line.
///
/// # Errors
/// Where standard output can't be written.
pub fn print_json<T: Message + Name>(reply: &T) -> Result<(), Failed> {
    let mut json = encode_reply(reply, Form::Json);
    json.push(b'\n');
    print(&String::from_utf8_lossy(&json))
}

/// Prints to standard output. A reader that has seen enough (`| head`) is no error.
///
/// # Errors
/// Where standard output can't be written.
pub fn print(text: &str) -> Result<(), Failed> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failed::Broken(format!("can't write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_contract() {
        assert_eq!(id("1"), Ok(1));
        assert_eq!(id("9223372036854775807"), Ok(MAX_ID));
        for wrong in ["0", "-1", "9223372036854775808", "1e3", "", "alice"] {
            assert!(id(wrong).is_err(), "{wrong}");
        }
    }
}
