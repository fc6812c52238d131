//! The terminal, taken over for the screen and given back as it was.

use std::io::{self, Stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use tokio::sync::mpsc;

/// How long the thread that waits for keys takes to notice that it is over.
const TURN: Duration = Duration::from_millis(100);

/// What someone at the terminal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressed {
    /// To end it.
    Quit,
    /// The terminal has another size, or someone wants to see it anew.
    Redraw,
}

/// A terminal that shows the screen. Given back when it is dropped.
pub struct Terminal {
    /// What is drawn on.
    pub inner: ratatui::Terminal<CrosstermBackend<Stdout>>,
    is_over: Arc<AtomicBool>,
}

impl Terminal {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// If it is none.
    pub fn take() -> io::Result<(Self, mpsc::UnboundedReceiver<Pressed>)> {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut output = io::stdout();
        let inner = ratatui::Terminal::new(CrosstermBackend::new(io::stdout()))?;
        let terminal = Terminal {
            inner,
            is_over: is_over.clone(),
        };
        // Without keys (standard input is something else, and there is no terminal to this process) it ends by signals.
        let has_keys = enable_raw_mode().is_ok();
        execute!(output, EnterAlternateScreen)?;
        let mut terminal = terminal;
        terminal.inner.hide_cursor()?;
        terminal.redraw()?;
        let (pressed, presses) = mpsc::unbounded_channel();
        if has_keys {
            thread::spawn(move || wait_for_keys(&pressed, &is_over));
        }
        Ok((terminal, presses))
    }

    /// Clears it, so that everything is drawn anew. ratatui's own `clear` would ask the terminal where the cursor is, which
    /// some don't answer, and whose answer the thread that waits for keys would take.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub fn redraw(&mut self) -> io::Result<()> {
        let size = self.inner.size()?;
        self.inner.resize(size.into())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // The terminal may be gone.
        let _ = self.inner.show_cursor();
        let _ = execute!(io::stdout(), LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

/// Unbounded, since a person presses keys, and each is taken at once.
fn wait_for_keys(pressed: &mpsc::UnboundedSender<Pressed>, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let means = match event::poll(TURN) {
            Ok(true) => event::read().map(|event| meaning(&event)),
            Ok(false) => continue,
            Err(error) => Err(error),
        };
        match means {
            Ok(None) => {}
            Ok(Some(means)) => {
                if pressed.send(means).is_err() {
                    return;
                }
            }
            // The terminal is gone; SIGHUP says so as well.
            Err(_) => return,
        }
    }
}

fn meaning(event: &Event) -> Option<Pressed> {
    match event {
        Event::Resize(..) => Some(Pressed::Redraw),
        Event::Key(KeyEvent {
            kind: KeyEventKind::Release,
            ..
        }) => None,
        Event::Key(key) => match key.code {
            KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Pressed::Quit),
            KeyCode::Char('l') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Pressed::Redraw),
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => Some(Pressed::Quit),
            _ => None,
        },
        _ => None,
    }
}
