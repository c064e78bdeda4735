//! The programs that people point at an endpoint, unmodified: Python packages, pinned by hash, in the cache folder.

use std::path::PathBuf;

use crate::cache;
use crate::model::{self, install};

const REQUIREMENTS: &str = include_str!("../clients/requirements.txt");

/// The folder for PYTHONPATH that holds them all. Blocks, the first time for a minute: 80 MB of wheels.
///
/// # Errors
/// When pip fails.
pub fn python_clients() -> Result<PathBuf, model::Error> {
    let key = format!("clients-{}", cache::fingerprint([REQUIREMENTS.as_bytes()]));
    let folder = cache::once(&key, |folder| {
        cache::say("clients: installing openai, langchain-openai, llama-index and llm with pip");
        install(REQUIREMENTS, folder, &folder.join("site"))
    })?;
    Ok(folder.join("site"))
}
