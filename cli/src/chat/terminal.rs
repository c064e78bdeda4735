//! The terminal's modes: what they were is remembered, and put back however the chat ends.

use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, OnceLock};

static BEFORE: OnceLock<Termios> = OnceLock::new();
/// The line editor has put the terminal into modes of its own.
static EDITING: AtomicBool = AtomicBool::new(false);

/// While it lives, the terminal is ours; when it goes, the terminal is as it was.
pub struct Sane(());

impl Sane {
    /// Remembers the terminal's modes. A panic restores them before it says what happened.
    pub fn keep() -> Self {
        static HOOK: Once = Once::new();
        if let Ok(modes) = tcgetattr(io::stdin()) {
            let _ = BEFORE.set(modes);
        }
        HOOK.call_once(|| {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                usual(panic);
            }));
        });
        Self(())
    }
}

impl Drop for Sane {
    fn drop(&mut self) {
        restore();
    }
}

/// Between two readers of keys, the line editor and the watch over an answer, nothing that is typed may be echoed, and Enter may
/// not become Ctrl-J: these modes are what each of them goes back to, until [`restore`]. Without a terminal nothing is done.
pub fn hush() {
    if let Ok(modes) = tcgetattr(io::stdin()) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &unechoed(modes));
    }
}

/// The terminal as it was before the chat, for another program to run in; ours again afterwards.
pub fn lend<T>(to: impl FnOnce() -> T) -> T {
    if let Some(modes) = BEFORE.get() {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, modes);
    }
    let done = to();
    hush();
    done
}

/// Keys one by one and without echo; Ctrl-C is still a signal, and lines still end as usual.
fn unechoed(mut modes: Termios) -> Termios {
    modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN;
    // What was typed before a Ctrl-C stays.
    modes.local_modes |= LocalModes::NOFLSH;
    modes.input_modes -= InputModes::ICRNL;
    modes.special_codes[SpecialCodeIndex::VMIN] = 1;
    modes.special_codes[SpecialCodeIndex::VTIME] = 0;
    // Suspended in the middle of an answer, the shell would inherit these modes.
    modes.special_codes[SpecialCodeIndex::VSUSP] = 0;
    modes
}

/// Puts the terminal back as it was before the chat. What fails has no terminal any more.
pub fn restore() {
    let Some(modes) = BEFORE.get() else { return };
    // What the reader of keys would go back to is not what was before the chat: it shall not do so later.
    let _ = crossterm::terminal::disable_raw_mode();
    let _ = tcsetattr(io::stdin(), OptionalActions::Now, modes);
    if EDITING.swap(false, Ordering::SeqCst) && io::stdout().is_terminal() {
        // No bracketed paste, no kitty keyboard, plain style, a visible cursor, on a line of its own.
        let _ = io::stdout().write_all(b"\x1b[?2004l\x1b[<u\x1b[0m\x1b[?25h\r\n");
        let _ = io::stdout().flush();
    }
}

/// Marks the time in which the line editor has the terminal.
pub fn editing(is: bool) {
    EDITING.store(is, Ordering::SeqCst);
}

/// While it lives, keys arrive one by one and are not echoed; Ctrl-C is still a signal, and lines still end as usual.
pub struct Quiet(());

impl Quiet {
    /// Changes the modes.
    ///
    /// # Errors
    /// When stdin is no terminal.
    pub fn begin() -> io::Result<Self> {
        let modes = unechoed(tcgetattr(io::stdin())?);
        // Tells the reader of keys that Enter and Ctrl-J differ; the modes it sets are replaced at once.
        crossterm::terminal::enable_raw_mode()?;
        tcsetattr(io::stdin(), OptionalActions::Now, &modes)?;
        editing(true);
        let _ = io::stdout()
            .write_all(b"\x1b[?2004h")
            .and_then(|()| io::stdout().flush());
        Ok(Self(()))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = crossterm::terminal::disable_raw_mode();
        let _ = io::stdout()
            .write_all(b"\x1b[?2004l")
            .and_then(|()| io::stdout().flush());
        editing(false);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Read as _;
    use std::process::Stdio;

    /// Set for the child, which is this very test again.
    const INSIDE: &str = "SRCHAT_TEST_PANICS_IN_A_TERMINAL";
    const NAME: &str =
        "chat::terminal::tests::a_panic_leaves_the_terminal_as_it_was_and_then_speaks";

    #[test]
    fn a_panic_leaves_the_terminal_as_it_was_and_then_speaks() {
        if std::env::var_os(INSIDE).is_some() {
            let _sane = Sane::keep();
            hush();
            let _quiet = Quiet::begin().unwrap();
            // A thread of the runtime: nothing unwinds that could put the terminal back.
            let _ = std::thread::spawn(|| panic!("something is wrong")).join();
            std::process::exit(0);
        }
        let (mut pty, pts) = pty_process::blocking::open().unwrap();
        let before = tcgetattr(&pty).unwrap();
        let mut child = pty_process::blocking::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(INSIDE, "1")
            .stderr(Stdio::piped())
            .spawn_borrowed(&pts)
            .unwrap();
        let mut complaint = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut complaint)
            .unwrap();
        assert!(child.wait().unwrap().success(), "{complaint}");
        assert!(complaint.contains("something is wrong"), "{complaint}");
        let after = tcgetattr(&pty).unwrap();
        assert_eq!(
            (after.local_modes, after.input_modes),
            (before.local_modes, before.input_modes)
        );
        let mut written = vec![0; 4096];
        let read = pty.read(&mut written).unwrap();
        let written = String::from_utf8_lossy(&written[..read]).into_owned();
        let (began, ended) = (written.find("\x1b[?2004h"), written.rfind("\x1b[?2004l"));
        assert!(
            began.is_some() && began < ended && written.contains("\x1b[?25h"),
            "{written:?}"
        );
    }
}
