//! A session as its controller is handed it. A stored one may have a spec that this version cannot read: then its metadata and its
//! ledger are all there is to go by, and that is enough to end it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt as _;
use kube::core::DeserializeGuard;
use srchat_crds::{
    ANNOTATION_ABANDON, ANNOTATION_UNCONFIRMED_UNTIL, ChatSession, ChatSessionSpec, Dollars,
    FINALIZER,
};

use super::ledger::{Ledger, span};
use super::observe::{LedgerSeen, Limits, Session};

/// A session, and whether its spec is its own.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    /// With a spec in its place when its own cannot be read: only the metadata is to be believed then.
    pub session: ChatSession,
    /// Why the spec cannot be read.
    pub unreadable: Option<String>,
}

impl From<DeserializeGuard<ChatSession>> for Given {
    fn from(found: DeserializeGuard<ChatSession>) -> Self {
        match found.0 {
            Ok(session) => Self {
                session,
                unreadable: None,
            },
            Err(bad) => Self {
                session: placeholder(bad.metadata),
                unreadable: Some(bad.error),
            },
        }
    }
}

impl Given {
    /// A session that vanished without its end, as its ledger remembers it.
    pub(crate) fn ghost(ledger: &Ledger) -> Self {
        let made = Some(Time(ledger.made));
        let metadata = ObjectMeta {
            name: Some(ledger.session.name.clone()),
            namespace: Some(ledger.session.namespace.clone()),
            uid: Some(ledger.session.uid.clone()),
            creation_timestamp: made.clone(),
            deletion_timestamp: made,
            finalizers: Some(vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        };
        Self {
            session: placeholder(metadata),
            unreadable: Some("the session is gone".to_owned()),
        }
    }

    /// The session's own words, parsed. The CRD has checked them; what it could not check gets its default. Where they cannot be
    /// read, what the ledger remembers of them holds on.
    pub(crate) fn parse(&self, ledger: &LedgerSeen) -> Session {
        let session = &self.session;
        let annotation = |name: &str| session.annotations().get(name);
        let Terms {
            replicas,
            limits,
            wipe_timeout,
        } = match (&self.unreadable, ledger) {
            (None, _) => Terms::of(&session.spec),
            (Some(_), LedgerSeen::Is(ledger)) => Terms::remembered(ledger),
            (Some(_), LedgerSeen::Missing | LedgerSeen::Unreadable) => Terms::nothing(),
        };
        Session {
            uid: session.uid().unwrap_or_default(),
            namespace: session.namespace().unwrap_or_default(),
            name: session.name_any(),
            generation: session.metadata.generation.unwrap_or_default(),
            created: session
                .creation_timestamp()
                .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            deleting: session.metadata.deletion_timestamp.is_some(),
            finalizer: session
                .finalizers()
                .iter()
                .any(|finalizer| finalizer == FINALIZER),
            unreadable: self.unreadable.clone(),
            replicas,
            limits,
            wipe_timeout,
            abandon: annotation(ANNOTATION_ABANDON).cloned(),
            unconfirmed_until: annotation(ANNOTATION_UNCONFIRMED_UNTIL)
                .map(|text| text.parse().unwrap_or(Timestamp::UNIX_EPOCH)),
        }
    }
}

/// What a spec says that decisions need.
struct Terms {
    replicas: u8,
    limits: Limits,
    wipe_timeout: Duration,
}

impl Terms {
    fn of(spec: &ChatSessionSpec) -> Self {
        let limits = &spec.limits;
        let lifetime = limits.lifetime.duration();
        let idle = limits
            .idle
            .map_or(lifetime.min(Duration::from_secs(30 * 60)), |idle| {
                idle.duration()
            });
        Self {
            replicas: u8::from(spec.replicas > 0),
            limits: Limits {
                hourly: limits.max_hourly_cost,
                total: limits.max_total_cost,
                lifetime,
                idle: (!idle.is_zero()).then_some(idle),
                startup: limits.startup.map(|startup| startup.duration()),
                attempts: limits.attempts,
            },
            wipe_timeout: spec.teardown.wipe_timeout.duration(),
        }
    }

    /// What was wanted last is wanted still, until the end that the pod's host was told, and at the price that it was rented for.
    fn remembered(ledger: &Ledger) -> Self {
        let nothing = Self::nothing();
        let Some(pod) = ledger.current() else {
            return Self {
                replicas: ledger.run.replicas,
                ..nothing
            };
        };
        let started = ledger.run.started.unwrap_or(pod.created);
        let offered = ledger
            .attempt(pod.attempt)
            .map_or(pod.hourly, |attempt| attempt.hourly);
        Self {
            replicas: ledger.run.replicas,
            limits: Limits {
                hourly: offered.percent(102) + Dollars::cents(1),
                lifetime: span(started, pod.host_deadline),
                ..nothing.limits
            },
            ..nothing
        }
    }

    /// Nothing is wanted, and nothing allowed.
    fn nothing() -> Self {
        Self {
            replicas: 0,
            limits: Limits {
                hourly: Dollars::ZERO,
                total: None,
                lifetime: Duration::ZERO,
                idle: None,
                startup: None,
                attempts: 1,
            },
            // The default of `teardown.wipeTimeout`.
            wipe_timeout: Duration::from_secs(60),
        }
    }
}

fn placeholder(metadata: ObjectMeta) -> ChatSession {
    let model = "unknown/unknown"
        .parse()
        .expect("it has an owner and a name");
    let mut session = ChatSession::new("", ChatSessionSpec::of(model));
    session.metadata = metadata;
    session
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::super::decide::world;
    use super::*;

    fn given(spec: serde_json::Value) -> Given {
        let session = json!({
            "apiVersion": "srchat.dev/v1alpha1",
            "kind": "ChatSession",
            "metadata": {
                "name": "chat", "namespace": "team", "uid": "u", "generation": 3,
                "finalizers": [FINALIZER], "annotations": {ANNOTATION_ABANDON: "pod1"},
            },
            "spec": spec,
        });
        serde_json::from_value::<DeserializeGuard<ChatSession>>(session)
            .unwrap()
            .into()
    }

    #[test]
    fn a_spec_that_can_be_read_is_what_counts() {
        let parsed = given(json!({"model": "a/b", "limits": {"lifetime": "2h"}}))
            .parse(&LedgerSeen::Missing);
        assert_eq!((parsed.replicas, parsed.unreadable), (1, None));
        assert_eq!(parsed.limits.lifetime, Duration::from_secs(7200));
        assert_eq!(parsed.limits.idle, Some(Duration::from_secs(1800)));
    }

    #[test]
    fn of_one_that_cannot_the_metadata_and_what_the_ledger_remembers_are_left() {
        let given = given(json!({"model": "a/b", "runtime": {"engine": "Tomorrow"}}));
        let nothing = given.parse(&LedgerSeen::Missing);
        assert!(
            nothing
                .unreadable
                .as_ref()
                .is_some_and(|why| why.contains("Tomorrow"))
        );
        assert_eq!(
            (nothing.replicas, nothing.generation, nothing.finalizer),
            (0, 3, true)
        );
        assert_eq!(nothing.abandon.as_deref(), Some("pod1"));

        let ledger = world::rented();
        let deadline = ledger.pods[0].host_deadline;
        let remembered = given.parse(&LedgerSeen::Is(Box::new(ledger)));
        assert_eq!(remembered.replicas, 1);
        assert_eq!(world::start() + remembered.limits.lifetime, deadline);
        assert!(remembered.limits.hourly >= Dollars::cents(49));
    }
}
