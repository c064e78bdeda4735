//! Where a node can be: PID, mount and network namespaces of its own, from whose network nothing leads out. A test program that
//! wants a node runs itself again in there; however that run ends, the kernel ends everything that it has started with it.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use crate::process::Workplace;
use crate::requirements;
use crate::tools;

/// The node's address, at which the API server is as well. It is on a bridge of a network namespace of ours.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 1);
/// By this address pods reach what listens on loopback, where the rig's world is (`loopback.py`).
pub const LOOPBACK: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 2);

const RECIPE: &str = include_str!("confined.sh");
/// Tells the inner run where its folder is.
const FOLDER: &str = "SRCHAT_CONFINED";
/// What the names of our control groups begin with; what follows is a process id.
const GROUP: &str = "srchat-node-";
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// What a node needs of the kernel besides: each is tried.
const TRIAL: &str = r#"set -eu
ip link add veth-a type veth peer name veth-b
mkdir "$1/lower" "$1/upper" "$1/work" "$1/merged"
mount -t overlay -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" overlay "$1/merged""#;

/// The place that this run has to itself.
#[derive(Clone, Debug)]
pub struct Confined {
    /// The control group below which its containers are, as the kubelet names it.
    pub group: String,
}

/// The place, for a run that is inside.
#[must_use]
pub fn inside() -> Option<Confined> {
    let folder = PathBuf::from(std::env::var_os(FOLDER)?);
    let group = fs::read_to_string(folder.join("group")).ok()?;
    Some(Confined { group })
}

/// Why there can be no node on this machine, after what can be installed was.
///
/// # Errors
/// The reason, in a sentence.
pub fn possible() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("a node needs root".to_owned());
    }
    requirements::check_for_node().map_err(|missing| missing.to_string())?;
    let refused = |error: io::Error| format!("a node cannot be had here: {error}");
    let place = Place::new().map_err(refused)?;
    place.make_groups().map_err(refused)?;
    let mut trial = place.command(Path::new("sh"));
    trial.args(["-c", TRIAL, "sh"]).arg(place.folder());
    let tried = tools::run(&mut trial);
    place.nothing_is_left().map_err(refused)?;
    tried
        .map(drop)
        .map_err(|error| format!("a node cannot be had here: {error}"))
}

/// Runs this program again, inside, with the same arguments, and leaves nothing behind.
///
/// # Errors
/// When it cannot be run, or something of it is left.
pub fn again() -> io::Result<ExitCode> {
    let place = Place::new()?;
    place.make_groups()?;
    let mut command = place.command(&std::env::current_exe()?);
    let status = command.args(std::env::args_os().skip(1)).status()?;
    place.nothing_is_left()?;
    Ok(code(status))
}

fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// The folder and the control groups, seen from outside.
struct Place {
    folder: Workplace,
    group: String,
}

impl Place {
    fn new() -> io::Result<Self> {
        forget_the_dead();
        let folder = Workplace::new("node")?;
        let group = format!("{GROUP}{}", std::process::id());
        fs::write(folder.path().join("group"), &group)?;
        Ok(Self { folder, group })
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A program, run inside.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "unshare"])
            .args(["--mount", "--net", "--pid", "--fork", "--mount-proc"])
            .args(["--kill-child=SIGKILL", "sh", "-c", RECIPE, "sh"])
            .arg(self.folder())
            .args([ADDRESS.to_string(), LOOPBACK.to_string()])
            .arg(program)
            .env(FOLDER, self.folder())
            .env("TMPDIR", self.folder());
        command
    }

    fn make_groups(&self) -> io::Result<()> {
        for hierarchy in hierarchies() {
            fs::create_dir(hierarchy.join(&self.group))?;
        }
        Ok(())
    }

    /// Every process inside is gone when its PID 1 is, and so is every mount and network.
    fn nothing_is_left(self) -> io::Result<()> {
        let Self { folder, group } = self;
        remove_groups(&group)?;
        let path = folder.path().to_owned();
        drop(folder);
        if path.exists() {
            let what = format!("{} is left of the node", path.display());
            return Err(io::Error::other(what));
        }
        Ok(())
    }
}

/// The hierarchies of control groups: one with version 2, one for each controller with version 1.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from(CONTROL_GROUPS);
    if root.join("cgroup.controllers").is_file() {
        return vec![root];
    }
    let entries = fs::read_dir(&root).into_iter().flatten().flatten();
    let folders = entries
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").is_file());
    folders.collect()
}

/// Removes a group and all below it, in which no process is any more.
fn remove_groups(group: &str) -> io::Result<()> {
    for hierarchy in hierarchies() {
        remove(&hierarchy.join(group))?;
    }
    Ok(())
}

fn remove(group: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// The groups of runs that were killed before they could remove them.
fn forget_the_dead() {
    for hierarchy in hierarchies() {
        for entry in fs::read_dir(hierarchy).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let dead = name
                .strip_prefix(GROUP)
                .is_some_and(|pid| !Path::new("/proc").join(pid).exists());
            if dead {
                // Somebody else may be about to.
                let _ = remove(&entry.path());
            }
        }
    }
}
