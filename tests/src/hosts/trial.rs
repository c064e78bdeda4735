//! Trying a way of making machines: the whole recipe once, sshd and a change of user included.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::{Error, HostSpec, Hosts, Image, Isolation, Machine};

/// A start command with a real sshd in it, for `sh -c`: prints `HOST TYPE KEY`, admits the public key in the variable
/// `TRIAL_KEY` (as root, or as whoever runs a machine of one user), and becomes sshd, whose log is the machine's.
pub const SSHD: &str = include_str!("sshd.sh");

/// A machine takes a fraction of a second; this is for a busy one, and for a recipe that hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts one machine, sees a user changed and sshd answering, and ends it.
pub(super) async fn of(hosts: &Hosts) -> Result<(), Error> {
    let tried = tokio::time::timeout(PATIENCE, one(hosts)).await;
    tried.unwrap_or_else(|_| Err(Error::start(POD, format!("nothing after {PATIENCE:?}"))))
}

const POD: &str = "trial";

async fn one(hosts: &Hosts) -> Result<(), Error> {
    let spec = HostSpec {
        pod_id: POD.to_owned(),
        image: Image::default(),
        argv: ["sh", "-c", SSHD].map(str::to_owned).to_vec(),
        env: BTreeMap::from([("TRIAL_KEY".to_owned(), String::new())]),
        reach: Vec::new(),
    };
    let mut machine = hosts.start(spec).await?;
    let seen = answers(&mut machine).await;
    machine.kill().await;
    seen
}

async fn answers(machine: &mut Machine) -> Result<(), Error> {
    let mut said = String::new();
    loop {
        let Some(line) = machine.output.recv().await else {
            return Err(Error::start(POD, said));
        };
        if line.starts_with("Server listening") {
            break;
        }
        said = said + &line + "\n";
    }
    let banner = async {
        let mut banner = [0; 8];
        TcpStream::connect(machine.ssh_address())
            .await?
            .read_exact(&mut banner)
            .await?;
        Ok::<_, io::Error>(banner)
    };
    match banner.await {
        Ok(banner) if &banner == b"SSH-2.0-" => Ok(()),
        Ok(_) => Err(Error::start(
            POD,
            "something else than sshd answers".to_owned(),
        )),
        Err(error) => Err(Error::start(
            POD,
            format!("its sshd does not answer: {error}"),
        )),
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
