//! One look at a host, in one exec: heartbeat, stage, engine, activity, room.

use std::time::Duration;

use super::answer::{self, Answer, Parameters, Unreadable};
use super::scripts::{self, Script, unreadable};
use super::{BootId, Error, Incarnation, Medium, Stage};
use crate::ssh::Connection;

/// What a visit asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ask {
    /// A deadline, in Unix seconds, that the watchdog shall hold from now on; [`Visit::deadline`] says whether it does.
    pub deadline: Option<i64>,
    /// The stage seen last: the host answers as soon as its stage is another, or something failed, and otherwise after
    /// `patience`. So a start-up is followed without asking every moment.
    pub known: Option<Stage>,
    /// How long the host may hold its answer back, at most [`LONGEST_PATIENCE`].
    pub patience: Duration,
}

/// A host never holds an answer back longer: the controller's passes stay short.
pub const LONGEST_PATIENCE: Duration = Duration::from_secs(20);

/// What a host says of itself. All of it is foreign input: none of it proves anything but that the pinned host said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// The boot that answers. Another one than the pinned means that the host was restarted.
    pub boot_id: BootId,
    /// The digest of what was deployed ([`super::deploy::Accepted::digest`]); `None` before the first deploy.
    pub deployed: Option<String>,
    /// How far it is.
    pub stage: Stage,
    /// What went wrong, if the stage will not be left any more.
    pub failure: Option<Failure>,
    /// Bytes of weights on the host.
    pub bytes: u64,
    /// Bytes of weights in all.
    pub total: u64,
    /// How the engine is.
    pub engine: Health,
    /// The engine's port on the host's loopback, once chosen.
    pub port: Option<u16>,
    /// When somebody last used the session.
    pub activity: Activity,
    /// When the watchdog will clear and end this host, in Unix seconds by the clock at its boot.
    pub deadline: i64,
    /// Free bytes on the disk root; `None` if they could not be read.
    pub free_disk: Option<u64>,
    /// Free bytes in the memory root; `None` if they could not be read.
    pub free_memory: Option<u64>,
    /// Where uploads live and how many bytes of them fit, once deployed.
    pub uploads: Option<Uploads>,
    /// Whether engine, download and gateways run as users of their own. Not so without root (the rig's process mode).
    pub users_separated: bool,
}

impl Visit {
    /// Progress of the whole start-up as the user sees it. Bytes are most of it where there are any.
    pub fn percent(&self) -> u8 {
        match self.stage {
            Stage::Connecting => 0,
            Stage::Installing => 5,
            Stage::Downloading => {
                let share = self.bytes.min(self.total) as u128 * 80;
                let share = share.checked_div(u128::from(self.total)).unwrap_or(0);
                10 + u8::try_from(share).unwrap_or(80)
            }
            Stage::Loading => 90,
            Stage::Serving => 100,
        }
    }
}

/// Where uploads live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uploads {
    /// Memory or disk.
    pub medium: Medium,
    /// Bytes that fit, measured at deploy.
    pub quota: u64,
}

/// How the engine is, as its `/health` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Not started yet.
    Absent,
    /// Its process lives and does not answer yet.
    Starting,
    /// It answers.
    Healthy,
    /// It answered before, its process lives, and it does not answer now.
    Silent,
    /// Its process is gone.
    Dead,
}

/// When somebody last used the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// It could not be read: never to be taken for idleness.
    Unknown,
    /// Nobody has since the deploy.
    Never,
    /// This long ago, by the host's uptime, so clocks do not matter.
    Ago(Duration),
}

/// Why a deploy or an engine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What failed.
    pub kind: FailureKind,
    /// The last lines of the log, without secrets, at most 2,000 characters.
    pub log: String,
}

/// What failed on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The engine is there and does not run: `--version` failed.
    Probe,
    /// The engine could not be installed.
    Install,
    /// There is not enough disk for the weights.
    DiskFull,
    /// The Hub refused the token (401, 403).
    HubRefused,
    /// The weights could not be downloaded.
    Download,
    /// A file's size or SHA-256 is not what the plan says.
    Verify,
    /// The engine ended while loading.
    Start,
    /// The engine served, and ended.
    Died,
    /// A step took longer than it may.
    Timeout,
    /// The deploy ended without saying why: it was killed.
    Lost,
}

impl FailureKind {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "probe" => Self::Probe,
            "install" => Self::Install,
            "disk" => Self::DiskFull,
            "refused" => Self::HubRefused,
            "download" => Self::Download,
            "verify" => Self::Verify,
            "start" => Self::Start,
            "died" => Self::Died,
            "timeout" => Self::Timeout,
            "lost" => Self::Lost,
            _ => return None,
        })
    }
}

fn stage(word: &str) -> Option<Stage> {
    Some(match word {
        "connecting" => Stage::Connecting,
        "installing" => Stage::Installing,
        "downloading" => Stage::Downloading,
        "loading" => Stage::Loading,
        "serving" => Stage::Serving,
        _ => return None,
    })
}

fn health(word: &str) -> Option<Health> {
    Some(match word {
        "absent" => Health::Absent,
        "starting" => Health::Starting,
        "healthy" => Health::Healthy,
        "silent" => Health::Silent,
        "dead" => Health::Dead,
        _ => return None,
    })
}

fn activity(word: &str) -> Option<Activity> {
    Some(match word {
        "never" => Activity::Never,
        seconds => Activity::Ago(Duration::from_secs(answer::number(seconds)?)),
    })
}

pub(super) fn digest(word: &str) -> Option<String> {
    (word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit())).then(|| word.to_owned())
}

pub(super) fn medium(word: &str) -> Option<Medium> {
    Some(match word {
        "memory" => Medium::Memory,
        "disk" => Medium::Disk,
        _ => return None,
    })
}

pub(super) fn port(word: &str) -> Option<u16> {
    answer::number(word)
        .and_then(|n| u16::try_from(n).ok())
        .filter(|port| *port >= 1024)
}

/// A visit looks at a few files and asks the engine once; a host that swaps takes seconds for that.
const VISIT_TIME: Duration = Duration::from_secs(30);

/// Looks at the host. It is a heartbeat as well.
///
/// # Errors
/// When the host could not be asked, is not this incarnation's, or answers something unreadable. Nothing is known then.
pub async fn visit(connection: &Connection, of: &Incarnation, ask: &Ask) -> Result<Visit, Error> {
    let Ask {
        deadline,
        known,
        patience,
    } = ask;
    let patience = (*patience).min(LONGEST_PATIENCE);
    let mut parameters = Parameters::default().with("patience", patience.as_secs().to_string());
    if let Some(deadline) = deadline {
        parameters.push("deadline", deadline.to_string());
    }
    if let Some(known) = known {
        parameters.push("known", word(*known));
    }
    let time = VISIT_TIME + patience;
    let answer = scripts::run(connection, Script::Visit, of, parameters, time).await?;
    parse(&answer).map_err(unreadable(Script::Visit))
}

fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Connecting => "connecting",
        Stage::Installing => "installing",
        Stage::Downloading => "downloading",
        Stage::Loading => "loading",
        Stage::Serving => "serving",
    }
}

pub(super) fn parse(bytes: &[u8]) -> Result<Visit, Unreadable> {
    let answer = Answer::parse(bytes)?;
    let failure = match answer.known("failure", FailureKind::parse)? {
        None => None,
        Some(kind) => Some(Failure {
            kind,
            log: redact(&shorten(&answer.parsed("log", answer::text)?)),
        }),
    };
    let uploads = match (
        answer.known("medium", medium)?,
        answer.known("quota", answer::number)?,
    ) {
        (Some(medium), Some(quota)) => Some(Uploads { medium, quota }),
        (None, _) | (_, None) => None,
    };
    Ok(Visit {
        boot_id: answer.parsed("boot", |word| word.parse().ok())?,
        deployed: answer.known("deploy", digest)?,
        stage: answer.parsed("stage", stage)?,
        failure,
        bytes: answer.parsed("bytes", answer::number)?,
        total: answer.parsed("total", answer::number)?,
        engine: answer.parsed("engine", health)?,
        port: answer.known("port", port)?,
        activity: answer
            .known("activity", activity)?
            .unwrap_or(Activity::Unknown),
        deadline: answer.parsed("deadline", |word| {
            answer::number(word).and_then(|n| i64::try_from(n).ok())
        })?,
        free_disk: answer.known("disk", answer::number)?,
        free_memory: answer.known("memory", answer::number)?,
        uploads,
        users_separated: answer.parsed("users", answer::yes_or_no)?,
    })
}

/// Keeps the end of a log, which says what happened, and nothing that would break a line of a condition.
fn shorten(log: &str) -> String {
    const LIMIT: usize = 2_000;
    let clean: String = log
        .chars()
        .filter(|c| !c.is_control() || *c == '\n')
        .collect();
    let skip = clean.chars().count().saturating_sub(LIMIT);
    clean.chars().skip(skip).collect()
}

/// Takes out what looks like a secret. No engine is given one; this is for what a user, an image or a URL brought along.
fn redact(log: &str) -> String {
    const BEGINNINGS: [&str; 7] = ["hf_", "api_org_", "rpa_", "rps_", "srchat_", "sk-", "ey"];
    let mut bearer = false;
    log.split_inclusive(char::is_whitespace)
        .map(|word| {
            let text = word.trim_end();
            let after_bearer = std::mem::replace(&mut bearer, text.eq_ignore_ascii_case("bearer"));
            if after_bearer {
                return word.replace(text, "***");
            }
            // A signed address carries its signature behind the question mark.
            if let Some((address, _)) = text.split_once('?')
                && address.contains("://")
            {
                return word.replace(text, &format!("{address}?***"));
            }
            let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            let secret = text.split(|c| !is_token(c)).find(|part| {
                part.len() >= 16 && BEGINNINGS.iter().any(|start| part.starts_with(start))
            });
            match secret {
                Some(secret) => word.replace(secret, "***"),
                None => word.to_owned(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const WHOLE: &str = "srchat 1\nboot 00112233445566778899aabbccddeeff\ndeploy -\nstage downloading\nfailure -\nlog -\nbytes 50\ntotal 100\n\
        engine absent\nport -\nactivity never\ndeadline 1800000000\ndisk 1000\nmemory -\nmedium memory\nquota 268435456\nusers yes\nend\n";

    #[test]
    fn a_visit_is_read_whole() {
        let visit = parse(WHOLE.as_bytes()).unwrap();
        assert_eq!(visit.stage, Stage::Downloading);
        assert_eq!(visit.percent(), 50);
        assert_eq!(visit.activity, Activity::Never);
        assert_eq!(visit.free_memory, None);
        assert_eq!(
            visit.uploads,
            Some(Uploads {
                medium: Medium::Memory,
                quota: 268_435_456
            })
        );
    }

    #[test]
    fn activity_that_could_not_be_read_is_unknown_and_not_idleness() {
        let answer = WHOLE.replace("activity never", "activity -");
        assert_eq!(
            parse(answer.as_bytes()).unwrap().activity,
            Activity::Unknown
        );
    }

    #[test]
    fn a_failure_keeps_the_end_of_its_log_and_no_control_characters() {
        use base64::Engine as _;
        let log = format!("{}\x1b[31mCUDA out of memory\n", "x".repeat(5_000));
        let log = base64::engine::general_purpose::STANDARD.encode(log);
        let answer = WHOLE
            .replace("failure -", "failure start")
            .replace("log -", &format!("log {log}"));
        let failure = parse(answer.as_bytes()).unwrap().failure.unwrap();
        assert_eq!(failure.kind, FailureKind::Start);
        assert_eq!(failure.log.chars().count(), 2_000);
        assert!(failure.log.ends_with("[31mCUDA out of memory\n"));
    }

    #[test]
    fn what_looks_like_a_secret_is_taken_out_of_a_log() {
        let log = "GET https://cdn.example/f?X-Amz-Signature=abc&x=y 403\nAuthorization: Bearer abcdef\n\
            token=hf_abcdefghijklmnopqrstuv, next\nhf_short stays, sk-0123456789abcdef01 goes\n";
        insta::assert_snapshot!(redact(log), @r"
        GET https://cdn.example/f?*** 403
        Authorization: Bearer ***
        token=***, next
        hf_short stays, *** goes
        ");
    }

    #[test]
    fn no_line_can_be_left_out() {
        for (n, _) in WHOLE.lines().enumerate() {
            let lines: Vec<_> = WHOLE.lines().enumerate().filter(|(m, _)| *m != n).collect();
            let without: String = lines.iter().map(|(_, line)| format!("{line}\n")).collect();
            // The log is only asked for when there is a failure.
            let needed = !WHOLE.lines().nth(n).unwrap().starts_with("log ");
            assert_eq!(parse(without.as_bytes()).is_err(), needed, "{without}");
        }
    }

    proptest! {
        #[test]
        fn a_changed_byte_never_panics(at in 0..WHOLE.len(), byte in any::<u8>()) {
            let mut bytes = WHOLE.as_bytes().to_vec();
            bytes[at] = byte;
            let _ = parse(&bytes);
        }
    }
}
