//! What carries bytes between a machine's loopback and ours: port 22 inward, the listed addresses outward.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::network::Inside;

/// Opens a port of our loopback that leads to the machine's port 22.
pub(super) async fn inward(tasks: &mut JoinSet<()>, inside: Inside) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tasks.spawn(serve(listener, move || {
        let inside = inside.clone();
        async move {
            let connect = tokio::task::spawn_blocking(move || inside.connect(22));
            let stream = connect.await.map_err(io::Error::other)??;
            stream.set_nonblocking(true)?;
            TcpStream::from_std(stream)
        }
    }));
    Ok(address)
}

/// Carries what connects to a listener inside to an address outside.
pub(super) fn outward(
    tasks: &mut JoinSet<()>,
    listener: std::net::TcpListener,
    to: SocketAddr,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    tasks.spawn(serve(listener, move || TcpStream::connect(to)));
    Ok(())
}

/// Accepts for ever. Its connections end with it.
async fn serve<C, F>(listener: TcpListener, connect: C)
where
    C: Fn() -> F,
    F: Future<Output = io::Result<TcpStream>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((near, _)) => {
                    let far = connect();
                    connections.spawn(async move {
                        // A refusal closes the near end, which is all that a client sees of a mapped port.
                        if let Ok(far) = far.await {
                            carry(near, far).await;
                        }
                    });
                }
                // Out of descriptors, say: give others time to close theirs.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(mut near: TcpStream, mut far: TcpStream) {
    // Without it, small packets would wait for each other and latencies measured through here would be ours.
    let _slower = near.set_nodelay(true).and(far.set_nodelay(true));
    let _reset = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}
