//! A terminal to run a program in: a pseudo-terminal, an emulator that draws what the program writes and answers
//! what programs ask terminals, a keyboard.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pty_process::Size;
use pty_process::blocking::{Pts, Pty};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, tcgetattr};

use crate::eventually::eventually;
use crate::process::without_the_callers_settings;

/// A program answers a key within milliseconds; here it may share two cores with compilers.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines that have left the screen and can still be looked at.
const SCROLLBACK: usize = 1000;
/// So much of what was written is kept as it was.
const RAW: usize = 1 << 20;

/// A program in a terminal of its own. Dropping it ends the program.
pub struct Terminal {
    child: Child,
    pty: Arc<Pty>,
    /// Kept open, so that the terminal's modes can be read when the program has ended.
    _pts: Pts,
    state: Arc<Mutex<State>>,
    /// Draws until the program has ended, or the terminal hangs up.
    drawing: Option<JoinHandle<()>>,
    hung_up: Arc<AtomicBool>,
}

struct State {
    emulator: vt100::Parser,
    raw: Vec<u8>,
    /// The beginning of a question that was not whole.
    question: Vec<u8>,
}

impl Terminal {
    /// Runs a program in a terminal of so many rows and columns.
    ///
    /// # Errors
    /// When there is no pseudo-terminal, or no such program.
    pub fn run(command: &Command, (rows, columns): (u16, u16)) -> io::Result<Self> {
        let (pty, pts) = pty_process::blocking::open().map_err(io::Error::other)?;
        pty.resize(Size::new(rows, columns))
            .map_err(io::Error::other)?;
        let mut clean = Command::new("true");
        without_the_callers_settings(&mut clean);
        let mut inside =
            pty_process::blocking::Command::new(command.get_program()).args(command.get_args());
        for name in [
            "COLORTERM",
            "EDITOR",
            "LANG",
            "LC_ALL",
            "LC_CTYPE",
            "NO_COLOR",
            "TMUX",
            "VISUAL",
        ] {
            inside = inside.env_remove(name);
        }
        inside = inside
            .env("TERM", "xterm-256color")
            .env("LC_ALL", "C.UTF-8");
        for (name, value) in clean.get_envs().chain(command.get_envs()) {
            inside = match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            inside = inside.current_dir(folder);
        }
        let child = inside.spawn_borrowed(&pts).map_err(io::Error::other)?;
        let (pty, state) = (
            Arc::new(pty),
            Arc::new(Mutex::new(State {
                emulator: vt100::Parser::new(rows, columns, SCROLLBACK),
                raw: Vec::new(),
                question: Vec::new(),
            })),
        );
        let (reader, drawn) = (Arc::clone(&pty), Arc::clone(&state));
        let hung_up = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&hung_up);
        let drawing = std::thread::spawn(move || {
            let mut bytes = [0; 8192];
            // Ends with the program, when nobody holds the other side any more.
            while written(&reader, &over) {
                // Read and drawn in one: whoever has the lock and sees nothing to read sees everything drawn.
                let mut state = drawn.lock().unwrap_or_else(PoisonError::into_inner);
                let Ok(read @ 1..) = (&*reader).read(&mut bytes) else {
                    break;
                };
                let answers = state.take(&bytes[..read]);
                drop(state);
                if !answers.is_empty() && (&*reader).write_all(&answers).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            pty,
            _pts: pts,
            state,
            drawing: Some(drawing),
            hung_up,
        })
    }

    /// Closes the terminal under the program, as when its window is closed.
    ///
    /// # Panics
    /// When there is no other terminal to be had in its place.
    pub fn hang_up(&mut self) {
        self.hung_up.store(true, Ordering::Relaxed);
        if let Some(drawing) = self.drawing.take() {
            drawing.join().expect("drawing does not fail");
        }
        // The last one to hold the terminal's own side lets go of it.
        let (pty, pts) = pty_process::blocking::open().expect("there are pseudo-terminals");
        (self.pty, self._pts) = (Arc::new(pty), pts);
    }

    /// Presses keys: text, or the sequences that a keyboard sends.
    ///
    /// # Panics
    /// When nobody can read them any more.
    pub fn press(&self, keys: &str) {
        (&*self.pty)
            .write_all(keys.as_bytes())
            .expect("a terminal takes keys");
    }

    /// Pastes a text, as a terminal does when the program asked for it in brackets.
    pub fn paste(&self, text: &str) {
        self.press(&format!("\x1b[200~{}\x1b[201~", text.replace('\n', "\r")));
    }

    /// What the screen shows, without the empty rows below.
    pub fn screen(&self) -> String {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        tidy(&state.emulator.screen().contents())
    }

    /// The same with everything that has scrolled away.
    pub fn everything(&self) -> String {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let screen = state.emulator.screen_mut();
        screen.set_scrollback(SCROLLBACK);
        let mut text = String::new();
        let (rows, columns) = screen.size();
        while screen.scrollback() > 0 {
            let top = screen.rows(0, columns).next().unwrap_or_default();
            let _ = writeln!(text, "{top}");
            screen.set_scrollback(screen.scrollback() - 1);
        }
        for row in screen.rows(0, columns).take(rows.into()) {
            let _ = writeln!(text, "{row}");
        }
        tidy(&text)
    }

    /// The screen with its styles, as the sequences that would draw it.
    pub fn styled(&self) -> String {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&state.emulator.screen().contents_formatted()).into_owned()
    }

    /// What the program wrote, byte by byte; of very much the end.
    pub fn raw(&self) -> String {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&state.raw).into_owned()
    }

    /// The bytes that the program wrote after the first so many, as long as all of them are kept.
    pub fn written_after(&self, first: usize) -> Vec<u8> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.raw.get(first..).unwrap_or_default().to_vec()
    }

    /// Waits until the screen, with what has scrolled away, contains a text.
    ///
    /// # Panics
    /// When it does not, with what it shows.
    pub async fn shows(&self, text: &str) {
        eventually(
            &format!("the terminal to show {text:?}"),
            PATIENCE,
            || async {
                let all = self.everything();
                if all.contains(text) { Ok(()) } else { Err(all) }
            },
        )
        .await;
    }

    /// Waits until the screen is exactly this.
    ///
    /// # Panics
    /// When it does not become so, with both.
    pub async fn becomes(&self, screen: &str) {
        let look = || async {
            let seen = self.screen();
            if seen == screen {
                Ok(())
            } else {
                Err(format!("\n{seen}\n--- but it should be ---\n{screen}\n---"))
            }
        };
        eventually("the screen to be right", PATIENCE, look).await;
    }

    /// Whether the terminal is as a shell needs it: lines, echo, Ctrl-C as a signal, a visible cursor, no pasting in brackets.
    pub fn is_sane(&self) -> Result<(), String> {
        let modes = tcgetattr(&*self.pty).map_err(|error| error.to_string())?;
        let needed = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let screen = state.emulator.screen();
        match (
            modes.local_modes.contains(needed),
            screen.bracketed_paste(),
            screen.hide_cursor(),
        ) {
            (true, false, false) => Ok(()),
            (modes, paste, hidden) => Err(format!(
                "modes right: {modes}, brackets: {paste}, cursor hidden: {hidden}"
            )),
        }
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // A program that is gone needs no signal.
        let _ = pid.map(|pid| kill_process(pid, signal));
    }

    /// The program's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How the program has ended, if it has.
    ///
    /// # Panics
    /// Never: it is a child of ours.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Waits until the program has ended, and all that it wrote is drawn.
    ///
    /// # Panics
    /// When it does not, with what it shows.
    pub async fn ends(&mut self) -> ExitStatus {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.ended()
                && self.drawn()
            {
                return status;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "it does not end:\n{}",
                self.everything()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether nothing is left to be drawn.
    fn drawn(&self) -> bool {
        let _state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = [PollFd::new(&*self.pty, PollFlags::IN)];
        poll(&mut seen, Some(&Timespec::default())) == Ok(0)
            || !seen[0].revents().contains(PollFlags::IN)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Fails only for a program that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl State {
    /// Draws, and answers as xterm does: where the cursor is, what kind of terminal this is.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.raw.extend_from_slice(bytes);
        let spare = self.raw.len().saturating_sub(RAW);
        self.raw.drain(..spare);
        let mut answers = Vec::new();
        let mut drawn = 0;
        for (at, byte) in bytes.iter().enumerate() {
            match (self.question.is_empty(), byte) {
                (_, 0x1b) => self.question = vec![0x1b],
                (false, byte) => self.question.push(*byte),
                (true, _) => continue,
            }
            match self.question.as_slice() {
                b"\x1b[6n" => {
                    self.emulator.process(&bytes[drawn..=at]);
                    drawn = at + 1;
                    let (row, column) = self.emulator.screen().cursor_position();
                    answers.extend(format!("\x1b[{};{}R", row + 1, column + 1).into_bytes());
                }
                b"\x1b[c" => answers.extend(b"\x1b[?62;22c"),
                [0x1b] | [0x1b, b'['] | [0x1b, b'[', b'6'] => continue,
                _ => {}
            }
            self.question.clear();
        }
        self.emulator.process(&bytes[drawn..]);
        answers
    }
}

/// Waits until there is something to draw; false when there is nobody to draw for.
fn written(pty: &Pty, hung_up: &AtomicBool) -> bool {
    let tick = Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    loop {
        let mut seen = [PollFd::new(pty, PollFlags::IN)];
        let ready = poll(&mut seen, Some(&tick));
        if hung_up.load(Ordering::Relaxed) {
            return false;
        }
        match ready {
            Ok(0) | Err(Errno::INTR) => {}
            // What poll cannot say, reading does.
            Ok(_) | Err(_) => return true,
        }
    }
}

fn tidy(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_end().to_owned()
}
