//! Makes a trusted host serve a model. Everything slow runs there, detached; a visit tells how far it is.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::answer::{self, Answer, Parameters, Unreadable};
use super::engine::{Arg, Engine, Launch};
use super::image;
use super::scripts::{self, Script, unreadable};
use super::visit::Uploads;
use super::{Error, Incarnation};
use crate::ssh::{Connection, HostKey};

/// One file of the repository that the engine needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightFile {
    /// Its path in the repository.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in hex, where the Hub tells (large files); the others are checked by size.
    pub sha256: Option<String>,
}

/// All that a deploy needs. Two equal ones are one deploy, however often they are sent; another one ends the first.
#[derive(Debug, Clone)]
pub struct Deploy {
    /// `owner/name` on the Hub.
    pub model: String,
    /// The commit.
    pub revision: String,
    /// Where the files come from, as the host sees it.
    pub hub: String,
    /// The user's token for a gated model. It is in no argument, no environment, and off the host when the files are verified.
    pub token: Option<SecretString>,
    /// The files, all of them.
    pub files: Vec<WeightFile>,
    /// The engine's command line.
    pub launch: Launch,
    /// The public half of the gateways' key.
    pub gateways_key: HostKey,
}

/// What deploy answers at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Names this deploy: the SHA-256 of its parameters, token excepted. A visit repeats it.
    pub digest: String,
    /// Whether it was running or done already, so that nothing was begun.
    pub already: bool,
    /// The port found free for the engine, already permitted to the gateways' key. Visits repeat it; it changes only if
    /// it was taken before the engine started.
    pub port: u16,
    /// The folder of uploads on the host.
    pub files: String,
    /// Where uploads live and how many bytes fit.
    pub uploads: Uploads,
}

/// Deploy only writes files and starts a job; ending an earlier one takes up to 15 seconds.
const DEPLOY_TIME: Duration = Duration::from_secs(60);

/// Starts serving, or finds that it is started. Returns at once; [`super::visit()`] follows it.
///
/// # Errors
/// When the host could not be asked, or answers something unreadable. Sending it again is always right.
pub async fn deploy(
    connection: &Connection,
    of: &Incarnation,
    deploy: &Deploy,
) -> Result<Accepted, Error> {
    let mut parameters = parameters(deploy);
    parameters.push("digest", deploy.digest());
    if let Some(token) = &deploy.token {
        parameters.push("token", token.expose_secret());
    }
    let answer = scripts::run(connection, Script::Deploy, of, parameters, DEPLOY_TIME).await?;
    parse(&answer).map_err(unreadable(Script::Deploy))
}

impl Deploy {
    /// Names it: the SHA-256 of its parameters, the token excepted, in hex. A visit says of which deploy it speaks.
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(parameters(self).bytes()))
    }
}

fn parameters(deploy: &Deploy) -> Parameters {
    let Deploy {
        model,
        revision,
        hub,
        token: _,
        files,
        launch,
        gateways_key,
    } = deploy;
    let Launch { engine, args, env } = launch;
    let total: u64 = files.iter().map(|file| file.size).sum();
    let mut parameters = Parameters::default()
        .with("model", model)
        .with("revision", revision)
        .with("hub", hub.trim_end_matches('/'))
        .with("gateways_key", gateways_key.to_string())
        .with("total", total.to_string())
        .with("engine", program(*engine));
    if let Some(folder) = image::default_for(*engine).engine_dir {
        parameters.push("engine_dir", folder);
    }
    for word in engine.probe() {
        parameters.push("probe", word);
    }
    for package in engine.packages() {
        parameters.push("package", package);
    }
    for file in files {
        let WeightFile { path, size, sha256 } = file;
        let sum = sha256.as_deref().unwrap_or("-");
        parameters.push("file", format!("{size} {sum} {} {path}", escaped(path)));
    }
    for arg in args {
        match arg {
            Arg::Text(text) => parameters.push("arg", text),
            Arg::Port => parameters.push("arg_port", ""),
            Arg::File(path) => parameters.push("arg_file", path),
        }
    }
    for (name, value) in env {
        parameters.push("env", format!("{name}={value}"));
    }
    parameters
}

fn program(engine: Engine) -> &'static str {
    match engine {
        Engine::Vllm => "vllm",
        Engine::Transformers => "transformers",
        Engine::LlamaCpp => "llama-server",
    }
}

/// A path as it stands in a URL: everything but the unreserved characters and `/` is escaped.
fn escaped(path: &str) -> String {
    path.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

pub(super) fn parse(bytes: &[u8]) -> Result<Accepted, Unreadable> {
    let answer = Answer::parse(bytes)?;
    Ok(Accepted {
        digest: answer.parsed("deploy", super::visit::digest)?,
        already: answer.parsed("already", answer::yes_or_no)?,
        port: answer.parsed("port", super::visit::port)?,
        files: answer.parsed("files", answer::text)?,
        uploads: Uploads {
            medium: answer.parsed("medium", super::visit::medium)?,
            quota: answer.parsed("quota", answer::number)?,
        },
    })
}
