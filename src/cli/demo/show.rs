//! Shows what happens: on a terminal as a screen, elsewhere as lines.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;

use super::asking::Asked;
use super::figures::{Figures, Watch};
use super::happenings::Happenings;
use super::kept_log::KeptLog;
use super::screen::{self, View};
use super::terminal::{Pressed, Terminal};
use super::view::{self, Facts, News};
use crate::cli::Failed;
use crate::config::Config;
use crate::shard::Shards;

/// How often the screen is drawn anew.
const DRAW_INTERVAL: Duration = Duration::from_millis(250);
/// How often a line is printed where there is no terminal, and how soon the first one.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
const FIRST_LINE: Duration = Duration::from_millis(1500);

/// Shows it.
pub struct Show {
    facts: Facts,
    watch: Watch,
    news: News,
    log: KeptLog,
    terminal: Option<(Terminal, UnboundedReceiver<Pressed>)>,
    last_line: Option<Instant>,
}

impl Show {
    /// Takes the terminal over, where there is one.
    pub fn new(config: &Config, facts: Facts, happenings: Arc<Happenings>, log: KeptLog) -> Self {
        let terminal = if io::stdout().is_terminal() {
            Terminal::take().ok()
        } else {
            None
        };
        if terminal.is_some() && io::stderr().is_terminal() {
            log.hold();
        }
        Show {
            watch: Watch::new(config),
            news: News::new(happenings, facts.whom.clone()),
            facts,
            log,
            terminal,
            last_line: None,
        }
    }

    /// Shows it until someone wants it to end, or nobody is there any more.
    ///
    /// # Errors
    /// Where standard output can't be written.
    pub async fn run(&mut self, shards: &Shards, asked: &Asked) -> Result<(), Failed> {
        let written = self.show(shards, asked).await;
        match written {
            // Whoever read that has seen enough, or has closed the terminal.
            Err(error) if error.kind() != ErrorKind::BrokenPipe && error.raw_os_error() != Some(EIO) => {
                Err(Failed::Broken(format!("can't write to standard output: {error}")))
            }
            _ => Ok(()),
        }
    }

    async fn show(&mut self, shards: &Shards, asked: &Asked) -> io::Result<()> {
        if self.terminal.is_none() {
            print(&view::introduction(&self.facts))?;
        }
        let mut ticks = tokio::time::interval(DRAW_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let pressed = tokio::select! {
                _ = ticks.tick() => None,
                Some(pressed) = pressed(&mut self.terminal) => Some(pressed),
            };
            if pressed == Some(Pressed::Quit) {
                return Ok(());
            }
            let figures = self.watch.look(&shards.report().await, asked.answers());
            self.news.go_on();
            self.draw(&figures, pressed == Some(Pressed::Redraw))?;
        }
    }

    fn draw(&mut self, figures: &Figures, is_anew: bool) -> io::Result<()> {
        let Some((terminal, _)) = &mut self.terminal else {
            return self.print_line(figures);
        };
        if is_anew {
            terminal.redraw()?;
        }
        let (everyone, warning) = (self.news.everyone(), self.log.last());
        let next = self.facts.is_own_chat.then(|| self.news.next_everyone_s());
        let happenings = self.news.shown.make_contiguous();
        let view = View {
            facts: &self.facts,
            figures,
            happenings,
            everyone: everyone.as_deref(),
            next_everyone_s: next,
            warning: warning.as_deref(),
        };
        terminal.inner.draw(|frame| screen::draw(frame, &view))?;
        Ok(())
    }

    fn print_line(&mut self, figures: &Figures) -> io::Result<()> {
        let is_due = match self.last_line {
            None => figures.running >= FIRST_LINE,
            Some(at) => at.elapsed() >= LINE_INTERVAL,
        };
        if is_due {
            self.last_line = Some(Instant::now());
            print(&view::line(figures))?;
        }
        Ok(())
    }

    /// Gives the terminal back.
    pub fn end(&mut self) {
        self.terminal = None;
        self.log.release();
    }
}

/// Linux's code for a terminal that is gone.
const EIO: i32 = 5;

async fn pressed(terminal: &mut Option<(Terminal, UnboundedReceiver<Pressed>)>) -> Option<Pressed> {
    match terminal {
        Some((_, presses)) => match presses.recv().await {
            Some(pressed) => Some(pressed),
            // There are no keys any more: it ends by a signal.
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}
