//! `srchat-operator uninstall`, run by the chart before it takes the controller away: without one, no session could end and no
//! pod be proved gone. It refuses and says what is in the way, or ends all sessions and waits. It talks to the API server alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write as _;
use std::time::{Duration, Instant};

use kube::api::{DeleteParams, ListParams, PartialObjectMeta, Preconditions};
use kube::{Api, Client};
use srchat_crds::ChatSession;

use crate::args::UninstallArgs;
use crate::session::ledger::store::{Ledgers, Stored};
use crate::session::observe::LedgerSeen;

/// Sessions asked for at once, so that no answer is larger than a few megabytes.
const PAGE: u32 = 500;
/// One call to the API server, which answers within a second unless it is in trouble; the whole takes minutes, and tries again.
const CALL: Duration = Duration::from_secs(30);
/// Between two looks: ending a session takes at least the ten seconds of its proof.
const PAUSE: Duration = Duration::from_secs(2);
/// How many names a sentence lists; the rest is counted.
const NAMED: usize = 20;

/// Why the chart stays.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be read or deleted, so nothing may be concluded.
    #[error("could not {0}")]
    Api(&'static str, #[source] kube::Error),
    /// The API server did not answer.
    #[error("could not {0}: no answer within {CALL:?}")]
    Silent(&'static str),
    /// There is something that only the controller can end.
    #[error("srchat stays installed, since only its controller can end what is left: {0}")]
    Refused(InTheWay),
    /// The sessions did not end in time.
    #[error("srchat stays installed: not ended within {0:?}: {1}")]
    NotEnded(Duration, InTheWay),
    /// Nothing could be said.
    #[error("could not write to standard output")]
    Output(#[from] std::io::Error),
}

/// A session, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    place: String,
    namespace: String,
    name: String,
    ending: bool,
}

/// What the controller is still needed for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InTheWay {
    /// `namespace/name` of each session, by UID.
    sessions: BTreeMap<String, String>,
    /// `namespace/name` of each session that is gone and whose ledger is still open.
    ledgers: BTreeSet<String>,
}

impl InTheWay {
    /// Whether the controller may go.
    pub fn nothing(&self) -> bool {
        self.sessions.is_empty() && self.ledgers.is_empty()
    }

    fn of(sessions: &BTreeMap<String, Session>, ledgers: &BTreeMap<String, Stored>) -> Self {
        let left = ledgers
            .iter()
            .filter(|(uid, stored)| !sessions.contains_key(*uid) && open(&stored.seen));
        let named = |(uid, stored): (&String, &Stored)| match &stored.seen {
            LedgerSeen::Is(ledger) => {
                format!("{}/{}", ledger.session.namespace, ledger.session.name)
            }
            LedgerSeen::Missing | LedgerSeen::Unreadable => format!("UID {uid}"),
        };
        Self {
            sessions: sessions
                .iter()
                .map(|(uid, session)| (uid.clone(), session.place.clone()))
                .collect(),
            ledgers: left.map(named).collect(),
        }
    }
}

impl fmt::Display for InTheWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sessions, ledgers } = self;
        let list = |names: Vec<&String>| {
            let mut shown: Vec<_> = names.iter().take(NAMED).map(|name| name.as_str()).collect();
            let more = names.len().saturating_sub(NAMED);
            let rest = format!("{more} more");
            if more > 0 {
                shown.push(&rest);
            }
            shown.join(", ")
        };
        let mut joint = "";
        if !sessions.is_empty() {
            write!(
                f,
                "sessions that exist: {}",
                list(sessions.values().collect())
            )?;
            joint = "; ";
        }
        if !ledgers.is_empty() {
            write!(
                f,
                "{joint}sessions that are gone and whose pods are not yet proved gone: {}",
                list(ledgers.iter().collect())
            )?;
        }
        Ok(())
    }
}

/// A ledger that is open may stand for a pod that is being paid for.
fn open(seen: &LedgerSeen) -> bool {
    match seen {
        LedgerSeen::Is(ledger) => !ledger.settled() || ledger.tried() && ledger.receipted.is_none(),
        LedgerSeen::Unreadable => true,
        LedgerSeen::Missing => false,
    }
}

/// Says what is in the way, or ends it.
pub async fn run(args: UninstallArgs) -> Result<(), Error> {
    let UninstallArgs {
        namespace,
        drain,
        timeout_seconds,
    } = args;
    let client = Client::try_default()
        .await
        .map_err(|e| Error::Api("find the cluster", e))?;
    let cluster = Cluster {
        ledgers: Ledgers::new(client.clone(), &namespace),
        client,
    };
    if drain {
        cluster.drain(Duration::from_secs(timeout_seconds)).await
    } else {
        let (_, left) = cluster.look().await?;
        if left.nothing() {
            return Ok(());
        }
        say(
            "hint: delete the sessions and wait until they are gone (kubectl delete chat --all --all-namespaces), then helm uninstall \
             again; or let the uninstallation end them: helm rollback RELEASE REVISION (the last one of helm history RELEASE, since Helm \
             holds a refused uninstallation for one that goes on), helm upgrade RELEASE CHART --reuse-values --set uninstall.drain=true, \
             helm uninstall RELEASE",
        )?;
        Err(Error::Refused(left))
    }
}

struct Cluster {
    client: Client,
    ledgers: Ledgers,
}

impl Cluster {
    /// Deletes every session, also those that appear meanwhile, until nothing is left.
    async fn drain(&self, patience: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + patience;
        let mut said = InTheWay::default();
        loop {
            let (sessions, left) = self.look().await?;
            if left.nothing() {
                return Ok(());
            }
            if left != said {
                say(&format!("ending {left}"))?;
                said.clone_from(&left);
            }
            if Instant::now() >= deadline {
                say(
                    "hint: is the controller running? kubectl get deployment srchat-controller says so, and kubectl describe chat says what each session waits for",
                )?;
                return Err(Error::NotEnded(patience, left));
            }
            for (uid, session) in sessions.iter().filter(|(_, session)| !session.ending) {
                self.delete(uid, session).await?;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Deletes this very session; its finalizer keeps it until its pod is proved gone.
    async fn delete(&self, uid: &str, session: &Session) -> Result<(), Error> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let sessions: Api<ChatSession> = Api::namespaced(self.client.clone(), &session.namespace);
        let deleted = answered("delete a session", sessions.delete(&session.name, &params)).await;
        match deleted {
            // Gone, or another one of that name: the next look tells.
            Err(Error::Api(_, kube::Error::Api(status)))
                if status.is_not_found() || status.is_conflict() =>
            {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    async fn look(&self) -> Result<(BTreeMap<String, Session>, InTheWay), Error> {
        // Ledgers first: a session that goes between the two looks had its ledger settled before it went.
        let ledgers = answered("list ledgers", self.ledgers.list()).await?;
        let sessions = self.sessions().await?;
        let left = InTheWay::of(&sessions, &ledgers);
        Ok((sessions, left))
    }

    /// All sessions of the cluster by UID; none where the CRD is not there any more.
    async fn sessions(&self) -> Result<BTreeMap<String, Session>, Error> {
        let api: Api<ChatSession> = Api::all(self.client.clone());
        let mut found = BTreeMap::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = match answered("list sessions", api.list_metadata(&params)).await {
                Err(Error::Api(_, kube::Error::Api(status))) if status.is_not_found() => {
                    return Ok(found);
                }
                other => other?,
            };
            found.extend(page.items.into_iter().filter_map(session));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(found),
            }
        }
    }
}

fn session(found: PartialObjectMeta<ChatSession>) -> Option<(String, Session)> {
    let metadata = found.metadata;
    let (namespace, name) = (metadata.namespace?, metadata.name?);
    let session = Session {
        place: format!("{namespace}/{name}"),
        namespace,
        name,
        ending: metadata.deletion_timestamp.is_some(),
    };
    Some((metadata.uid?, session))
}

async fn answered<T>(
    what: &'static str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(CALL, call).await {
        Ok(answer) => answer.map_err(|error| Error::Api(what, error)),
        Err(_) => Err(Error::Silent(what)),
    }
}

fn say(line: &str) -> Result<(), Error> {
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::decide::world;
    use crate::session::ledger::{Change, Ledger, Outcome};

    fn stored(seen: LedgerSeen) -> Stored {
        Stored {
            seen,
            version: None,
        }
    }

    fn is(ledger: Ledger) -> Stored {
        stored(LedgerSeen::Is(Box::new(ledger)))
    }

    fn rented() -> Ledger {
        let mut ledger = world::ledger();
        let attempt = world::attempt(1, world::start(), Outcome::Open { misses: Vec::new() });
        ledger.apply(Change::Intend {
            attempt: Box::new(attempt),
            plan: None,
        });
        ledger.apply(Change::Rented {
            pod: Box::new(world::record(1, 1, world::start())),
        });
        ledger
    }

    fn with(sessions: &[&str], ledgers: Vec<(&str, Stored)>) -> InTheWay {
        let session = |uid: &&str| {
            let session = Session {
                place: format!("team-a/{uid}"),
                namespace: "team-a".into(),
                name: (*uid).to_owned(),
                ending: false,
            };
            ((*uid).to_owned(), session)
        };
        InTheWay::of(
            &sessions.iter().map(session).collect(),
            &ledgers
                .into_iter()
                .map(|(uid, stored)| (uid.to_owned(), stored))
                .collect(),
        )
    }

    #[test]
    fn the_controller_may_go_when_there_is_nothing_to_end() {
        assert!(with(&[], vec![]).nothing());
        assert!(
            with(&[], vec![("u1", is(world::ledger()))]).nothing(),
            "nothing was ever tried"
        );
    }

    #[test]
    fn a_session_keeps_the_controller_whatever_its_ledger_says() {
        let left = with(&["u1"], vec![("u1", is(world::ledger()))]);
        assert_eq!(left.to_string(), "sessions that exist: team-a/u1");
    }

    #[test]
    fn an_open_ledger_of_a_vanished_session_keeps_it_too() {
        let left = with(
            &[],
            vec![("u1", is(rented())), ("u2", stored(LedgerSeen::Unreadable))],
        );
        let said = left.to_string();
        assert!(
            said.starts_with(
                "sessions that are gone and whose pods are not yet proved gone: UID u2, "
            ),
            "{said}"
        );
    }

    #[test]
    fn a_ledger_without_its_receipt_is_open() {
        let mut ledger = rented();
        assert!(open(&LedgerSeen::Is(Box::new(ledger.clone()))));
        for pod in &mut ledger.pods {
            pod.gone = Some(crate::session::ledger::Gone {
                at: world::start(),
                how: crate::session::ledger::GoneHow::Proved,
            });
        }
        assert!(
            open(&LedgerSeen::Is(Box::new(ledger.clone()))),
            "no receipt yet"
        );
        ledger.receipted = Some(world::start());
        assert!(!open(&LedgerSeen::Is(Box::new(ledger))));
    }

    #[test]
    fn many_are_counted() {
        let uids: Vec<String> = (0..30).map(|n| format!("u{n:02}")).collect();
        let uids: Vec<&str> = uids.iter().map(String::as_str).collect();
        let said = with(&uids, vec![]).to_string();
        assert!(said.ends_with("team-a/u19, 10 more"), "{said}");
    }
}
