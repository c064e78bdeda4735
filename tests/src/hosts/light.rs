//! A pod that is an SSH server inside this process: no sshd, no processes, its commands answered by a script. For tests
//! that need pods by the thousand and are not about what runs on them.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use russh::keys::PrivateKey;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::server::{self, Auth, ChannelOpenHandle, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelMsg};
use srchat_operator::host::boot::{self, HostLine, Nonce};
use srchat_operator::host::{BootId, CONTROLLER_USER};
use srchat_operator::ssh::HostKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Error, Exit, HostSpec, Isolation, Machine};

/// As often as boot repeats its line: a line can be lost.
const REPEAT: Duration = Duration::from_secs(30);

/// What a light pod answers.
#[derive(Clone)]
pub struct Script {
    /// Answers one command: reads its stdin, writes its stdout, returns its exit status.
    pub exec: Arc<dyn Fn(Asked) -> BoxFuture<'static, u32> + Send + Sync>,
    /// Where forwards lead, whatever port is asked for; without it they are refused.
    pub engine: Option<SocketAddr>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

/// A command that was sent to a light pod.
#[derive(Debug)]
pub struct Asked {
    /// The pod.
    pub pod: String,
    /// Who asks.
    pub user: String,
    /// What is to be run.
    pub command: String,
    /// Its stdin to read, its stdout to write.
    pub io: DuplexStream,
}

pub(super) async fn start(script: Script, spec: HostSpec) -> Result<Machine, Error> {
    let failed = |why: String| Error::start(&spec.pod_id, why);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.map_err(|e| failed(format!("no port: {e}")))?;
    let ssh = listener.local_addr().map_err(|e| failed(e.to_string()))?;
    let key = new_key().map_err(|e| failed(format!("no host key: {e}")))?;
    let line = boot_line(&spec, &key).map_err(|e| failed(format!("no boot line: {e}")))?;

    let config = server::Config {
        keys: vec![key],
        auth_rejection_time: Duration::ZERO,
        inactivity_timeout: None,
        nodelay: true,
        ..server::Config::default()
    };
    let pod = Pod {
        id: spec.pod_id.into(),
        controller: spec.env.get("SRCHAT_CONTROLLER_KEY").cloned(),
        script,
        user: String::new(),
    };
    let (says, output) = mpsc::unbounded_channel();
    let (exited, exit) = watch::channel(None);
    let end = CancellationToken::new();
    let ended = end.clone();
    tokio::spawn(async move {
        let serving = serve(listener, Arc::new(config), pod);
        let saying = async {
            loop {
                let _nobody_listens = line.as_ref().map(|line| says.send(line.clone()));
                tokio::time::sleep(REPEAT).await;
            }
        };
        tokio::select! {
            () = ended.cancelled() => {}
            () = serving => {}
            () = saying => {}
        }
        exited.send_replace(Some(Exit::Killed));
    });
    Ok(Machine::of_task(Isolation::Light, ssh, end, output, exit))
}

fn new_key() -> Result<PrivateKey, String> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| e.to_string())?;
    Ok(Ed25519Keypair::from_seed(&seed).into())
}

/// What boot would print on a pod with this environment; nothing when that has no nonce.
fn boot_line(spec: &HostSpec, key: &PrivateKey) -> Result<Option<String>, String> {
    let Some(nonce) = spec.env.get("SRCHAT_NONCE") else {
        return Ok(None);
    };
    let mut boot_id = [0; 16];
    getrandom::fill(&mut boot_id).map_err(|e| e.to_string())?;
    let boot_id: BootId = hex::encode(boot_id)
        .parse()
        .map_err(|_| "boot id".to_owned())?;
    let key: HostKey = public_line(key.public_key())?
        .parse()
        .map_err(|_| "host key".to_owned())?;
    let host = HostLine { boot_id, key };
    Ok(Some(boot::line(
        &Nonce::from_environment(nonce),
        &spec.pod_id,
        &host,
    )))
}

/// `ssh-ed25519 BASE64`, without a comment.
fn public_line(key: &russh::keys::PublicKey) -> Result<String, String> {
    let line = key.to_openssh().map_err(|e| e.to_string())?;
    Ok(line.split(' ').take(2).collect::<Vec<_>>().join(" "))
}

/// Serves until it is dropped, its connections with it.
async fn serve(listener: TcpListener, config: Arc<server::Config>, pod: Pod) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let (config, pod) = (config.clone(), pod.clone());
                    connections.spawn(async move {
                        let _slower = stream.set_nodelay(true);
                        if let Ok(session) = server::run_stream(config, stream, pod).await {
                            let _how_it_ended = session.await;
                        }
                    });
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection's view of the pod.
#[derive(Clone)]
struct Pod {
    id: Arc<str>,
    controller: Option<String>,
    script: Script,
    user: String,
}

impl Handler for Pod {
    type Error = russh::Error;

    /// Root is whoever holds the controller's key; the users that deploy makes are not checked.
    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        let admitted =
            user != CONTROLLER_USER || public_line(key.public_key).ok() == self.controller;
        user.clone_into(&mut self.user);
        Ok(if admitted {
            Auth::Accept
        } else {
            Auth::reject()
        })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        tokio::spawn(run(self.clone(), channel));
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        _command: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_success(channel)
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        _host: &str,
        _port: u32,
        _from: &str,
        _from_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        // Dropping the reply refuses.
        let Some(engine) = self.script.engine else {
            return Ok(());
        };
        let Ok(mut engine) = TcpStream::connect(engine).await else {
            return Ok(());
        };
        reply.accept().await;
        tokio::spawn(async move {
            let _slower = engine.set_nodelay(true);
            let _reset =
                tokio::io::copy_bidirectional(&mut channel.into_stream(), &mut engine).await;
        });
        Ok(())
    }
}

/// One session channel: waits for its command, and carries that command's stdin and stdout.
async fn run(pod: Pod, channel: Channel<Msg>) -> Option<()> {
    let (mut from, to) = channel.split();
    let command = loop {
        if let ChannelMsg::Exec { command, .. } = from.wait().await? {
            break String::from_utf8_lossy(&command).into_owned();
        }
    };
    let (io, theirs) = tokio::io::duplex(64 << 10);
    let (mut stdout, mut stdin) = tokio::io::split(io);
    let asked = Asked {
        pod: pod.id.to_string(),
        user: pod.user.clone(),
        command,
        io: theirs,
    };
    let script = (pod.script.exec)(asked);
    let feed = async {
        while let Some(message) = from.wait().await {
            let fed = match message {
                ChannelMsg::Data { data } => stdin.write_all(&data).await,
                ChannelMsg::Eof => stdin.shutdown().await,
                _ => Ok(()),
            };
            // A command that is over reads no more; what is still sent is dropped.
            let _over = fed;
        }
    };
    let answer = async {
        let mut buffer = vec![0; 32 << 10];
        loop {
            match stdout.read(&mut buffer).await {
                Ok(0) | Err(_) => return Ok(()),
                Ok(length) => to
                    .data_bytes(buffer[..length].to_vec())
                    .await
                    .map_err(io::Error::other)?,
            }
        }
    };
    let done = async {
        let (status, said) = tokio::join!(script, answer);
        said.and(to.exit_status(status).await.map_err(io::Error::other))
            .ok()?;
        to.eof().await.ok()?;
        to.close().await.ok()
    };
    // The channel's end (the client left, or the machine was killed) ends the script.
    tokio::select! {
        () = feed => None,
        done = done => done,
    }
}
