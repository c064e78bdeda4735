//! A way to a server that can be cut, as a network or a gateway that is killed cuts it: in the middle, and without a word.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// More than was ever carried.
const NEVER: u64 = u64::MAX;

/// A port of loopback that leads to another one. Dropping it cuts it for good.
pub struct Wire {
    port: u16,
    shared: Arc<Shared>,
    carrying: tokio::task::JoinHandle<()>,
}

struct Shared {
    to: SocketAddr,
    /// Bytes that clients have sent.
    sent: AtomicU64,
    /// The next connection that has brought the bytes so far ends here.
    cut_at: AtomicU64,
    whole: watch::Sender<bool>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.carrying.abort();
    }
}

impl Wire {
    /// To a server at this address.
    ///
    /// # Errors
    /// When there is no port to be had.
    pub async fn to(to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            to,
            sent: AtomicU64::new(0),
            cut_at: AtomicU64::new(NEVER),
            whole: watch::Sender::new(true),
        });
        let carrying = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self {
            port,
            shared,
            carrying,
        })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Bytes that clients have sent through it.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Cuts the connection over which clients will have sent so many bytes more, once.
    pub fn cut_after(&self, bytes: u64) {
        let at = self.sent() + bytes;
        self.shared.cut_at.store(at, Ordering::Relaxed);
    }

    /// Cuts every connection, and leads nowhere until it is mended.
    pub fn cut(&self) {
        self.shared.whole.send_replace(false);
    }

    /// Leads to the server again.
    pub fn mend(&self) {
        self.shared.whole.send_replace(true);
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { return };
                connections.spawn(carry(client, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection until either side ends it or the wire is cut. What fails looks like a cut to both.
async fn carry(client: TcpStream, shared: Arc<Shared>) {
    let mut whole = shared.whole.subscribe();
    if !*whole.borrow() {
        return;
    }
    let Ok(server) = TcpStream::connect(shared.to).await else {
        return;
    };
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    let up = async {
        if !is_cut(from_client, to_server, &shared).await {
            // The client has said everything; the server has the last word.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = up => {}
        () = answers(from_server, to_client) => {}
        _ = whole.wait_for(|whole| !whole) => {}
    }
}

/// Carries what a client sends; whether the wire is cut at the end of it.
async fn is_cut(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) -> bool {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        let sent = shared.sent.fetch_add(read as u64, Ordering::Relaxed) + read as u64;
        if to.write_all(&bytes[..read]).await.is_err() {
            return true;
        }
        if sent >= shared.cut_at.load(Ordering::Relaxed) {
            shared.cut_at.store(NEVER, Ordering::Relaxed);
            return true;
        }
    }
    // A server that is gone already needs to hear nothing.
    let _ = to.shutdown().await;
    false
}

/// Carries what the server answers, until it has said everything or nobody listens.
async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    // Either way this connection is over.
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}
