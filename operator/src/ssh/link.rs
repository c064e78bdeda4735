//! A connection on demand: made when first asked for, shared, made anew when it has ended, dropped when unused.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::connect::{Connection, Error, Target, Tuning, connect_tuned};

/// After a failure nobody tries again for this long: a host that is down is not asked once a request.
const PAUSE: Duration = Duration::from_secs(1);

/// One host's connection, whenever it is needed.
#[derive(Debug)]
pub struct Link {
    target: Target,
    tuning: Tuning,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Down,
    Up {
        connection: Connection,
        used: Instant,
    },
    Failed {
        error: Error,
        at: Instant,
    },
}

impl Link {
    /// Nothing is connected yet.
    pub fn new(target: Target, tuning: Tuning) -> Self {
        Self {
            target,
            tuning,
            state: Mutex::new(State::Down),
        }
    }

    /// Whom this link leads to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The live connection, or a new one. Those who ask while it is being made wait for the same one, and share its failure.
    ///
    /// # Errors
    /// Those of connecting, at most one second old.
    pub async fn connection(&self) -> Result<Connection, Error> {
        let mut state = self.state.lock().await;
        match &mut *state {
            State::Up { connection, used } if !connection.is_closed() => {
                *used = Instant::now();
                return Ok(connection.clone());
            }
            State::Failed { error, at } if at.elapsed() < PAUSE => return Err(error.clone()),
            State::Up { .. } | State::Failed { .. } | State::Down => {}
        }
        let result = connect_tuned(&self.target, self.tuning).await;
        let now = Instant::now();
        *state = match &result {
            Ok(connection) => State::Up {
                connection: connection.clone(),
                used: now,
            },
            Err(error) => State::Failed {
                error: error.clone(),
                at: now,
            },
        };
        result
    }

    /// Whether there is a live connection now.
    pub async fn is_up(&self) -> bool {
        match &*self.state.lock().await {
            State::Up { connection, .. } => !connection.is_closed(),
            State::Failed { .. } | State::Down => false,
        }
    }

    /// Lets go of a connection that nobody asked for in this long. Streams that are still open keep it alive.
    pub async fn drop_if_unused(&self, for_this_long: Duration) {
        let mut state = self.state.lock().await;
        if let State::Up { used, .. } = &*state
            && used.elapsed() >= for_this_long
        {
            *state = State::Down;
        }
    }

    /// Ends the connection and all its streams.
    pub async fn close(&self) {
        let last = std::mem::replace(&mut *self.state.lock().await, State::Down);
        if let State::Up { connection, .. } = last {
            connection.close().await;
        }
    }
}
