//! The scripts that run on a host: uploaded once it is trusted, run by constant commands, their answers handed on.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::answer::{ANSWER_LIMIT, Parameters, Unreadable};
use super::{Error, Incarnation};
use crate::ssh::{Bounds, Connection, Output};

/// A script that is run by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    Visit,
    Deploy,
    Close,
    Clear,
}

impl Script {
    fn name(self) -> &'static str {
        match self {
            Self::Visit => "visit",
            Self::Deploy => "deploy",
            Self::Close => "close",
            Self::Clear => "clear",
        }
    }
}

/// What is uploaded: name and text. All but `gate` begin with the same opening.
pub(super) const FILES: [(&str, &str); 6] = [
    (
        "visit",
        concat!(
            include_str!("opening.sh"),
            include_str!("processes.sh"),
            include_str!("visit.sh")
        ),
    ),
    (
        "deploy",
        concat!(
            include_str!("opening.sh"),
            include_str!("processes.sh"),
            include_str!("place.sh"),
            include_str!("deploy.sh")
        ),
    ),
    (
        "job",
        concat!(
            include_str!("opening.sh"),
            include_str!("processes.sh"),
            include_str!("place.sh"),
            include_str!("job.sh")
        ),
    ),
    (
        "close",
        concat!(
            include_str!("opening.sh"),
            include_str!("processes.sh"),
            include_str!("close.sh")
        ),
    ),
    (
        "clear",
        concat!(
            include_str!("opening.sh"),
            include_str!("processes.sh"),
            include_str!("erase.sh"),
            include_str!("clear.sh")
        ),
    ),
    ("gate", include_str!("gate.sh")),
];

/// What the guard in front of a script says when it is not there, or another version's.
const STALE: u32 = 75;

/// Writes the files that stdin names into `bin`, each checked by its SHA-256 before it takes its name.
pub(super) const UPLOAD: &str = include_str!("upload.sh");

/// Uploading is one exec of some 60 KB.
const UPLOAD_BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(60),
    stdout: 1024,
};

/// Runs a script with its parameters. A host that does not have this version of the scripts gets it first.
pub(super) async fn run(
    connection: &Connection,
    script: Script,
    of: &Incarnation,
    parameters: Parameters,
    time: Duration,
) -> Result<Vec<u8>, Error> {
    let Incarnation {
        installation,
        uid,
        attempt,
    } = of;
    let parameters = parameters
        .with("installation", installation)
        .with("uid", uid)
        .with("attempt", attempt.to_string());
    let bounds = Bounds {
        time,
        stdout: ANSWER_LIMIT,
    };
    let (name, command) = (script.name(), command(script));
    let mut output = exec(connection, &command, parameters.bytes(), &bounds).await?;
    if output.status == STALE {
        upload(connection).await?;
        output = exec(connection, &command, parameters.bytes(), &bounds).await?;
    }
    accept(name, output)
}

async fn upload(connection: &Connection) -> Result<(), Error> {
    let output = exec(connection, UPLOAD, package().as_bytes(), &UPLOAD_BOUNDS).await?;
    accept("upload", output).map(drop)
}

async fn exec(
    connection: &Connection,
    command: &str,
    stdin: &[u8],
    bounds: &Bounds,
) -> Result<Output, Error> {
    connection
        .exec(command, stdin, bounds)
        .await
        .map_err(Error::Ssh)
}

fn accept(script: &'static str, output: Output) -> Result<Vec<u8>, Error> {
    if output.status == 0 {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let skip = said.trim().chars().count().saturating_sub(500);
    Err(Error::Failed {
        script,
        status: output.status,
        said: said.trim().chars().skip(skip).collect(),
    })
}

pub(super) fn unreadable(script: Script) -> impl Fn(Unreadable) -> Error {
    move |source| Error::Unreadable {
        script: script.name(),
        source,
    }
}

/// A constant of each build: the digest keeps a newer controller from running an older one's scripts.
pub(super) fn command(script: Script) -> String {
    format!(
        "read -r digest 2>/dev/null <\"$SRCHAT_ROOT/bin/digest\" && [ \"$digest\" = {} ] || exit {STALE}; exec \"$SRCHAT_ROOT/bin/{}\"",
        digest(),
        script.name()
    )
}

fn digest() -> String {
    let mut sum = Sha256::new();
    for (name, text) in FILES {
        sum.update(name);
        sum.update([0]);
        sum.update(text);
        sum.update([0]);
    }
    hex::encode(sum.finalize())
}

/// Lines `name sha256 base64`, the digest last: it stands only where all the others do.
fn package() -> String {
    let mut package = String::new();
    let own = format!("{}\n", digest());
    for (name, text) in FILES.into_iter().chain([("digest", own.as_str())]) {
        let sum = hex::encode(Sha256::digest(text));
        package.push_str(&format!("{name} {sum} {}\n", STANDARD.encode(text)));
    }
    package
}
