//! Files to and from a session: checked end to end, resumed after a cut, never half a file under its final name.

mod down;
mod folder;
mod many;
mod meter;
mod part;
mod up;

use crate::failure::{Code, Failure};
use crate::gateway::Gateway;
use crate::print::Printer;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use down::{Target, fetch, into};
pub use folder::{LocalFile, files_of, matches};
pub use many::{Bundle, Unpacked, pack, unpack};
pub use meter::{Meter, size};
pub use part::{Destination, safe};
pub use up::{other, send, sum_of};

/// A transfer whose connection breaks goes on where it was, this many times without a new byte: with the pauses between them
/// a dozen seconds, in which a gateway is restarted.
const RETRIES: u32 = 6;
/// Pieces of a file between disk and network.
const CHUNK: usize = 256 * 1024;

/// What was moved.
#[derive(Debug, Clone, Serialize)]
pub struct Moved {
    /// Bytes of the whole file.
    pub bytes: u64,
    /// SHA-256 of the file, equal on both ends, 64 hex digits.
    pub sha256: String,
    /// From the first byte to the rename.
    pub seconds: f64,
}

/// What to do where a file of that name is already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Replace it.
    Replace,
    /// Leave it, and fail.
    Refuse,
}

/// Sends a local file; it replaces a remote one of its name, and appears there only when its SHA-256 is right.
pub async fn upload(
    gateway: &Gateway,
    (local, remote): (&Path, &str),
    print: &Arc<Printer>,
) -> Result<Moved, Failure> {
    let began = Instant::now();
    let meter = Meter::new(print, remote);
    let sent = send(gateway, (local, remote), Existing::Replace, &meter).await;
    meter.clear();
    let (bytes, sha256) = sent?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Moved {
        bytes,
        sha256,
        seconds,
    })
}

/// Fetches a remote file. `force` replaces a local one.
pub async fn download(
    gateway: &Gateway,
    (remote, local): (&str, &Path),
    force: bool,
    print: &Arc<Printer>,
) -> Result<Moved, Failure> {
    let began = Instant::now();
    let existing = if force {
        Existing::Replace
    } else {
        Existing::Refuse
    };
    let target = Target::of(local, remote)?;
    if !force {
        target.free()?;
    }
    let meter = Meter::new(print, remote);
    let fetched = fetch(gateway, remote, (&target, existing), &meter).await;
    meter.clear();
    let (bytes, sha256) = fetched?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Moved {
        bytes,
        sha256,
        seconds,
    })
}

/// How many tries in a row brought nothing, and how long to wait before the next.
#[derive(Debug, Default)]
struct Patience {
    fruitless: u32,
}

impl Patience {
    /// Waits before another try, or gives the failure back when there have been enough. `gained` says that the last try
    /// brought something.
    async fn after(&mut self, failure: Failure, gained: bool) -> Result<(), Failure> {
        tokio::time::sleep(self.pause(failure, gained)?).await;
        Ok(())
    }

    fn pause(&mut self, failure: Failure, gained: bool) -> Result<Duration, Failure> {
        if gained {
            self.fruitless = 0;
        }
        if !failure.passing || self.fruitless >= RETRIES {
            return Err(failure);
        }
        self.fruitless += 1;
        Ok(Duration::from_millis(125 << self.fruitless.min(5)))
    }
}

/// The way on after a transfer that was given up.
fn resumable(failure: Failure) -> Failure {
    let code = match failure.code {
        Code::NotReady | Code::Model | Code::Error => Code::Transfer,
        code => code,
    };
    let failure = Failure { code, ..failure };
    match failure.passing {
        true => failure.hint("the same command goes on where it stopped"),
        false => failure,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_cut_that_lasts_is_given_up_and_one_that_passes_is_not() {
        let cut = || Failure::new(Code::NotReady, "cut").passing();
        let mut patience = Patience::default();
        let pauses: Vec<_> = (0..RETRIES)
            .map(|_| patience.pause(cut(), false).unwrap())
            .collect();
        let waited: Duration = pauses.iter().sum();
        assert!((10..20).contains(&waited.as_secs()), "{pauses:?}");
        assert!(patience.pause(cut(), false).is_err());
        let mut patience = Patience::default();
        for _ in 0..50 {
            patience.pause(cut(), true).unwrap();
        }
        let never = Failure::new(Code::Transfer, "no room");
        assert!(patience.pause(never, true).is_err());
    }
}
