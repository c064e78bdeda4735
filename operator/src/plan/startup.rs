//! How long it takes from renting to the first answer: an estimate, made of what was measured elsewhere, for limits and for people.

use std::time::Duration;

use crate::host::image::Image;
use crate::route::Engine;

use super::host_engine;

/// From the create call to a container that pulls, on a good day.
const PLACEMENT: u64 = 30;
/// 16 GB of image took 165 s, cold.
const PULL_MB_A_SECOND: u64 = 100;
/// An image that nobody knows is taken for a large one.
const UNKNOWN_PULL_MB: u64 = 12_000;
/// From the Hub, many files at once, to a data center's disk.
const DOWNLOAD_MB_A_SECOND: u64 = 100;
/// From disk or page cache to the GPU.
const LOAD_MB_A_SECOND: u64 = 500;
/// sshd through apt, where the image has none.
const SSHD: u64 = 25;
/// vLLM with its torch into a new environment: 45 % of a measured cold start of 608 s.
const INSTALL_ENGINE: u64 = 275;
/// Whoever writes nothing gets at least this.
const LEAST_LIMIT: Duration = Duration::from_secs(20 * 60);

/// Seconds until its host shows itself: placed, the image pulled, sshd there.
pub fn boot_seconds(image: Option<&Image>) -> u64 {
    let sshd = if image.is_some_and(|image| image.sshd) {
        0
    } else {
        SSHD
    };
    PLACEMENT + image.map_or(UNKNOWN_PULL_MB, |image| image.pull_mb) / PULL_MB_A_SECOND + sshd
}

/// Seconds until the model answers.
pub fn seconds(engine: Engine, image: Option<&Image>, download: u64, weights: u64) -> u64 {
    let warm_up = match engine {
        // Compiling and capturing graphs.
        Engine::Vllm => 90,
        Engine::Transformers => 30,
        Engine::LlamaCpp => 10,
    };
    let megabytes = |bytes: u64| bytes / 1_000_000;
    boot_seconds(image)
        + if image.is_some_and(|image| image.engine == Some(host_engine(engine))) {
            0
        } else {
            INSTALL_ENGINE
        }
        + megabytes(download) / DOWNLOAD_MB_A_SECOND
        + megabytes(weights) / LOAD_MB_A_SECOND
        + warm_up
}

/// How long a pod may take: what is written, else 20 minutes or three times the estimate, whichever is longer.
pub fn limit(written: Option<Duration>, estimate_seconds: u64) -> Duration {
    written
        .unwrap_or_else(|| LEAST_LIMIT.max(Duration::from_secs(estimate_seconds.saturating_mul(3))))
}
