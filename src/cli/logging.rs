//! Where log lines go.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Log, LogFormat};

/// What libraries log where a plain level is set, which is meant for this program.
///
/// The clients of NATS and of Cassandra log nothing, since what they could not do is said here; nor does the embedded
/// database, but for its threads in the background, whose failures only it knows.
const LIBRARIES: &str = "warn,async_nats=off,scylla=off,fjall::batch=off,fjall::db=off,fjall::journal=off";

/// Starts logging to standard error.
///
/// A plain level is meant for this program; libraries then log only what goes wrong, and some of them nothing.
pub fn start(log: &Log) {
    let writer = std::io::stderr;
    start_to(log, &log.level, "", std::io::stderr().is_terminal(), writer);
}

/// Starts logging to something else, where the level of the configuration does not fit it. A plain level is followed by
/// `more` directives.
pub fn start_to<W>(log: &Log, level: &str, more: &str, is_coloured: bool, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let is_plain = level.parse::<tracing::Level>().is_ok();
    let directives = if is_plain {
        format!("{LIBRARIES},readstates={level}{more}")
    } else {
        level.to_owned()
    };
    let filter = EnvFilter::try_new(directives)
        .unwrap_or_else(|_| EnvFilter::new(format!("{LIBRARIES},readstates=info")));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false)
        .with_ansi(is_coloured)
        .with_writer(writer);
    // It fails where a test has started logging already.
    let _ = match log.format {
        LogFormat::Text => subscriber.with_target(false).try_init(),
        LogFormat::Json => {
            log_panics();
            // `message` and the fields beside `level` and `timestamp`, where tools look for them.
            let json = subscriber.json().flatten_event(true);
            json.with_current_span(false).with_span_list(false).try_init()
        }
    };
}

/// A panic is a line like any other, so that every line is an object.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(%backtrace, "{panic}");
    }));
}
