//! Being told to stop.

/// Waits for Ctrl-C, or for [`ended`].
pub async fn stopped() {
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = ended() => {}
    }
}

/// Waits until the system ends us: SIGTERM, or SIGHUP when the terminal closes. Never for Ctrl-C, which a chat has another
/// meaning for.
#[cfg(unix)]
pub async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut hangup)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    ) else {
        // Without a handler the signal ends the process by itself.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = hangup.recv() => {}
    }
}

/// Waits until the system ends us; elsewhere there is no such signal to wait for.
#[cfg(not(unix))]
pub async fn ended() {
    std::future::pending().await
}
