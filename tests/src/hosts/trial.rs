//! Trying a way of making machines: the whole recipe once, sshd and a change of user included.

use std::collections::BTreeMap;
use std::time::Duration;

use srchat_operator::host::CONTROLLER_USER;
use srchat_operator::ssh::{self, Bounds, KeyPair, Target};

use super::{Error, HostSpec, Hosts, Image, Isolation, Machine};

/// A start command with a real sshd in it, for `sh -c`: prints `HOST TYPE KEY`, admits the public key in the variable
/// `TRIAL_KEY` (as root, or as whoever runs a machine of one user), and becomes sshd, whose log is the machine's.
pub const SSHD: &str = include_str!("sshd.sh");

/// A machine takes a fraction of a second; this is for a busy one, and for a recipe that hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts one machine, sees a user changed where there are users, logs in and runs a command, and ends it.
pub(super) async fn of(hosts: &Hosts) -> Result<(), Error> {
    let tried = tokio::time::timeout(PATIENCE, one(hosts)).await;
    tried.unwrap_or_else(|_| Err(Error::start(POD, format!("nothing after {PATIENCE:?}"))))
}

const POD: &str = "trial";

async fn one(hosts: &Hosts) -> Result<(), Error> {
    let key = KeyPair::generate().map_err(|e| Error::start(POD, e.to_string()))?;
    let spec = HostSpec {
        pod_id: POD.to_owned(),
        image: Image::default(),
        argv: ["sh", "-c", SSHD].map(str::to_owned).to_vec(),
        env: BTreeMap::from([("TRIAL_KEY".to_owned(), key.public_line())]),
        reach: Vec::new(),
    };
    let mut machine = hosts.start(spec).await?;
    let seen = log_in(&mut machine, key)
        .await
        .map_err(|why| Error::start(POD, why));
    machine.kill().await;
    seen
}

async fn log_in(machine: &mut Machine, key: KeyPair) -> Result<(), String> {
    let mut said = String::new();
    let mut pin = None;
    loop {
        let Some(line) = machine.output.recv().await else {
            return Err(said);
        };
        match line.strip_prefix("HOST ") {
            Some(key) => pin = key.trim().parse().ok(),
            None if line.starts_with("Server listening") => break,
            None => said = said + &line + "\n",
        }
    }
    let target = Target {
        address: machine.ssh_address().to_string(),
        pin: pin.ok_or("no host key was said")?,
        user: machine
            .isolation()
            .host_user()
            .unwrap_or_else(|| CONTROLLER_USER.to_owned()),
        key,
    };
    let connection = ssh::connect(&target)
        .await
        .map_err(|e| format!("no login over SSH: {e}"))?;
    let answer = connection.exec("echo in", b"", &Bounds::SHORT).await;
    connection.close().await;
    match answer {
        Ok(answer) if answer.stdout == b"in\n" => Ok(()),
        Ok(answer) => Err(format!(
            "a login shell that runs nothing: {}",
            String::from_utf8_lossy(&answer.stdout)
        )),
        Err(error) => Err(format!("no command over SSH: {error}")),
    }
}

impl Isolation {
    /// The only name under which sshd admits anybody, where users are not separated; `None` where root and the users
    /// that boot makes each have theirs.
    #[must_use]
    pub fn host_user(self) -> Option<String> {
        match self {
            Self::Namespace | Self::Userns | Self::Light | Self::None => None,
            Self::Process => Some(own_name()),
        }
    }
}

/// The name of the user who runs this, as the system's user database has it.
fn own_name() -> String {
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let listed = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    // A user that comes from elsewhere (LDAP, say) is in nobody's file.
    listed.or_else(|| std::env::var("USER").ok()).unwrap_or(uid)
}
