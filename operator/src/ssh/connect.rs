//! One connection to one pinned host. Nothing of ours is sent before the host has proved the pinned key.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use russh::client::{self, Handle, Msg};
use russh::keys::{Algorithm, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, Disconnect, Preferred, cipher, compression, kex, mac};
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, watch};
use tokio::time::timeout;

use super::channel::{self, Stream};
use super::{HostKey, KeyPair};

/// A TCP connection across the world takes a few round trips; what takes longer is dead or filtered.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Banner, key exchange and authentication: 33 ms on loopback, about six round trips elsewhere; a busy host may take seconds.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// Opening a channel is one round trip behind what is already on the way.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// Long enough to say goodbye on a live connection; a dead one is dropped.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where a host is, what it must prove, and who we are there.
#[derive(Debug, Clone)]
pub struct Target {
    /// `host:port`. It may change while the pin stays.
    pub address: String,
    /// The only host key that is accepted.
    pub pin: HostKey,
    /// The user to log in as.
    pub user: String,
    /// The key to log in with.
    pub key: KeyPair,
}

/// What a connection is for; it decides how much may be on the way at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Bytes that a host may send on one channel before it must wait.
    pub window: u32,
    /// Bytes in one direction after which keys are renewed. RFC 4253 says a gigabyte; tests say less.
    pub rekey_after: usize,
}

impl Tuning {
    /// For commands and token streams.
    pub const INTERACTIVE: Self = Self {
        window: 2 * 1024 * 1024,
        rekey_after: 1 << 30,
    };
    /// For files: 32 MiB on the way make a download over 100 ms four times as fast.
    pub const BULK: Self = Self {
        window: 32 * 1024 * 1024,
        rekey_after: 1 << 30,
    };
}

/// Why a host could not be talked to. Cheap to clone: many may wait for one connection.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No TCP connection: refused, unreachable, unresolvable.
    #[error("no connection to {address}")]
    Unreachable {
        /// The address that was tried.
        address: String,
        /// What the system said.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// Something took longer than it may.
    #[error("{0} took too long")]
    TooSlow(&'static str),
    /// The host proved another key than the pinned one. Nothing was sent to it.
    #[error("the host key is {found}, not the pinned {pinned}")]
    KeyMismatch {
        /// The fingerprint that was expected.
        pinned: String,
        /// The fingerprint (or kind of key) that was found.
        found: String,
    },
    /// The pinned host does not admit our key.
    #[error("the host does not admit {user}")]
    NotAdmitted {
        /// The user that was tried.
        user: String,
    },
    /// The host refused a channel: a forward that is not permitted, a port where nobody listens.
    #[error("the host refused {0}")]
    Refused(&'static str),
    /// A command wrote more than it may.
    #[error("a command wrote more than {0} bytes")]
    TooMuch(usize),
    /// The connection ended.
    #[error("the connection ended")]
    Ended,
    /// The protocol was broken, or there is nothing in common with the host.
    #[error("the SSH protocol failed")]
    Protocol(#[source] Arc<russh::Error>),
}

impl From<russh::Error> for Error {
    fn from(error: russh::Error) -> Self {
        match error {
            russh::Error::SendError
            | russh::Error::Disconnect
            | russh::Error::HUP
            | russh::Error::KeepaliveTimeout
            | russh::Error::RecvError => Self::Ended,
            other => Self::Protocol(Arc::new(other)),
        }
    }
}

/// A connection that has proved the pin and admitted us. Clones share it; it ends with [`Connection::close`], or when the
/// last clone and the last of its streams are gone.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    handle: Handle<Pinned>,
    /// Closed by the handler's end, which is the connection's.
    alive: watch::Receiver<()>,
    /// sshd older than 10.1 sets TCP_NODELAY only once a session channel has run something.
    ran_something: AtomicBool,
    warmed: OnceCell<()>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("closed", &self.is_closed())
            .finish()
    }
}

/// Connects, with the settings of an interactive connection.
///
/// # Errors
/// See [`Error`]. After [`Error::KeyMismatch`] nothing of ours has left.
pub async fn connect(target: &Target) -> Result<Connection, Error> {
    connect_tuned(target, Tuning::INTERACTIVE).await
}

/// Connects, with the given settings.
///
/// # Errors
/// See [`Error`].
pub async fn connect_tuned(target: &Target, tuning: Tuning) -> Result<Connection, Error> {
    let unreachable = |source| Error::Unreachable {
        address: target.address.clone(),
        source: Arc::new(source),
    };
    let socket = timeout(CONNECT_TIMEOUT, TcpStream::connect(&target.address))
        .await
        .map_err(|_elapsed| Error::TooSlow("connecting"))?
        .map_err(unreachable)?;
    socket.set_nodelay(true).map_err(unreachable)?;
    timeout(HANDSHAKE_TIMEOUT, shake_hands(target, tuning, socket))
        .await
        .map_err(|_elapsed| Error::TooSlow("the SSH handshake"))?
}

async fn shake_hands(
    target: &Target,
    tuning: Tuning,
    socket: TcpStream,
) -> Result<Connection, Error> {
    let (alive_sender, alive) = watch::channel(());
    let (found_sender, found) = std::sync::mpsc::channel();
    let handler = Pinned {
        pin: target.pin,
        found: found_sender,
        _alive: alive_sender,
    };
    let mut handle = match client::connect_stream(config(tuning), socket, handler).await {
        Ok(handle) => handle,
        Err(error) => {
            return Err(match found.try_recv() {
                Ok(found) => Error::KeyMismatch {
                    pinned: target.pin.fingerprint(),
                    found,
                },
                Err(_accepted) => error.into(),
            });
        }
    };
    let key = PrivateKeyWithHashAlg::new(target.key.private(), None);
    let admitted = handle.authenticate_publickey(&target.user, key).await?;
    if !admitted.success() {
        return Err(if handle.is_closed() {
            Error::Ended
        } else {
            Error::NotAdmitted {
                user: target.user.clone(),
            }
        });
    }
    Ok(Connection(Arc::new(Inner {
        handle,
        alive,
        ran_something: AtomicBool::new(false),
        warmed: OnceCell::new(),
    })))
}

/// Ciphers with hardware behind them first; post-quantum key exchange first; the strict-kex names, without which Terrapin
/// comes back; Ed25519 host keys and nothing else; no compression.
fn config(tuning: Tuning) -> Arc<client::Config> {
    const KEX: &[kex::Name] = &[
        kex::MLKEM768X25519_SHA256,
        kex::CURVE25519,
        kex::CURVE25519_PRE_RFC_8731,
        kex::EXTENSION_SUPPORT_AS_CLIENT,
        kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
    ];
    const CIPHERS: &[cipher::Name] = &[
        cipher::AES_128_GCM,
        cipher::AES_256_GCM,
        cipher::CHACHA20_POLY1305,
    ];
    // Unused with these ciphers, which authenticate by themselves; the protocol wants one named.
    const MACS: &[mac::Name] = &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM];
    Arc::new(client::Config {
        preferred: Preferred {
            kex: Cow::Borrowed(KEX),
            key: Cow::Borrowed(&[Algorithm::Ed25519]),
            host_key_certificates: Cow::Borrowed(&[]),
            cipher: Cow::Borrowed(CIPHERS),
            mac: Cow::Borrowed(MACS),
            compression: Cow::Borrowed(&[compression::NONE]),
        },
        limits: russh::Limits::new(
            tuning.rekey_after,
            tuning.rekey_after,
            Duration::from_secs(3600),
        ),
        window_size: tuning.window,
        inactivity_timeout: None,
        keepalive_interval: Some(Duration::from_secs(15)),
        keepalive_max: 3,
        nodelay: true,
        ..client::Config::default()
    })
}

/// Accepts one key. russh has verified, before it asks, that the host owns the key.
struct Pinned {
    pin: HostKey,
    found: std::sync::mpsc::Sender<String>,
    _alive: watch::Sender<()>,
}

impl client::Handler for Pinned {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, russh::Error> {
        let shown = match shown {
            PublicKeyOrCertificate::PublicKey { key, hash_alg: _ } => HostKey::of(key),
            PublicKeyOrCertificate::Certificate(_) => None,
        };
        if shown == Some(self.pin) {
            return Ok(true);
        }
        let found = shown.map_or_else(|| "of another kind".to_owned(), |key| key.fingerprint());
        // The receiver waits for the handshake's end and then reads; it cannot be gone before.
        let _ = self.found.send(found);
        Ok(false)
    }
}

impl Connection {
    /// Whether the connection is known to have ended.
    pub fn is_closed(&self) -> bool {
        self.0.handle.is_closed()
    }

    /// Waits until the connection has ended, for whatever reason.
    pub async fn closed(&self) {
        let mut alive = self.0.alive.clone();
        while alive.changed().await.is_ok() {}
    }

    /// Ends the connection and all its streams.
    pub async fn close(&self) {
        let goodbye = self.0.handle.disconnect(Disconnect::ByApplication, "", "");
        // A connection that cannot take a goodbye is gone already, or will be dropped.
        let _ = timeout(GOODBYE_TIMEOUT, goodbye).await;
    }

    /// Opens a fresh connection, on the host, to a port of its loopback. Dropping the stream closes it at once.
    ///
    /// # Errors
    /// [`Error::Refused`] when the port is not permitted or nobody listens there.
    pub async fn forward(&self, port: u16) -> Result<Stream, Error> {
        self.warm().await?;
        let open =
            self.0
                .handle
                .channel_open_direct_tcpip("127.0.0.1", u32::from(port), "127.0.0.1", 0);
        let channel = opened(open, "the forward").await?;
        Ok(channel::stream(
            channel,
            self.clone(),
            channel::FORWARD_LIMIT,
        ))
    }

    /// Starts a command and gives its stdin and stdout; [`Stream::exit_status`] after the end. Dropping it closes the channel.
    ///
    /// # Errors
    /// [`Error::Refused`] when the host gives no more sessions.
    pub async fn start(&self, command: &str) -> Result<Stream, Error> {
        self.start_with_limit(command, channel::FORWARD_LIMIT).await
    }

    pub(super) async fn start_with_limit(
        &self,
        command: &str,
        limit: usize,
    ) -> Result<Stream, Error> {
        let channel = self.session().await?;
        channel.exec(true, command).await?;
        self.0.ran_something.store(true, Ordering::Relaxed);
        Ok(channel::stream(channel, self.clone(), limit))
    }

    pub(super) async fn start_subsystem(
        &self,
        name: &'static str,
        limit: usize,
    ) -> Result<Stream, Error> {
        let channel = self.session().await?;
        channel.request_subsystem(true, name).await?;
        self.0.ran_something.store(true, Ordering::Relaxed);
        Ok(channel::stream(channel, self.clone(), limit))
    }

    async fn session(&self) -> Result<Channel<Msg>, Error> {
        opened(self.0.handle.channel_open_session(), "a session").await
    }

    /// Runs something once, whatever it is, so that sshd stops delaying small packets: channel opening goes from 43 ms to
    /// under 2 ms. A gate that refuses the command has served the purpose too.
    async fn warm(&self) -> Result<(), Error> {
        if self.0.ran_something.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.0
            .warmed
            .get_or_try_init(|| async {
                self.exec("true", &[], &super::Bounds::SHORT)
                    .await
                    .map(drop)
            })
            .await
            .copied()
    }
}

async fn opened(
    open: impl Future<Output = Result<Channel<Msg>, russh::Error>>,
    what: &'static str,
) -> Result<Channel<Msg>, Error> {
    match timeout(OPEN_TIMEOUT, open).await {
        Err(_elapsed) => Err(Error::TooSlow("opening a channel")),
        Ok(Err(russh::Error::ChannelOpenFailure(_))) => Err(Error::Refused(what)),
        Ok(result) => Ok(result?),
    }
}
