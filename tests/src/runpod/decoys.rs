//! Two addresses that are not the pod: one that accepts and hangs up, as a mapped port does behind which nothing listens,
//! and a stranger's sshd, which takes every login it is offered and remembers that it was.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use russh::{
    keys::{PrivateKey, ssh_key::private::Ed25519Keypair},
    server::{Auth, Config, Handler, VerifiedPublicKey},
};
use tokio::{net::TcpListener, task::JoinSet};

use super::pod::Decoys;

/// Starts both; they end with `tasks`. The counter is that of the stranger's logins.
pub(super) async fn start(tasks: &mut JoinSet<()>) -> io::Result<(Decoys, Arc<AtomicU64>)> {
    let (hang_up, hang_up_at) = listen().await?;
    let (stranger, stranger_at) = listen().await?;
    let logins = Arc::new(AtomicU64::new(0));
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
    let config = Arc::new(Config {
        keys: vec![key],
        ..Config::default()
    });
    tasks.spawn(async move { while hang_up.accept().await.is_ok() {} });
    tasks.spawn(be_a_stranger(stranger, config, logins.clone()));
    Ok((
        Decoys {
            hang_up: hang_up_at,
            stranger: stranger_at,
        },
        logins,
    ))
}

async fn listen() -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

async fn be_a_stranger(listener: TcpListener, config: Arc<Config>, logins: Arc<AtomicU64>) {
    let mut visitors = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (config, stranger) = (
            config.clone(),
            Stranger {
                logins: logins.clone(),
            },
        );
        visitors.spawn(async move {
            // Whoever leaves because the key is not the right one does what is expected.
            if let Ok(session) = russh::server::run_stream(config, stream, stranger).await {
                let _ = session.await;
            }
        });
        while visitors.try_join_next().is_some() {}
    }
}

struct Stranger {
    logins: Arc<AtomicU64>,
}

impl Handler for Stranger {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _: &str,
        _: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        self.logins.fetch_add(1, Ordering::Relaxed);
        Ok(Auth::Accept)
    }

    async fn auth_password(&mut self, _: &str, _: &str) -> Result<Auth, russh::Error> {
        self.logins.fetch_add(1, Ordering::Relaxed);
        Ok(Auth::Accept)
    }
}
