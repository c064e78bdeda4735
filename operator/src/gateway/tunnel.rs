//! The way to one deployed host: two SSH connections on demand, HTTP over pooled forwards, and the heartbeat that reports activity.

mod exchange;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

pub use exchange::{Exchange, Lease};

use crate::host::gate;
use crate::host::visit::Activity;
use crate::metrics::{self, TunnelLabels};
use crate::route::RouteHost;
use crate::ssh::{self, Connection, Link, Sftp, SftpError, Stream, Target, Tuning};

/// Activity is reported this often while a request lasts.
const BEAT: Duration = Duration::from_secs(30);
/// And at most this often: hosts count idleness in minutes.
const BEAT_PAUSE: Duration = Duration::from_secs(1);
/// The heartbeat's answer is one line, one round trip away.
const BEAT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections are closed this long after their last use: connecting costs some 40 ms and a few round trips, being connected a
/// process on the host.
const UNUSED: Duration = Duration::from_secs(15 * 60);

/// One deployed host.
pub struct Tunnel {
    /// What the route says of it.
    pub host: RouteHost,
    interactive: Road,
    bulk: Road,
    pool: exchange::Pool,
    users: AtomicUsize,
    touched: AtomicBool,
    last_use: Mutex<Instant>,
    wake: Notify,
    activity: watch::Sender<Activity>,
    closed: CancellationToken,
}

/// One of the two connections, counted.
struct Road {
    link: Link,
    up: AtomicBool,
    labels: TunnelLabels,
    metrics: metrics::Gateway,
}

impl Road {
    fn new(host: &RouteHost, tunnel: metrics::Tunnel, metrics: metrics::Gateway) -> Self {
        let tuning = match tunnel {
            metrics::Tunnel::interactive => Tuning::INTERACTIVE,
            metrics::Tunnel::bulk => Tuning::BULK,
        };
        let target = Target {
            address: host.address.clone(),
            pin: host.host_key,
            user: host.user.clone(),
            key: host.key.clone(),
        };
        Self {
            link: Link::new(target, tuning),
            up: AtomicBool::new(false),
            labels: TunnelLabels { tunnel },
            metrics,
        }
    }

    async fn connection(&self) -> Result<Connection, ssh::Error> {
        let was_up = self.link.is_up().await;
        let connection = self.link.connection().await;
        match &connection {
            Ok(_) => {
                if !was_up {
                    self.metrics.connects.get_or_create(&self.labels).inc();
                }
                self.count(true);
            }
            Err(error) => {
                tracing::warn!(%error, tunnel = ?self.labels.tunnel, "could not connect to a host");
                self.metrics
                    .connect_failures
                    .get_or_create(&self.labels)
                    .inc();
                self.count(false);
            }
        }
        connection
    }

    fn count(&self, up: bool) {
        if self.up.swap(up, Ordering::Relaxed) != up {
            let gauge = self.metrics.tunnels.get_or_create(&self.labels);
            if up {
                gauge.inc()
            } else {
                gauge.dec()
            };
        }
    }

    async fn drop_if_unused(&self) {
        self.link.drop_if_unused(UNUSED).await;
        self.count(self.link.is_up().await);
    }

    async fn close(&self) {
        self.link.close().await;
        self.count(false);
    }
}

/// One request or transfer that counts as activity, from its start to its end.
pub struct Use(Arc<Tunnel>);

impl Drop for Use {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

impl Tunnel {
    /// Connects to nothing yet. Lives until [`Tunnel::close`].
    pub fn open(host: RouteHost, metrics: &metrics::Gateway) -> Arc<Self> {
        let tunnel = Arc::new(Self {
            interactive: Road::new(&host, metrics::Tunnel::interactive, metrics.clone()),
            bulk: Road::new(&host, metrics::Tunnel::bulk, metrics.clone()),
            host,
            pool: exchange::Pool::default(),
            users: AtomicUsize::new(0),
            touched: AtomicBool::new(false),
            last_use: Mutex::new(Instant::now()),
            wake: Notify::new(),
            activity: watch::Sender::new(Activity::Unknown),
            closed: CancellationToken::new(),
        });
        // Ends with `close`, which whoever opened the tunnel calls.
        tokio::spawn(tunnel.clone().tend());
        tunnel
    }

    /// Ends both connections and every stream over them.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Counts as activity until dropped.
    pub fn begin_use(self: &Arc<Self>) -> Use {
        self.users.fetch_add(1, Ordering::Relaxed);
        self.touch();
        Use(self.clone())
    }

    /// When the session was last used, as the host said last; `Unknown` before it was asked.
    pub fn activity(&self) -> Activity {
        *self.activity.borrow()
    }

    /// A fresh stream to the engine.
    async fn forward(&self) -> Result<Stream, ssh::Error> {
        let connection = self.interactive.connection().await?;
        match connection.forward(self.host.engine_port).await {
            // It had ended and nobody had noticed: once more, on a new one.
            Err(ssh::Error::Ended) => {
                self.interactive
                    .connection()
                    .await?
                    .forward(self.host.engine_port)
                    .await
            }
            opened => opened,
        }
    }

    /// Starts a command of the gate beside the requests.
    pub async fn start(&self, command: &str) -> Result<Stream, ssh::Error> {
        self.interactive.connection().await?.start(command).await
    }

    /// Runs a short command of the gate beside the transfers.
    pub async fn run(
        &self,
        command: &str,
        bounds: &ssh::Bounds,
    ) -> Result<ssh::Output, ssh::Error> {
        self.bulk
            .connection()
            .await?
            .exec(command, &[], bounds)
            .await
    }

    /// A session for files.
    pub async fn sftp(&self) -> Result<Sftp, SftpError> {
        self.bulk.connection().await?.sftp_by(gate::SFTP).await
    }

    fn touch(&self) {
        *self.last_use.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.touched.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Reports activity, and closes what is unused.
    async fn tend(self: Arc<Self>) {
        let mut beat = None;
        loop {
            tokio::select! {
                biased;
                () = self.closed.cancelled() => break,
                () = self.wake.notified() => {}
                () = sleep(BEAT) => {}
            }
            self.pool.prune();
            if self.touched.swap(false, Ordering::Relaxed) || self.users.load(Ordering::Relaxed) > 0
            {
                beat = self.beat(beat.take()).await;
                tokio::select! {
                    () = self.closed.cancelled() => break,
                    () = sleep(BEAT_PAUSE) => {}
                }
            } else if self
                .last_use
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .elapsed()
                >= UNUSED
            {
                // The heartbeat's stream would keep its connection alive.
                beat = None;
                self.interactive.drop_if_unused().await;
                self.bulk.drop_if_unused().await;
            }
        }
        drop(beat);
        self.pool.clear();
        tokio::join!(self.interactive.close(), self.bulk.close());
    }

    /// One touch, over the heartbeat's stream or a new one; `None` when it did not work. The next request makes the next attempt.
    async fn beat(&self, beat: Option<BufStream<Stream>>) -> Option<BufStream<Stream>> {
        let touched = async {
            let mut beat = match beat {
                Some(beat) => beat,
                None => BufStream::new(self.start(gate::HEARTBEAT).await.ok()?),
            };
            beat.write_all(gate::TOUCH).await.ok()?;
            beat.flush().await.ok()?;
            let mut line = String::new();
            beat.read_line(&mut line)
                .await
                .ok()
                .filter(|read| *read > 0)?;
            self.activity.send_replace(gate::heartbeat_answer(&line));
            Some(beat)
        };
        let beat = timeout(BEAT_TIMEOUT, touched).await.ok().flatten();
        if beat.is_none() {
            tracing::debug!("a host did not take the report of activity");
            self.activity.send_replace(Activity::Unknown);
        }
        beat
    }
}
