//! A running machine, as the simulator and the tests hold it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::keeper::{End, Kept};
use super::network::Inside;
use super::{Exit, Isolation, relay};

/// Loopback answers or refuses at once; a port that drops packets counts as closed.
const PROBE: Duration = Duration::from_secs(2);

/// A running machine. Dropping it ends it too, without waiting until it has ended.
#[derive(Debug)]
pub struct Machine {
    isolation: Isolation,
    ssh: SocketAddr,
    /// PID 1's stdout and stderr, line by line; ends when nothing inside holds them any more.
    pub output: mpsc::UnboundedReceiver<String>,
    exit: watch::Receiver<Option<Exit>>,
    ending: Ending,
    /// Given back when the machine has ended, since it would keep the network namespace alive.
    inside: Arc<Mutex<Option<Inside>>>,
}

#[derive(Debug)]
pub(super) enum Ending {
    /// Processes are ended.
    Processes(Arc<End>),
    /// A task of this process is told.
    Task(CancellationToken),
}

impl Ending {
    fn now(&self) {
        match self {
            Self::Processes(end) => end.now(),
            Self::Task(end) => end.cancel(),
        }
    }
}

impl Machine {
    /// How it is separated.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Where the pod's port 22 is mapped to: a loopback address, stable for the life of this machine. The port accepts
    /// (and closes at once) also while nothing listens inside, as RunPod's mapping does.
    #[must_use]
    pub fn ssh_address(&self) -> SocketAddr {
        self.ssh
    }

    /// Waits until PID 1 has ended and all of the machine with it, and says how.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        // A sender that is gone without a word was ended together with its runtime.
        let seen = exit
            .wait_for(Option::is_some)
            .await
            .map_or(None, |seen| *seen);
        seen.unwrap_or(Exit::Killed)
    }

    /// Ends the machine: when this returns, no process, mount, namespace or folder of it is left.
    pub async fn kill(&self) {
        self.ending.now();
        self.wait().await;
    }

    /// Whether a port on which something listens inside can be reached from outside past SSH. `None` where asking says
    /// nothing: nothing listens there inside, or loopback is shared, so that the port could not be closed.
    pub async fn port_reachable(&self, port: u16) -> Option<bool> {
        let inside = self
            .inside
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()?;
        if matches!(inside, Inside::Here { .. }) {
            return None;
        }
        let answers = tokio::task::spawn_blocking(move || inside.connect(port).is_ok()).await;
        if !answers.unwrap_or(false) {
            return None;
        }
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), self.ssh.ip()] {
            let probe = TcpStream::connect(SocketAddr::new(address, port));
            if matches!(tokio::time::timeout(PROBE, probe).await, Ok(Ok(_))) {
                return Some(true);
            }
        }
        Some(false)
    }

    /// One in which nothing of the system's runs.
    pub(super) fn of_task(
        isolation: Isolation,
        ssh: SocketAddr,
        end: CancellationToken,
        output: mpsc::UnboundedReceiver<String>,
        exit: watch::Receiver<Option<Exit>>,
    ) -> Self {
        let inside = Arc::new(Mutex::new(None));
        Self {
            isolation,
            ssh,
            output,
            exit,
            ending: Ending::Task(end),
            inside,
        }
    }

    /// Around processes that run: opens the way to their sshd, and the listed ways out.
    pub(super) async fn around(
        isolation: Isolation,
        kept: Kept<Inside>,
        ways_out: Vec<(SocketAddr, TcpListener)>,
    ) -> io::Result<Self> {
        let Kept {
            end,
            output,
            exit: ended,
            made: inside,
        } = kept;
        let mut relays = JoinSet::new();
        let open = async {
            for (address, listener) in ways_out {
                relay::outward(&mut relays, listener, address)?;
            }
            relay::inward(&mut relays, inside.clone()).await
        };
        let ssh = open.await.inspect_err(|_| end.now())?;
        let inside = Arc::new(Mutex::new(Some(inside)));
        let given_back = inside.clone();
        let (exited, exit) = watch::channel(None);
        tokio::spawn(async move {
            let how = ended.await.unwrap_or(Exit::Killed);
            relays.shutdown().await;
            given_back
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            exited.send_replace(Some(how));
        });
        Ok(Self {
            isolation,
            ssh,
            output,
            exit,
            ending: Ending::Processes(end),
            inside,
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.ending.now();
    }
}
