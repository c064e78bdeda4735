//! Being told to stop.

#[cfg(unix)]
use tokio_util::sync::CancellationToken;

/// Waits for Ctrl-C, or for [`ended`].
pub async fn stopped() {
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = ended() => {}
    }
}

/// Waits until the system ends us: SIGTERM, SIGHUP, or a terminal that is gone. Never for Ctrl-C, which a chat has another
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
        () = terminal_gone().cancelled() => {}
    }
}

/// Cancelled when the terminal that we read from hangs up. SIGHUP says so to a terminal's first process and its job only: who
/// was started by something between learns of it here, and does not read the end of its input for ever.
#[cfg(unix)]
fn terminal_gone() -> &'static CancellationToken {
    use rustix::event::{PollFd, PollFlags, poll};
    use std::io::IsTerminal as _;
    use std::sync::OnceLock;

    static GONE: OnceLock<CancellationToken> = OnceLock::new();
    GONE.get_or_init(|| {
        let gone = CancellationToken::new();
        let seen = gone.clone();
        if std::io::stdin().is_terminal() {
            // Asleep in the kernel until it happens; nobody waits for this thread.
            std::thread::spawn(move || {
                let stdin = std::io::stdin();
                loop {
                    // A hang-up is always told, whatever is asked for.
                    let mut terminal = [PollFd::new(&stdin, PollFlags::empty())];
                    match poll(&mut terminal, None) {
                        Ok(_) if !terminal[0].revents().is_empty() => return seen.cancel(),
                        Ok(_) | Err(rustix::io::Errno::INTR) => {}
                        Err(_) => return,
                    }
                }
            });
        }
        gone
    })
}

/// Waits until the system ends us; elsewhere there is no such signal to wait for.
#[cfg(not(unix))]
pub async fn ended() {
    std::future::pending().await
}
