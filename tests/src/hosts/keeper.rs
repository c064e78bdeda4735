//! The thread that a machine's processes belong to. The kernel ends them when it dies (`setpriv --pdeathsig`), which
//! is why no worker of a runtime may start them: those come and go.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::{mpsc, oneshot};

use super::Exit;

/// A line longer than this is cut: PID 1's log is for people, and one line must not fill the memory.
const LONGEST_LINE: u64 = 64 << 10;

/// A recipe as it runs: what it says on stderr, and the word that lets it go on.
pub(super) struct Recipe {
    stdin: ChildStdin,
    stderr: BufReader<ChildStderr>,
    said: String,
}

impl Recipe {
    /// The process id that it says it has, as seen from here.
    pub(super) fn up(&mut self) -> Result<i32, String> {
        let pid = self.wait_for("up ")?;
        pid.trim()
            .parse()
            .map_err(|_| format!("not a process id: {pid}"))
    }

    /// Lets it go on with this line, and waits until the start command is about to run.
    pub(super) fn go(&mut self, line: &str) -> Result<(), String> {
        let wrote = self.stdin.write_all(format!("{line}\n").as_bytes());
        // Had it ended already, what it said explains more than a broken pipe.
        self.wait_for("ready").and(wrote.map_err(|e| e.to_string()))
    }

    /// Reads on to the line that begins so, and collects what else is said.
    fn wait_for(&mut self, start: &str) -> Result<String, String> {
        loop {
            let mut line = String::new();
            match self.stderr.read_line(&mut line) {
                Ok(0) => return Err(std::mem::take(&mut self.said)),
                Ok(_) => match line.strip_prefix(start) {
                    Some(rest) => return Ok(rest.to_owned()),
                    None => self.said.push_str(&line),
                },
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// What ends a machine from outside: a signal to the one process whose end is the end of all.
#[derive(Debug)]
pub(super) struct End {
    process: OwnedFd,
    signal: Signal,
    asked: AtomicBool,
}

impl End {
    pub(super) fn of(pid: i32, signal: Signal) -> Result<Arc<Self>, String> {
        let pid = Pid::from_raw(pid).ok_or("process 0")?;
        let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| format!("no pidfd: {e}"))?;
        Ok(Arc::new(Self {
            process,
            signal,
            asked: AtomicBool::new(false),
        }))
    }

    pub(super) fn now(&self) {
        self.asked.store(true, Ordering::SeqCst);
        // An error says that the process is gone already, which is what was wanted.
        let _gone = pidfd_send_signal(&self.process, self.signal);
    }

    /// What an exit status means once this is known.
    fn explain(&self, status: std::io::Result<ExitStatus>) -> Exit {
        match status {
            _ if self.asked.load(Ordering::SeqCst) => Exit::Killed,
            Ok(status) => Exit::Code(
                status
                    .code()
                    .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            ),
            Err(_) => Exit::Killed,
        }
    }
}

/// A machine's processes, running.
pub(super) struct Kept<T> {
    pub(super) end: Arc<End>,
    pub(super) output: mpsc::UnboundedReceiver<String>,
    pub(super) exit: oneshot::Receiver<Exit>,
    /// What the preparation made.
    pub(super) made: T,
}

/// Runs the command on a thread of its own. `prepare` meets the recipe while it runs and lets it go on; what is to be
/// left behind is tidied by `after`, when every process is gone.
pub(super) async fn keep<T: Send + 'static>(
    mut command: Command,
    prepare: impl FnOnce(&mut Recipe) -> Result<(Arc<End>, T), String> + Send + 'static,
    after: impl FnOnce() + Send + 'static,
) -> Result<Kept<T>, String> {
    let (started, start) = oneshot::channel();
    let run = move || {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                after();
                let program = command.get_program().display();
                let _nobody_waits = started.send(Err(format!("{program}: {error}")));
                return;
            }
        };
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            unreachable!("all three were asked for as pipes")
        };
        let mut recipe = Recipe {
            stdin,
            stderr: BufReader::new(stderr),
            said: String::new(),
        };
        match prepare(&mut recipe) {
            Ok((end, made)) => {
                let (says, output) = mpsc::unbounded_channel();
                let reader = std::thread::spawn(move || copy_lines(stdout, &says));
                let (exited, exit) = oneshot::channel();
                let kept = Kept {
                    end: end.clone(),
                    output,
                    exit,
                    made,
                };
                if started.send(Ok(kept)).is_err() {
                    end.now();
                }
                let status = child.wait();
                drop(recipe);
                after();
                // The last lines come before the news of the end.
                let _panicked = reader.join();
                let _nobody_waits = exited.send(end.explain(status));
            }
            Err(why) => {
                // Its end is the end of all that it had made so far.
                let _gone = child.kill();
                let _status = child.wait();
                after();
                let _nobody_waits = started.send(Err(why));
            }
        }
    };
    std::thread::Builder::new()
        .name("machine".into())
        .spawn(run)
        .map_err(|e| format!("no thread: {e}"))?;
    start
        .await
        .unwrap_or_else(|_| Err("the machine's thread panicked".to_owned()))
}

fn copy_lines(from: impl std::io::Read, to: &mpsc::UnboundedSender<String>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match std::io::Read::take(&mut from, LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                // Reading goes on when nobody listens, or the machine would stall on a full pipe.
                let _nobody_listens = to.send(text.trim_end_matches(['\n', '\r']).to_owned());
            }
        }
    }
}
