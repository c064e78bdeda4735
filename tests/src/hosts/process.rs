//! A machine for whoever may make no namespaces: processes kept together by a supervisor, folders of their own, and an
//! unprivileged sshd on a loopback port. What cannot be separated here is never claimed to be.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::process::Signal;

use super::keeper::{self, End};
use super::network::Inside;
use super::{Error, HostSpec, Isolation, Machine};

const SUPERVISOR: &str = include_str!("process.py");

/// Below what the kernel hands out by itself (32768 and up), so that no client's port takes sshd's.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

pub(super) async fn start(spec: HostSpec) -> Result<Machine, Error> {
    let failed = |why: String| Error::start(&spec.pod_id, why);
    let folders = Folders::make().map_err(|e| failed(format!("no private folder: {e}")))?;
    let port = free_port().ok_or_else(|| failed("no free port for sshd".to_owned()))?;
    let wish = wish(&spec, &folders, port).to_string();

    make_sshds_folder();
    let mut command = Command::new(python());
    command
        .args(["-I", "-S", "-c", SUPERVISOR])
        .current_dir("/");
    let prepare = move |recipe: &mut keeper::Recipe| {
        let end = End::of(recipe.up()?, Signal::TERM)?;
        recipe.go(&wish)?;
        Ok((end, Inside::Here { sshd: port }))
    };
    let kept = keeper::keep(command, prepare, move || drop(folders))
        .await
        .map_err(failed)?;
    Machine::around(Isolation::Process, kept, Vec::new())
        .await
        .map_err(|e| failed(e.to_string()))
}

/// The system's own Python where there is one: what stands first on a PATH may be a shim that takes half a second.
pub(super) fn python() -> &'static str {
    const SYSTEM: &str = "/usr/bin/python3";
    if Path::new(SYSTEM).exists() {
        SYSTEM
    } else {
        "python3"
    }
}

/// An sshd that root runs insists on this folder, which a system makes when it starts; a container has not started one.
/// It stays: other machines of other processes may be using it.
fn make_sshds_folder() {
    if rustix::process::geteuid().is_root() {
        // It is usually there, and where it cannot be made the trial says what sshd says.
        let _there = DirBuilder::new().mode(0o755).create("/run/sshd");
    }
}

/// What the supervisor is to run, and what to take away afterwards should nobody else be left to do it.
fn wish(spec: &HostSpec, folders: &Folders, port: u16) -> serde_json::Value {
    let disk = |name: &str| folders.disk.path.join(name).display().to_string();
    let mut env = super::namespace::environment(spec, "");
    env.insert("HOME".to_owned(), disk("home"));
    env.insert("TMPDIR".to_owned(), disk("tmp"));
    env.insert("SRCHAT_ROOT".to_owned(), disk("srchat"));
    env.insert(
        "SRCHAT_MEMORY".to_owned(),
        folders.memory.path.join("srchat").display().to_string(),
    );
    env.insert(
        "SRCHAT_SSH_LISTEN".to_owned(),
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string(),
    );
    env.insert("SRCHAT_ONE_USER".to_owned(), "1".to_owned());
    serde_json::json!({
        "argv": spec.argv,
        "env": env,
        "folders": [folders.disk.path, folders.memory.path],
    })
}

/// A machine's folders, on disk and in memory.
struct Folders {
    disk: Folder,
    memory: Folder,
}

impl Folders {
    fn make() -> io::Result<Self> {
        let memory = Path::new("/dev/shm");
        let disk = Folder::make(&std::env::temp_dir())?;
        let memory = Folder::make(if memory.is_dir() { memory } else { &disk.path })?;
        for name in ["home", "tmp"] {
            DirBuilder::new().mode(0o700).create(disk.path.join(name))?;
        }
        Ok(Self { disk, memory })
    }
}

/// A folder of our own, locked while we live: an unlocked one was left behind by somebody who was killed, and may go.
struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    fn make(below: &Path) -> io::Result<Self> {
        let all = below.join(format!(
            "srchat-pods-{}",
            rustix::process::getuid().as_raw()
        ));
        let _nobody_else_makes_or_removes = lock_all(&all)?;
        for left in fs::read_dir(&all)?.flatten() {
            if File::open(left.path()).is_ok_and(|folder| folder.try_lock().is_ok()) {
                fs::remove_dir_all(left.path())?;
            }
        }
        let path = tempfile::Builder::new()
            .prefix("pod-")
            .tempdir_in(&all)?
            .keep();
        let lock = File::open(&path)?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }
}

/// Makes the folder that holds them all where it is missing, and locks it.
fn lock_all(all: &Path) -> io::Result<File> {
    loop {
        match DirBuilder::new().mode(0o700).create(all) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let Ok(folder) = File::open(all) else {
            continue;
        };
        folder.lock()?;
        // The last one to leave may have removed it while we waited for the lock.
        if fs::metadata(all)
            .is_ok_and(|now| folder.metadata().is_ok_and(|ours| now.ino() == ours.ino()))
        {
            return Ok(folder);
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Usually the supervisor was here first.
        let _gone = fs::remove_dir_all(&self.path);
        let Some(all) = self.path.parent() else {
            return;
        };
        if let Ok(_lock) = lock_all(all) {
            // Fails while others have folders in it.
            let _others = fs::remove_dir(all);
        }
    }
}

/// A port that is free now. Processes look from different places, so that two seldom find the same one.
fn free_port() -> Option<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let width = PORTS.end - PORTS.start;
    let from = (std::process::id().wrapping_mul(61) % u32::from(width)) as u16;
    (0..width)
        .map(|_| PORTS.start + (from + NEXT.fetch_add(1, Ordering::Relaxed) % width) % width)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
}
