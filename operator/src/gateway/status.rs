//! Progress, cost and expiry as server-sent events, so that a client need not read the API server.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use serde::Serialize;
use srchat_crds::Dollars;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::body::Answer;
use super::sessions::{Admitted, Known};
use crate::host::visit::Activity;
use crate::route::{Expiry, Route, Stage};

/// Without a change an event comes this often: the cost grows, and a dead connection is noticed.
const BEAT: Duration = Duration::from_secs(15);

/// One event.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    stage: Stage,
    percent: Option<u8>,
    message: &'a str,
    cost: Option<Cost>,
    expiry: Option<&'a Expiry>,
    idle: Option<Idle>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    hourly: Option<Dollars>,
    accrued: Dollars,
    as_of: Timestamp,
}

/// When the session will end for want of use.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Idle {
    limit_seconds: u64,
    /// What is left; unknown before the host was asked.
    left_seconds: Option<u64>,
}

/// `GET …/status`: ends when the session is gone, the token revoked, or the gateway ends.
pub fn answer(admitted: Admitted, ending: CancellationToken) -> Answer {
    let mut follow = admitted.session.follow();
    follow.mark_changed();
    let state = (follow, admitted, ending);
    let events = futures::stream::unfold(state, |(mut follow, admitted, ending)| async move {
        tokio::select! {
            biased;
            () = admitted.known.revoked.cancelled() => return None,
            () = ending.cancelled() => return None,
            changed = timeout(BEAT, follow.changed()) => if let Ok(Err(_gone)) = changed { return None },
        }
        let event = event(&follow.borrow_and_update(), Timestamp::now());
        Some((Ok(Frame::data(event)), (follow, admitted, ending)))
    });
    let mut answer = Response::new(StreamBody::new(events).boxed_unsync());
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    answer
}

fn event(known: &Known, now: Timestamp) -> Bytes {
    let activity = known
        .tunnel
        .as_ref()
        .map_or(Activity::Unknown, |tunnel| tunnel.activity());
    let event = describe(&known.route, activity, now);
    let mut text = b"data: ".to_vec();
    serde_json::to_writer(&mut text, &event).expect("strings and numbers serialise");
    text.extend_from_slice(b"\n\n");
    text.into()
}

fn describe(route: &Route, activity: Activity, now: Timestamp) -> Event<'_> {
    let cost = route.spend.zip(route.spend_as_of).map(|(spend, since)| {
        let running = now
            .duration_since(since)
            .try_into()
            .unwrap_or(Duration::ZERO);
        let accrued = route
            .hourly
            .map_or(spend, |hourly| spend + hourly.for_hours_of(running));
        Cost {
            hourly: route.hourly,
            accrued,
            as_of: now,
        }
    });
    let idle = route
        .idle_seconds
        .filter(|_| route.stage == Stage::Serving)
        .map(|limit_seconds| {
            let since_ready = route.ready.map(|ready| {
                Duration::try_from(now.duration_since(ready)).unwrap_or(Duration::ZERO)
            });
            let unused = match (activity, since_ready) {
                (Activity::Unknown, _) | (Activity::Never, None) => None,
                (Activity::Never, Some(ready)) => Some(ready),
                (Activity::Ago(ago), ready) => Some(ready.map_or(ago, |ready| ready.min(ago))),
            };
            Idle {
                limit_seconds,
                left_seconds: unused.map(|unused| limit_seconds.saturating_sub(unused.as_secs())),
            }
        });
    Event {
        stage: route.stage,
        percent: route.percent,
        message: &route.message,
        cost,
        expiry: route.expiry.as_ref(),
        idle,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn route() -> Route {
        Route {
            uid: "u".into(),
            namespace: "n".into(),
            name: "s".into(),
            token: None,
            stage: Stage::Serving,
            percent: None,
            message: String::new(),
            hourly: Some("0.79".parse().unwrap()),
            spend: Some("0.05".parse().unwrap()),
            spend_as_of: Some(Timestamp::UNIX_EPOCH),
            expiry: None,
            idle_seconds: Some(1800),
            ready: Some(Timestamp::UNIX_EPOCH),
            host: None,
        }
    }

    #[test]
    fn the_cost_runs_on_from_what_was_told() {
        let hour = Timestamp::from_second(3600).unwrap();
        let route = route();
        let cost = describe(&route, Activity::Unknown, hour).cost.unwrap();
        assert_eq!(cost.accrued, "0.84".parse().unwrap());
        assert_eq!(cost.as_of, hour);
    }

    #[test]
    fn idleness_counts_from_the_later_of_ready_and_use_and_is_never_guessed() {
        let now = Timestamp::from_second(1000).unwrap();
        let left = |activity| describe(&route(), activity, now).idle.unwrap().left_seconds;
        assert_eq!(left(Activity::Unknown), None);
        assert_eq!(left(Activity::Never), Some(800));
        assert_eq!(left(Activity::Ago(Duration::from_secs(100))), Some(1700));
        assert_eq!(left(Activity::Ago(Duration::from_secs(5000))), Some(800));
    }
}
