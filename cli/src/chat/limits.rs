//! What the session costs and when it ends, followed in the background; a warning before each limit, once.

use super::editor::Notices;
use crate::gateway::Gateway;
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::watch;

/// Before the session's lifetime or its budget ends.
const BEFORE_EXPIRY: SignedDuration = SignedDuration::from_mins(10);
/// Before it ends for want of use.
const BEFORE_IDLE: u64 = 5 * 60;
/// Between two attempts to follow again: the gateway may be restarting.
const AGAIN: Duration = Duration::from_secs(5);
/// The gateway's events are a few hundred bytes.
const LONGEST: usize = 64 << 10;

/// One event of the gateway's status stream, as far as the chat needs it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// How far the session is; `Serving` when the model answers.
    pub stage: String,
    /// What it costs.
    pub cost: Option<Cost>,
    /// When it ends at the latest.
    pub expiry: Option<Expiry>,
    /// When it ends for want of use.
    pub idle: Option<Idle>,
}

/// What a session costs, in US dollars.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Cost {
    /// An hour.
    pub hourly: Option<String>,
    /// So far.
    pub accrued: String,
}

/// The earliest end.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Expiry {
    /// When.
    pub time: Timestamp,
    /// `Lifetime` or `Budget`.
    pub reason: String,
}

/// Idleness.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Idle {
    /// Seconds that are left; unknown before the host was asked.
    pub left_seconds: Option<u64>,
}

/// Follows until it is dropped.
pub struct Limits {
    latest: watch::Receiver<Status>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Limits {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Limits {
    /// Begins to follow. What the person must know is said through `notices`.
    pub fn follow(gateway: Gateway, notices: Notices) -> Self {
        let (sender, latest) = watch::channel(Status::default());
        let task = tokio::spawn(async move {
            let mut told = BTreeSet::new();
            loop {
                // A stream that cannot be had is no news: the next message says what is wrong.
                let _ = events(&gateway, |status| {
                    for warning in warnings(&status, &mut told, Timestamp::now()) {
                        notices.say(&warning);
                    }
                    sender.send_replace(status);
                })
                .await;
                tokio::time::sleep(AGAIN).await;
            }
        });
        Self { latest, task }
    }

    /// What was last heard.
    pub fn latest(&self) -> Status {
        self.latest.borrow().clone()
    }
}

async fn events(gateway: &Gateway, mut take: impl FnMut(Status)) -> Option<()> {
    let mut body = gateway.status().await.ok()?.bytes_stream();
    let mut buffer = Vec::new();
    while let Some(Ok(bytes)) = body.next().await {
        buffer.extend_from_slice(&bytes);
        while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            if let Some(status) = line
                .strip_prefix(b"data:")
                .and_then(|json| serde_json::from_slice(json).ok())
            {
                take(status);
            }
        }
        if buffer.len() > LONGEST {
            return None;
        }
    }
    Some(())
}

/// What is worth a word now and was not said yet. A limit that moves away is warned of again.
fn warnings(status: &Status, told: &mut BTreeSet<String>, now: Timestamp) -> Vec<String> {
    let mut near = Vec::new();
    if let Some(expiry) = &status.expiry {
        let left = expiry.time.duration_since(now);
        if left <= BEFORE_EXPIRY {
            let (what, way_out) = match expiry.reason.as_str() {
                "Budget" => ("its budget is spent", "raise spec.limits.maxTotalCost"),
                _ => ("its lifetime is over", "srchat extend"),
            };
            let minutes = minutes(left.as_secs().max(0).unsigned_abs());
            near.push((
                expiry.reason.clone(),
                format!("This session ends in {minutes}, when {what} ({way_out} moves the end)."),
            ));
        }
    }
    if let Some(left) = status
        .idle
        .as_ref()
        .and_then(|idle| idle.left_seconds)
        .filter(|left| *left <= BEFORE_IDLE)
    {
        let minutes = minutes(left);
        near.push((
            "Idle".into(),
            format!("This session ends in {minutes} unless it is used."),
        ));
    }
    if !matches!(status.stage.as_str(), "" | "Serving") {
        near.push((
            status.stage.clone(),
            format!("The session does not serve now: {}.", status.stage),
        ));
    }
    told.retain(|what| near.iter().any(|(near, _)| near == what));
    near.retain(|(what, _)| told.insert(what.clone()));
    near.into_iter().map(|(_, words)| words).collect()
}

fn minutes(seconds: u64) -> String {
    match seconds.div_ceil(60) {
        0 | 1 => "less than a minute".to_owned(),
        more => format!("{more} minutes"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn status(json: &str) -> Status {
        serde_json::from_str(json).unwrap()
    }

    fn at(minutes: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes)
    }

    #[test]
    fn an_end_is_told_ten_minutes_before_once_and_again_when_it_moved() {
        let mut told = BTreeSet::new();
        let mut heard = |end: i64, now: i64| {
            let time = at(end);
            let json = format!(
                r#"{{"stage":"Serving","expiry":{{"time":"{time}","reason":"Lifetime"}}}}"#
            );
            warnings(&status(&json), &mut told, at(now)).concat()
        };
        assert_eq!(heard(60, 40), "");
        assert_eq!(
            heard(60, 51),
            "This session ends in 9 minutes, when its lifetime is over (srchat extend moves the end)."
        );
        assert_eq!(heard(60, 52), "");
        assert_eq!(heard(120, 53), "");
        assert_ne!(heard(120, 111), "");
    }

    #[test]
    fn idleness_is_told_five_minutes_before_and_unknown_idleness_is_not() {
        let mut told = BTreeSet::new();
        let mut heard = |json: &str| warnings(&status(json), &mut told, at(0)).concat();
        assert_eq!(
            heard(r#"{"stage":"Serving","idle":{"limitSeconds":600,"leftSeconds":null}}"#),
            ""
        );
        assert_eq!(
            heard(r#"{"stage":"Serving","idle":{"limitSeconds":600,"leftSeconds":240}}"#),
            "This session ends in 4 minutes unless it is used."
        );
    }

    #[test]
    fn a_session_that_no_longer_serves_is_told_by_its_stage() {
        let mut told = BTreeSet::new();
        let heard = warnings(&status(r#"{"stage":"Ended"}"#), &mut told, at(0));
        assert_eq!(heard, ["The session does not serve now: Ended."]);
    }
}
