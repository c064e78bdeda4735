//! The processes that the rig starts: their output goes to files, and none of them outlives the rig, however
//! the rig ends.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

/// How much of the end of a log is shown when a process is to be explained.
const TAIL: u64 = 4096;

/// How often the end of a process is looked for while it is being waited for.
const POLL: Duration = Duration::from_millis(10);

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
#[error("could not start {name}")]
pub struct Error {
    /// Which.
    pub name: String,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`, with stdout and stderr in `folder/name.log` and nothing on stdin.
    ///
    /// # Errors
    /// When the log cannot be made or the program not be run.
    pub fn start(name: &str, command: Command, folder: &Path) -> Result<Process, Error> {
        let log = folder.join(format!("{name}.log"));
        let failed = |source| Error {
            name: name.to_owned(),
            source,
        };
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(failed)?;
        let mut bound = bound_to_us(&command);
        bound
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(failed)?)
            .stderr(file);
        let child = spawn(bound).map_err(failed)?;
        Ok(Process {
            name: name.to_owned(),
            child,
            log,
            ended: None,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How much memory it holds, in KiB, as the kernel counts it (`VmRSS`); `None` once it has ended.
    pub fn resident(&self) -> Option<u64> {
        resident(self.pid())
    }

    /// What it was started as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its output is.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// The end of its output.
    pub fn tail(&self) -> String {
        tail(&self.log).unwrap_or_default()
    }

    /// Asks it to end, and kills it when it has not after `grace`. Blocks for that long at most.
    pub fn stop(&mut self, grace: Duration) {
        if self.ended().is_some() {
            return;
        }
        if let Some(pid) = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            // A process that is gone already needs no signal.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + grace;
        while self.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        self.kill();
    }

    /// Kills it, as a crash would, and waits until it is gone.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            // Fails only for a process that is gone already.
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How much memory a process holds, in KiB (`VmRSS`); `None` where there is none.
pub fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The same command, killed by the kernel when we die, in a process group of its own so that a Ctrl-C at the
/// terminal reaches us alone and the parts end in the order that we choose.
fn bound_to_us(command: &Command) -> Command {
    use std::os::unix::process::CommandExt;

    let mut bound = Command::new("setpriv");
    bound
        .args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program())
        .args(command.get_args())
        .process_group(0);
    without_the_callers_settings(&mut bound);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        bound.current_dir(folder);
    }
    bound
}

/// Takes away what the caller's shell says about clusters, accounts and Hubs: the rig has its own.
pub fn without_the_callers_settings(command: &mut Command) {
    for name in [
        "KUBECONFIG",
        "RUNPOD_API_KEY",
        "RUNPOD_API_URL",
        "HF_ENDPOINT",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
    ] {
        command.env_remove(name);
    }
    let ours = std::env::vars_os().map(|(name, _)| name);
    for name in ours.filter(|name| name.to_string_lossy().starts_with("SRCHAT_")) {
        command.env_remove(name);
    }
}

/// Spawns on a thread that lives as long as we do: the kernel's "when the parent dies" means the parent
/// *thread*, and a test's own thread ends with the test.
fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::SyncSender<io::Result<Child>>);
    static NURSERY: OnceLock<mpsc::Sender<Order>> = OnceLock::new();

    let nursery = NURSERY.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                // Nobody waits for the answer only when the caller has panicked; the child is killed then.
                if let Err(mpsc::SendError(Ok(mut child))) = answer.send(command.spawn()) {
                    let _ = child.kill();
                }
            }
        });
        orders
    });
    let (answer, spawned) = mpsc::sync_channel(1);
    nursery
        .send((command, answer))
        .map_err(|_| io::Error::other("the spawning thread is gone"))?;
    spawned
        .recv()
        .map_err(|_| io::Error::other("the spawning thread is gone"))?
}

/// A file or folder that is removed when this is dropped, and also when we are killed: a small watcher waits for
/// our end of a pipe to close.
#[derive(Debug)]
pub struct Vanishing {
    path: PathBuf,
    watcher: Child,
}

/// Waits until its stdin closes, that is, until we have ended in whatever way; then removes what it was given.
/// Tried several times, since processes that were killed a moment ago may still be writing there.
const WATCHER: &str = r#"trap '' INT TERM HUP
cat >/dev/null
for try in 1 2 3 4 5; do rm -rf -- "$1" 2>/dev/null && [ ! -e "$1" ] && exit 0; sleep 1; done"#;

impl Vanishing {
    /// Watches over a path, which need not exist yet.
    ///
    /// # Errors
    /// When the watcher cannot be started.
    pub fn new(path: PathBuf) -> io::Result<Vanishing> {
        use std::os::unix::process::CommandExt;

        let mut command = Command::new("sh");
        command
            .args(["-c", WATCHER, "srchat-watcher"])
            .arg(&path)
            .process_group(0);
        let watcher = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Vanishing { path, watcher })
    }

    /// What is watched.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Vanishing {
    fn drop(&mut self) {
        // Closing the pipe sets the watcher to work; its end says that the path is gone.
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }
}

/// A private folder for one run of something, which vanishes with it.
#[derive(Debug)]
pub struct Workplace(Vanishing);

impl Workplace {
    /// Makes a new folder, readable by its owner only.
    ///
    /// # Errors
    /// When it cannot be made or watched.
    pub fn new(name: &str) -> io::Result<Workplace> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("srchat-{name}-"))
            .tempdir()?;
        let watched = Vanishing::new(folder.path().to_owned())?;
        // From here on the watcher removes it.
        let _ = folder.keep();
        Ok(Workplace(watched))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Says that it has started, and that it was asked to end.
    fn polite(place: &Workplace) -> Process {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "trap 'echo asked; exit 0' TERM; echo started; while :; do sleep 0.05; done",
        ]);
        let mut process = Process::start("polite", command, place.path()).unwrap();
        while !process.tail().contains("started") {
            assert!(process.ended().is_none(), "{}", process.tail());
            std::thread::yield_now();
        }
        process
    }

    #[test]
    fn output_is_kept_and_stopping_is_polite_first() {
        let place = Workplace::new("test").unwrap();
        let mut process = polite(&place);
        process.stop(Duration::from_secs(20));
        assert!(process.tail().contains("asked"));
        assert!(process.ended().unwrap().success());
        assert_eq!(process.resident(), None);
    }

    #[test]
    fn a_process_that_runs_holds_memory() {
        let place = Workplace::new("test").unwrap();
        let process = polite(&place);
        let held = process.resident().unwrap();
        assert!((100..1_000_000).contains(&held), "{held} KiB");
    }

    #[test]
    fn a_process_outlives_the_thread_that_asked_for_it() {
        let place = Workplace::new("test").unwrap();
        let mut process =
            std::thread::scope(|scope| scope.spawn(|| polite(&place)).join().unwrap());
        // Had the kernel's signal been tied to that thread, this would find it killed.
        process.stop(Duration::from_secs(20));
        assert!(process.tail().contains("asked"));
    }

    #[test]
    fn a_workplace_is_gone_when_it_is_dropped() {
        let place = Workplace::new("test").unwrap();
        let path = place.path().to_owned();
        std::fs::write(path.join("file"), "something").unwrap();
        drop(place);
        assert!(!path.exists());
    }
}
