//! A host as deploy leaves it, without a deploy: a real sshd that admits the gateways' key to the real gate, and a folder for files.
//! Its loopback is ours, so that the engine may be one of the test's own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use srchat_operator::route::{Abilities, Engine, Medium, Route, RouteHost, Stage, TokenHash};
use srchat_operator::ssh::{HostKey, KeyPair};

use crate::hosts::{Error, HostSpec, Hosts, Image, Machine};

/// The start command.
const SETUP: &str = include_str!("deployed.sh");
/// What the gateways' key is bound to.
const GATE: &str = include_str!("../../operator/src/host/gate.sh");
/// A machine starts in a fraction of a second; this is for a busy one.
const PATIENCE: Duration = Duration::from_secs(30);

/// The host. Dropping it ends it.
pub struct Deployed {
    /// The machine.
    pub machine: Machine,
    /// Where the session's files lie.
    pub files: PathBuf,
    /// The script's own root: activity, logs.
    pub root: PathBuf,
    /// As a route would tell of it.
    pub route: RouteHost,
    /// sshd's own address, without the relay through this process that every machine has in front of it: for measuring.
    pub bare: String,
}

impl Deployed {
    /// Starts sshd, bound to one port of an engine.
    ///
    /// # Errors
    /// When a machine cannot be made here.
    pub async fn start(engine_port: u16) -> Result<Self, Error> {
        let failed = |why: String| Error::Start {
            pod: "deployed".to_owned(),
            why,
        };
        let key = KeyPair::generate().map_err(|error| failed(error.to_string()))?;
        let env = BTreeMap::from([
            ("GATE".to_owned(), GATE.to_owned()),
            ("GATEWAYS_KEY".to_owned(), key.public_line()),
            ("ENGINE_PORT".to_owned(), engine_port.to_string()),
        ]);
        let spec = HostSpec {
            pod_id: "deployed".to_owned(),
            image: Image::default(),
            argv: ["sh", "-c", SETUP].map(str::to_owned).to_vec(),
            env,
            reach: Vec::new(),
        };
        let mut machine = Hosts::Process.start(spec).await?;
        let told = tokio::time::timeout(PATIENCE, listen(&mut machine)).await;
        let (pin, root, files, bare) = told
            .map_err(|_| failed("sshd did not start".to_owned()))?
            .map_err(failed)?;
        let route = RouteHost {
            address: machine.ssh_address().to_string(),
            host_key: pin,
            user: machine.isolation().host_user().unwrap_or_default(),
            key,
            engine_port,
            files_dir: files.display().to_string(),
            served_name: "org/model".to_owned(),
            max_model_len: 4096,
            engine: Engine::LlamaCpp,
            abilities: Abilities {
                chat: true,
                completions: true,
                embeddings: true,
                responses: false,
                tools: true,
                structured_output: true,
                vision: false,
            },
            upload_quota: 64 << 20,
            medium: Medium::Memory,
        };
        Ok(Self {
            machine,
            files,
            root,
            route,
            bare,
        })
    }
}

/// What a gateway is told of a session `namespace/name` that serves, on this host where there is one.
pub fn route(
    uid: &str,
    (namespace, name): (&str, &str),
    token: &str,
    host: Option<&Deployed>,
) -> Route {
    Route {
        uid: uid.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        token: TokenHash::of(token),
        stage: Stage::Serving,
        percent: None,
        message: String::new(),
        hourly: "0.79".parse().ok(),
        spend: "0.05".parse().ok(),
        spend_as_of: Some(jiff::Timestamp::now()),
        expiry: None,
        idle_seconds: Some(1800),
        ready: Some(jiff::Timestamp::now()),
        host: host.map(|host| host.route.clone()),
    }
}

/// What the start command says before sshd listens: key, root, files; and where it listens, as it says itself.
async fn listen(machine: &mut Machine) -> Result<(HostKey, PathBuf, PathBuf, String), String> {
    let (mut pin, mut root, mut files, mut said) = (None, None, None, String::new());
    while let Some(line) = machine.output.recv().await {
        match line.split_once(' ') {
            Some(("HOST", key)) => pin = key.trim().parse().ok(),
            Some(("ROOT", path)) => root = Some(PathBuf::from(path)),
            Some(("FILES", path)) => files = Some(PathBuf::from(path)),
            Some(("Server", listening)) if listening.starts_with("listening on ") => {
                let bare = bare(listening);
                let (Some(pin), Some(root), Some(files), Some(bare)) = (pin, root, files, bare)
                else {
                    return Err(said + &line);
                };
                return Ok((pin, root, files, bare));
            }
            _ => said = said + &line + "\n",
        }
    }
    Err(said)
}

/// Of `listening on 127.0.0.1 port 20022.`: the address.
fn bare(listening: &str) -> Option<String> {
    let (host, port) = listening
        .strip_prefix("listening on ")?
        .split_once(" port ")?;
    Some(format!("{host}:{}", port.trim_end().trim_end_matches('.')))
}
