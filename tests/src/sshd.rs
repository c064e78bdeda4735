//! A host that has nothing but an OpenSSH server: what SSH and SFTP are tried and measured against.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use srchat_operator::ssh::{HostKey, KeyPair, Target};

use crate::eventually::eventually;
use crate::hosts::{Error, HostSpec, Hosts, Image, Isolation, Machine};

/// Where there are no users it runs as whoever runs the tests. SFTP is sshd's own, so that no login shell and what it reads comes in
/// between.
const SETUP: &str = r#"
set -eu
root=${SRCHAT_ROOT:-/srchat-test}
mkdir -p "$root" && chmod 755 "$root"
ssh-keygen -q -t ed25519 -N '' -C '' -f "$root/key"
printf '%s\n' "$TEST_KEY" >"$root/authorized"
cat >"$root/config" <<END
ListenAddress ${SRCHAT_SSH_LISTEN:-0.0.0.0:22}
HostKey $root/key
AuthorizedKeysFile $root/authorized
PidFile $root/pid
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowTcpForwarding local
Subsystem sftp internal-sftp
LogLevel $TEST_LOG
END
# sshd wants this folder when it runs as root.
[ "$(id -u)" != 0 ] || mkdir -p /run/sshd
$(command -v sshd || echo /usr/sbin/sshd) -D -e -f "$root/config" &
while [ ! -s "$root/pid" ]; do sleep 0.01; done
echo "AT ${SRCHAT_SSH_LISTEN:-} $(cat "$root/pid")"
echo "HOST $(cut -d' ' -f1,2 "$root/key.pub")"
wait
"#;

/// A machine starts in a fraction of a second; this is for a busy one.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// All that it sees, to be looked for in its log.
    Everything,
    /// What goes wrong: writing a log is not measured then.
    Faults,
}

/// The host. Dropping it ends it.
pub struct Sshd {
    /// How to get in.
    pub target: Target,
    /// The machine.
    pub machine: Machine,
    /// Where no users and networks are separated: sshd's own address, without the relay through this process that every machine has
    /// in front of it, and its process.
    pub bare: Option<(SocketAddr, u32)>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Sshd {
    /// Starts it.
    ///
    /// # Errors
    /// When a machine cannot be made here, or sshd does not start.
    pub async fn start(hosts: Hosts, talk: Talk) -> Result<Self, Error> {
        let failed = |why: String| Error::Start {
            pod: "sshd".to_owned(),
            why,
        };
        let key = KeyPair::generate().map_err(|error| failed(error.to_string()))?;
        let level = match talk {
            Talk::Everything => "DEBUG3",
            Talk::Faults => "ERROR",
        };
        let mut machine = hosts
            .start(HostSpec {
                pod_id: "sshd".to_owned(),
                image: Image::default(),
                argv: ["sh", "-c", SETUP].map(str::to_owned).to_vec(),
                env: [
                    ("TEST_KEY".to_owned(), key.public_line()),
                    ("TEST_LOG".to_owned(), level.to_owned()),
                ]
                .into(),
                reach: Vec::new(),
            })
            .await?;
        let mut said = Vec::new();
        let pin = tokio::time::timeout(PATIENCE, host_key(&mut machine, &mut said)).await;
        let pin = match pin {
            Ok(Some(pin)) => pin,
            Ok(None) | Err(_) => return Err(failed(said.join("\n"))),
        };
        let user = machine.isolation().host_user();
        let target = Target {
            address: machine.ssh_address().to_string(),
            pin,
            user: user.unwrap_or_else(|| "root".to_owned()),
            key,
        };
        let bare = match machine.isolation() {
            Isolation::Process => said.iter().find_map(|line| bare(line)),
            Isolation::Namespace | Isolation::Userns | Isolation::Light | Isolation::None => None,
        };
        let log = Arc::new(Mutex::new(said));
        let (_, closed) = tokio::sync::mpsc::unbounded_channel();
        let mut output = std::mem::replace(&mut machine.output, closed);
        let seen = Arc::clone(&log);
        // Ends with the machine.
        tokio::spawn(async move {
            while let Some(line) = output.recv().await {
                seen.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line);
            }
        });
        Ok(Self {
            target,
            machine,
            bare,
            log,
        })
    }

    /// Whether it has said this.
    ///
    /// # Errors
    /// All that it has said instead.
    pub fn logged(&self, text: &str) -> Result<(), String> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.iter().any(|line| line.contains(text)) {
            Ok(())
        } else {
            Err(log.join("\n"))
        }
    }

    /// Waits until it says this.
    pub async fn logs(&self, text: &str) {
        eventually(text, Duration::from_secs(20), || async {
            self.logged(text)
        })
        .await;
    }
}

/// Its key, as the start command tells it; what else was said before is kept.
async fn host_key(machine: &mut Machine, said: &mut Vec<String>) -> Option<HostKey> {
    loop {
        let line = machine.output.recv().await?;
        match line.strip_prefix("HOST ") {
            Some(key) => return key.parse().ok(),
            None => said.push(line),
        }
    }
}

/// Address and process, from the line that tells them.
fn bare(line: &str) -> Option<(SocketAddr, u32)> {
    let (address, process) = line.strip_prefix("AT ")?.split_once(' ')?;
    Some((address.parse().ok()?, process.parse().ok()?))
}
