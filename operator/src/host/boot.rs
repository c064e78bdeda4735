//! The start command, the create-time environment, and the one line that a booted host is believed by.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::host::image::Form;
use crate::host::{BootId, Incarnation};
use crate::ssh::HostKey;

/// The secret that ties a host's line to the pod we rented: `HKDF(installation key, uid|attempt)`, as 64 hex characters.
///
/// It travels in the create-time environment, which whoever holds the account's key can read; it is worthless after the pin.
#[derive(Clone)]
pub struct Nonce(Zeroizing<String>);

impl Nonce {
    /// Derives the nonce of one attempt.
    pub fn derive(installation_key: &[u8], uid: &str, attempt: u64) -> Self {
        let mut raw = Zeroizing::new([0u8; 32]);
        Hkdf::<Sha256>::new(None, installation_key)
            .expand(
                format!("srchat host nonce|{uid}|{attempt}").as_bytes(),
                raw.as_mut_slice(),
            )
            .expect("32 bytes are a legal length for HKDF-SHA256");
        Self(Zeroizing::new(hex::encode(raw.as_slice())))
    }

    /// Takes a nonce from a create-time environment (simulated hosts do).
    pub fn from_environment(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(..)")
    }
}

/// What proves, in a pod's environment, that this installation made it: `HMAC(installation key, installation|uid|attempt)` in hex.
pub fn owner_proof(installation_key: &[u8], of: &Incarnation) -> String {
    hex::encode(owner_mac(installation_key, of).finalize().into_bytes())
}

/// Whether a proof found in a pod's environment is ours, in constant time.
pub fn owner_proof_holds(installation_key: &[u8], of: &Incarnation, proof: &str) -> bool {
    owner_proof(installation_key, of)
        .as_bytes()
        .ct_eq(proof.as_bytes())
        .into()
}

fn owner_mac(installation_key: &[u8], of: &Incarnation) -> Hmac<Sha256> {
    let Incarnation {
        installation,
        uid,
        attempt,
    } = of;
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(installation_key)
        .expect("HMAC takes a key of any length");
    mac.update(format!("{installation}|{uid}|{attempt}").as_bytes());
    mac
}

/// What a pod is told at its creation. All of it can be read by whoever holds the account's key.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Whom the pod is for.
    pub incarnation: Incarnation,
    /// [`owner_proof`] of it.
    pub owner: String,
    /// The nonce of it.
    pub nonce: Nonce,
    /// When the watchdog clears and ends the pod, in Unix seconds.
    pub deadline: i64,
    /// The base URL of the provider's API as the host sees it.
    pub api: String,
    /// The root on disk.
    pub root: String,
    /// The root in memory.
    pub memory: String,
    /// The public half of the controller's key.
    pub controller_key: HostKey,
}

impl Environment {
    /// The variables, all of them.
    pub fn variables(&self) -> BTreeMap<String, String> {
        let Self {
            incarnation,
            owner,
            nonce,
            deadline,
            api,
            root,
            memory,
            controller_key,
        } = self;
        [
            ("SRCHAT_OWNER", owner.clone()),
            ("SRCHAT_INSTALLATION", incarnation.installation.clone()),
            ("SRCHAT_UID", incarnation.uid.clone()),
            ("SRCHAT_ATTEMPT", incarnation.attempt.to_string()),
            ("SRCHAT_NONCE", nonce.reveal().to_owned()),
            ("SRCHAT_DEADLINE", deadline.to_string()),
            ("SRCHAT_API", api.clone()),
            ("SRCHAT_ROOT", root.clone()),
            ("SRCHAT_MEMORY", memory.clone()),
            ("SRCHAT_CONTROLLER_KEY", controller_key.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// The boot script and the watchdog. Everything else is uploaded once the host is trusted.
pub(super) const SCRIPT: &str = concat!(
    include_str!("processes.sh"),
    include_str!("erase.sh"),
    include_str!("watchdog.sh"),
    include_str!("boot.sh")
);

/// The longest start command: more is refused on the way to the container.
pub const START_COMMAND_LIMIT: usize = 32 * 1024;

/// The provider's `args` for an image of this form: the same for every session, so that it holds no secret.
pub fn start_command(form: Form) -> String {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    let packed = gzip
        .write_all(SCRIPT.as_bytes())
        .and_then(|()| gzip.finish())
        .expect("writing to memory does not fail");
    let packed = STANDARD.encode(packed);
    let command = format!(r#"exec sh -c "$(echo {packed} | base64 -d | gzip -d)""#);
    match form {
        Form::Words => format!("sh -c '{command}'"),
        Form::Json => {
            serde_json::json!({"entrypoint": ["/bin/sh", "-c"], "cmd": [command]}).to_string()
        }
    }
}

/// What a valid `SRCHAT-HOST` line says: which boot, and which key its sshd has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLine {
    /// The boot that printed it.
    pub boot_id: BootId,
    /// The host key of that boot: to be pinned.
    pub key: HostKey,
}

/// The step of the boot that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BootStage {
    /// The roots could not be made, or hold another attempt's marker.
    Root,
    /// The watchdog did not start.
    Watchdog,
    /// The deadline had passed when the container started: an ended pod that was started again.
    Expired,
    /// There is no sshd, and none could be installed in 180 seconds.
    Install,
    /// No host key could be made.
    HostKey,
    /// sshd did not start, or ended.
    Sshd,
    /// A stage that this version does not know.
    Other,
}

impl BootStage {
    fn parse(word: &str) -> Self {
        match word {
            "root" => Self::Root,
            "watchdog" => Self::Watchdog,
            "expired" => Self::Expired,
            "install" => Self::Install,
            "hostkey" => Self::HostKey,
            "sshd" => Self::Sshd,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for BootStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "its folders could not be made",
            Self::Watchdog => "its watchdog did not start",
            Self::Expired => "its deadline had passed",
            Self::Install => "there is no sshd and none could be installed",
            Self::HostKey => "no host key could be made",
            Self::Sshd => "sshd did not start",
            Self::Other => "it failed in a step that this version does not know",
        })
    }
}

/// What a pod's own log says of its boot: its newest line that means something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootLog {
    /// Nothing yet.
    Silent,
    /// sshd is up, with this key.
    Host(HostLine),
    /// The boot gave up: condemn the pod.
    Failed(BootStage),
}

/// Reads a pod's container log, oldest line first. Lines with a wrong tag, for another pod or from another attempt do not count.
pub fn read_log<'a>(
    lines: impl IntoIterator<Item = &'a str>,
    nonce: &Nonce,
    pod_id: &str,
) -> BootLog {
    let mut seen = BootLog::Silent;
    for line in lines {
        let line = line.trim();
        if let Some(host) = parse_line(line, nonce, pod_id) {
            seen = BootLog::Host(host);
        } else if let Some(stage) = line.strip_prefix("SRCHAT-BOOT-FAILED ") {
            seen = BootLog::Failed(BootStage::parse(stage));
        }
    }
    seen
}

/// One line of the log, if it is a valid `SRCHAT-HOST` line of this pod and attempt.
pub fn parse_line(line: &str, nonce: &Nonce, pod_id: &str) -> Option<HostLine> {
    let mut words = line.strip_prefix("SRCHAT-HOST ")?.splitn(2, ' ');
    let boot_id: BootId = words.next()?.parse().ok()?;
    let (key, given) = words.next()?.rsplit_once(' ')?;
    let key: HostKey = key.parse().ok()?;
    let expected = tag(nonce, pod_id, &boot_id, &key);
    bool::from(expected.as_bytes().ct_eq(given.as_bytes())).then_some(HostLine { boot_id, key })
}

/// The line that a host prints. Real hosts make it in the boot script; simulated ones, and the tests, here.
pub fn line(nonce: &Nonce, pod_id: &str, host: &HostLine) -> String {
    let HostLine { boot_id, key } = host;
    format!(
        "SRCHAT-HOST {boot_id} {key} {}",
        tag(nonce, pod_id, boot_id, key)
    )
}

/// SHA-256 of the nonce's 64 hex characters, then of the SHA-256 of pod id, boot id and key, each in 64 hex characters:
/// fixed lengths, so that no two sets of values hash alike.
fn tag(nonce: &Nonce, pod_id: &str, boot_id: &BootId, key: &HostKey) -> String {
    let hashed = |text: &str| hex::encode(Sha256::digest(text.as_bytes()));
    let mut sum = Sha256::new();
    sum.update(nonce.reveal().as_bytes());
    sum.update(hashed(pod_id).as_bytes());
    sum.update(hashed(boot_id.as_str()).as_bytes());
    sum.update(hashed(&key.to_string()).as_bytes());
    hex::encode(sum.finalize())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ssh::KeyPair;
    use proptest::prelude::*;

    const KEY: &[u8] = b"an installation key of 32 bytes!";

    fn incarnation(attempt: u64) -> Incarnation {
        Incarnation {
            installation: "9f3a2c1b".to_owned(),
            uid: "0b9e2c6e-5d1e-4b0a-9a53-7d3f0a6b1c2d".to_owned(),
            attempt,
        }
    }

    fn host() -> HostLine {
        HostLine {
            boot_id: "00112233445566778899aabbccddeeff".parse().unwrap(),
            key: KeyPair::generate().unwrap().public(),
        }
    }

    #[test]
    fn an_owner_proof_holds_for_its_own_attempt_only() {
        let proof = owner_proof(KEY, &incarnation(1));
        assert!(owner_proof_holds(KEY, &incarnation(1), &proof));
        assert!(!owner_proof_holds(KEY, &incarnation(2), &proof));
        assert!(!owner_proof_holds(b"another key", &incarnation(1), &proof));
        assert!(!owner_proof_holds(KEY, &incarnation(1), ""));
    }

    #[test]
    fn a_line_is_believed_for_its_own_pod_and_attempt_only() {
        let nonce = Nonce::derive(KEY, "uid", 1);
        let host = host();
        let line = line(&nonce, "pod1", &host);
        assert_eq!(parse_line(&line, &nonce, "pod1"), Some(host.clone()));
        assert_eq!(parse_line(&line, &nonce, "pod2"), None);
        let other = Nonce::derive(KEY, "uid", 2);
        assert_eq!(parse_line(&line, &other, "pod1"), None);
        let another_boot = line.replace("00112233", "00112234");
        assert_eq!(parse_line(&another_boot, &nonce, "pod1"), None);
    }

    #[test]
    fn the_newest_meaningful_line_counts() {
        let nonce = Nonce::derive(KEY, "uid", 1);
        let (first, second) = (host(), host());
        let (one, two) = (line(&nonce, "p", &first), line(&nonce, "p", &second));
        let read = |lines: &[&str]| read_log(lines.iter().copied(), &nonce, "p");
        assert_eq!(read(&["pulling", ""]), BootLog::Silent);
        assert_eq!(read(&[&one, "noise", &two, "more"]), BootLog::Host(second));
        assert_eq!(
            read(&["SRCHAT-BOOT-FAILED install"]),
            BootLog::Failed(BootStage::Install)
        );
        assert_eq!(
            read(&["SRCHAT-BOOT-FAILED sshd", &format!("{one}\r")]),
            BootLog::Host(first)
        );
    }

    #[test]
    fn the_environment_is_exactly_what_the_host_needs() {
        let nonce = Nonce::derive(KEY, "uid", 1);
        let environment = Environment {
            incarnation: incarnation(1),
            owner: "proof".to_owned(),
            nonce: nonce.clone(),
            deadline: 1_800_000_000,
            api: "https://api.runpod.io/v2".to_owned(),
            root: "/srchat".to_owned(),
            memory: "/dev/shm/srchat".to_owned(),
            controller_key: KeyPair::generate().unwrap().public(),
        };
        let names: Vec<_> = environment.variables().into_keys().collect();
        assert_eq!(
            names,
            [
                "SRCHAT_API",
                "SRCHAT_ATTEMPT",
                "SRCHAT_CONTROLLER_KEY",
                "SRCHAT_DEADLINE",
                "SRCHAT_INSTALLATION",
                "SRCHAT_MEMORY",
                "SRCHAT_NONCE",
                "SRCHAT_OWNER",
                "SRCHAT_ROOT",
                "SRCHAT_UID",
            ]
        );
        assert!(!format!("{environment:?}").contains(nonce.reveal()));
    }

    #[test]
    fn the_start_command_is_short_enough_and_holds_no_quote_that_would_end_it() {
        let words = start_command(Form::Words);
        assert!(words.len() <= START_COMMAND_LIMIT, "{}", words.len());
        assert_eq!(words.matches('\'').count(), 2);
        let json: serde_json::Value = serde_json::from_str(&start_command(Form::Json)).unwrap();
        let inner = json["cmd"][0].as_str().unwrap();
        assert_eq!(words, format!("sh -c '{inner}'"));
    }

    proptest! {
        #[test]
        fn no_foreign_line_is_believed(line in "(SRCHAT-HOST )?.{0,200}") {
            let nonce = Nonce::derive(KEY, "uid", 1);
            prop_assert_eq!(parse_line(&line, &nonce, "pod"), None);
        }
    }
}
