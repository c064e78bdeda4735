//! A machine in which nothing runs: for tests that are about the provider's API alone.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Exit, Isolation, Machine};

/// "tcpmux": nobody runs it, so whoever connects is refused.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

pub(super) fn start() -> Machine {
    let (says, output) = mpsc::unbounded_channel();
    let (exited, exit) = watch::channel(None);
    let end = CancellationToken::new();
    let ended = end.clone();
    tokio::spawn(async move {
        ended.cancelled().await;
        drop(says);
        exited.send_replace(Some(Exit::Killed));
    });
    Machine::of_task(Isolation::None, NOBODY, end, output, exit)
}
