//! Follows one session through its conditions, and remembers when each milestone was first seen.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use jiff::Timestamp;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use srchat_crds::{ChatSession, ChatSessionStatus};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What a session passes on its way, in that order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Milestone {
    /// The API server has it.
    Stored,
    /// There is a plan.
    Planned,
    /// A pod is ours.
    Rented,
    /// Its host key is pinned.
    Trusted,
    /// The engine answers.
    Served,
    /// The endpoint answers.
    Published,
    /// The host was cleared.
    Cleared,
    /// The pod is proved absent.
    Absent,
    /// The object is gone.
    Gone,
}

impl Milestone {
    /// Those that a status shows.
    fn of(status: &ChatSessionStatus) -> Vec<Milestone> {
        let holds = |condition: &str| {
            let found = status
                .conditions
                .iter()
                .find(|found| found.type_ == condition);
            found.is_some_and(|found| found.status == "True")
        };
        let conditions = [
            ("Planned", Milestone::Planned),
            ("HostTrusted", Milestone::Trusted),
            ("ModelServed", Milestone::Served),
            ("EndpointPublished", Milestone::Published),
            ("Wiped", Milestone::Cleared),
            ("Terminated", Milestone::Absent),
        ];
        let shown = conditions
            .into_iter()
            .filter(|(condition, _)| holds(condition))
            .map(|(_, milestone)| milestone);
        shown
            .chain(status.instance.as_ref().map(|_| Milestone::Rented))
            .collect()
    }
}

/// What is known of the session at a moment.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The object as last seen; also the last state of one that is gone.
    pub session: Option<Arc<ChatSession>>,
    /// When each milestone was first seen.
    pub reached: BTreeMap<Milestone, Timestamp>,
}

impl View {
    /// The status as last seen.
    pub fn status(&self) -> Option<&ChatSessionStatus> {
        self.session.as_ref()?.status.as_ref()
    }

    /// Reason and message of a condition, as last seen.
    pub fn condition(&self, name: &str) -> Option<(&str, &str)> {
        let found = self
            .status()?
            .conditions
            .iter()
            .find(|found| found.type_ == name)?;
        Some((&found.reason, &found.message))
    }

    /// What blocks the session, in its own words.
    pub fn why_not(&self) -> String {
        match self.condition("Ready") {
            Some((reason, message)) => format!("Ready is {reason}: {message}"),
            None if self.session.is_some() => "the session has no status yet".to_owned(),
            None => "the session has not been seen".to_owned(),
        }
    }
}

/// The follower; ends when dropped.
#[derive(Debug)]
pub struct Follow {
    view: watch::Receiver<View>,
    task: JoinHandle<()>,
}

impl Follow {
    /// Starts to follow `name`, which need not exist yet.
    pub fn start(client: Client, namespace: &str, name: &str) -> Follow {
        let api: Api<ChatSession> = Api::namespaced(client, namespace);
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let (sender, view) = watch::channel(View::default());
        let task = tokio::spawn(async move {
            let mut events = watcher(api, config).boxed();
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Apply(session) | Event::InitApply(session)) => {
                        sender.send_modify(|view| view.saw(session))
                    }
                    Ok(Event::Delete(session)) => sender.send_modify(|view| {
                        view.saw(session);
                        view.reached
                            .entry(Milestone::Gone)
                            .or_insert_with(Timestamp::now);
                    }),
                    // The watcher itself tries again; an absence that it did not see is no event.
                    Ok(Event::Init | Event::InitDone) | Err(_) => {}
                }
            }
        });
        Follow { view, task }
    }

    /// What is known now.
    pub fn now(&self) -> View {
        self.view.borrow().clone()
    }

    /// Waits for the next change.
    pub async fn changed(&mut self) -> View {
        // The sender lives as long as the task, which ends only when we are dropped.
        let _ = self.view.changed().await;
        self.view.borrow_and_update().clone()
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl View {
    fn saw(&mut self, session: ChatSession) {
        let stored = self.reached.entry(Milestone::Stored);
        stored.or_insert_with(Timestamp::now);
        if let Some(status) = &session.status {
            for milestone in Milestone::of(status) {
                self.reached.entry(milestone).or_insert_with(Timestamp::now);
            }
        }
        self.session = Some(Arc::new(session));
    }
}
