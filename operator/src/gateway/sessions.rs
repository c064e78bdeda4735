//! What the gateway knows of the sessions: their routes as they were last seen, and who may use them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use subtle::ConstantTimeEq as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::files::Ledger;
use super::identity::{Grant, Identities, Right};
use super::refusal::Refusal;
use super::tunnel::Tunnel;
use crate::metrics;
use crate::route::{Route, Stage, TokenHash};

/// Requests at once with one token. An engine serves 16 sequences at a time and queues some; streams of status and logs count too.
const AT_ONCE: usize = 512;

/// One session at one moment.
#[derive(Clone)]
pub struct Known {
    /// Its route.
    pub route: Arc<Route>,
    /// The way to its host, while it has one.
    pub tunnel: Option<Arc<Tunnel>>,
    /// Cancelled when the token of this moment opens nothing any more.
    pub revoked: CancellationToken,
}

impl Known {
    /// The way to an engine that serves, or the stage at which it does not.
    pub fn serving(&self) -> Result<&Arc<Tunnel>, Refusal> {
        match &self.tunnel {
            Some(tunnel) if self.route.stage == Stage::Serving => Ok(tunnel),
            Some(_) | None => Err(self.not_serving()),
        }
    }

    /// The way to the host, whether or not the engine serves.
    pub fn deployed(&self) -> Result<&Arc<Tunnel>, Refusal> {
        self.tunnel.as_ref().ok_or_else(|| self.not_serving())
    }

    fn not_serving(&self) -> Refusal {
        // A route that serves and has no host is being closed or written: what will come next is a connection.
        let stage = if self.route.stage == Stage::Serving {
            Stage::Connecting
        } else {
            self.route.stage
        };
        Refusal::NotServing {
            stage,
            percent: self.route.percent.filter(|_| stage == self.route.stage),
        }
    }
}

/// One session, over time.
pub struct Session {
    now: watch::Sender<Known>,
    slots: Arc<Semaphore>,
    /// What is being written and what is known of its files.
    pub files: Arc<Ledger>,
}

impl Session {
    fn new(route: Route, metrics: &metrics::Gateway) -> Self {
        let tunnel = route.host.clone().map(|host| Tunnel::open(host, metrics));
        let known = Known {
            route: Arc::new(route),
            tunnel,
            revoked: CancellationToken::new(),
        };
        Self {
            now: watch::Sender::new(known),
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            files: Arc::default(),
        }
    }

    /// What is known at this moment, and what will be.
    pub fn follow(&self) -> watch::Receiver<Known> {
        self.now.subscribe()
    }

    fn is(&self, uid: &str) -> bool {
        self.now.borrow().route.uid == uid
    }

    fn update(&self, route: Route, metrics: &metrics::Gateway) {
        self.now.send_modify(|known| {
            if known.route.token != route.token {
                std::mem::take(&mut known.revoked).cancel();
            }
            if known.route.host != route.host {
                let next = route.host.clone().map(|host| Tunnel::open(host, metrics));
                if let Some(last) = std::mem::replace(&mut known.tunnel, next) {
                    last.close();
                }
            }
            known.route = Arc::new(route);
        });
    }

    fn end(&self) {
        self.now.send_modify(|known| {
            known.revoked.cancel();
            if let Some(tunnel) = known.tunnel.take() {
                tunnel.close();
            }
        });
    }
}

/// A request that its token admits.
pub struct Admitted {
    /// The session.
    pub session: Arc<Session>,
    /// As it was when the token was looked at.
    pub known: Known,
    /// One of the requests at once.
    pub slot: OwnedSemaphorePermit,
    /// What a Kubernetes token was granted; held as long as it is used.
    pub grant: Option<Arc<Grant>>,
}

/// Sessions by namespace and name. There is one of a name, but for the moment in which an old one goes and a new one comes.
type ByName = HashMap<(String, String), Vec<Arc<Session>>>;

/// All sessions with a route.
pub struct Sessions {
    by_name: RwLock<ByName>,
    metrics: metrics::Gateway,
}

impl Sessions {
    /// Knows none yet.
    pub fn new(metrics: metrics::Gateway) -> Self {
        Self {
            by_name: RwLock::default(),
            metrics,
        }
    }

    /// Takes a route as it is now.
    pub fn apply(&self, route: Route) {
        self.change(|by_name| {
            let place = by_name
                .entry((route.namespace.clone(), route.name.clone()))
                .or_default();
            // The UID, not the name: a session made anew under a name has nothing of the one before.
            match place.iter().find(|session| session.is(&route.uid)) {
                Some(session) => session.update(route, &self.metrics),
                None => place.push(Arc::new(Session::new(route, &self.metrics))),
            }
        });
    }

    /// Forgets the session with this UID.
    pub fn remove(&self, uid: &str) {
        self.change(|by_name| {
            by_name.retain(|_name, sessions| {
                sessions.retain(|session| {
                    let other = !session.is(uid);
                    if !other {
                        session.end();
                    }
                    other
                });
                !sessions.is_empty()
            });
        });
    }

    /// Forgets every session but these.
    pub fn keep_only(&self, uids: &HashSet<String>) {
        let known: Vec<String> = {
            let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
            by_name
                .values()
                .flatten()
                .map(|session| session.now.borrow().route.uid.clone())
                .collect()
        };
        for uid in known.iter().filter(|uid| !uids.contains(*uid)) {
            self.remove(uid);
        }
    }

    fn change(&self, act: impl FnOnce(&mut ByName)) {
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        act(&mut by_name);
        let count = by_name.values().map(Vec::len).sum::<usize>();
        self.metrics
            .routes
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Admits a token to a session. A session that does not exist costs the same work and gives the same answer as a wrong token.
    pub fn admit(
        &self,
        namespace: &str,
        name: &str,
        token: Option<&str>,
    ) -> Result<Admitted, Refusal> {
        let shown = token.and_then(TokenHash::of).unwrap_or_else(nobody);
        let mut admitted = None;
        for session in self.named(namespace, name) {
            let known = session.now.borrow().clone();
            if opens(&shown, known.route.token.as_ref()) && !known.revoked.is_cancelled() {
                admitted = Some((session, known));
            }
        }
        self.enter(admitted, None)
    }

    /// Admits a Kubernetes token as the API server says. A session that does not exist gives the same answer as a token that opens
    /// nothing, after the same questions.
    pub async fn admit_user(
        &self,
        identities: &Arc<Identities>,
        (namespace, name): (&str, &str),
        bearer: &str,
        right: Right,
    ) -> Result<Admitted, Refusal> {
        // The youngest, for the moment in which there are two.
        let session = self.named(namespace, name).pop();
        let known = session.as_ref().map(|session| session.now.borrow().clone());
        let ends = known.as_ref().map(|known| &known.revoked);
        let granted = identities
            .grant(bearer, (namespace, name), right, ends)
            .await;
        if matches!(granted, Err(Refusal::Unauthorized)) {
            self.metrics.unauthorized.inc();
        }
        let grant = granted?;
        let admitted = session.zip(known).map(|(session, known)| {
            let revoked = grant.revoked.clone();
            (session, Known { revoked, ..known })
        });
        self.enter(admitted, Some(grant))
    }

    fn named(&self, namespace: &str, name: &str) -> Vec<Arc<Session>> {
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        by_name
            .get(&(namespace.to_owned(), name.to_owned()))
            .cloned()
            .unwrap_or_default()
    }

    fn enter(
        &self,
        admitted: Option<(Arc<Session>, Known)>,
        grant: Option<Arc<Grant>>,
    ) -> Result<Admitted, Refusal> {
        let Some((session, known)) = admitted else {
            self.metrics.unauthorized.inc();
            return Err(Refusal::Unauthorized);
        };
        let slot = session
            .slots
            .clone()
            .try_acquire_owned()
            .map_err(|_full| Refusal::Busy)?;
        Ok(Admitted {
            session,
            known,
            slot,
            grant,
        })
    }
}

/// What a token that has not even the form of one is compared as; no route can hold it.
fn nobody() -> TokenHash {
    TokenHash {
        id: String::new(),
        sha256: "-".repeat(64),
    }
}

fn opens(shown: &TokenHash, kept: Option<&TokenHash>) -> bool {
    let nobody = TokenHash {
        id: "-".into(),
        sha256: "+".repeat(64),
    };
    let kept = kept.unwrap_or(&nobody);
    // Both halves, always, without stopping at the first difference. Lengths are no secret.
    let same = shown.id.as_bytes().ct_eq(kept.id.as_bytes())
        & shown.sha256.as_bytes().ct_eq(kept.sha256.as_bytes());
    same.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::gateway::rebuild::tests::host;
    use crate::route::Engine;

    fn token(fill: &str) -> String {
        format!("srchat_abcd1234_{}", fill.repeat(43))
    }

    fn route(uid: &str, token: &str) -> Route {
        Route {
            uid: uid.into(),
            namespace: "team-a".into(),
            name: "vision".into(),
            token: TokenHash::of(token),
            stage: Stage::Downloading,
            percent: Some(63),
            message: String::new(),
            hourly: None,
            spend: None,
            spend_as_of: None,
            expiry: None,
            idle_seconds: None,
            ready: None,
            host: None,
        }
    }

    fn sessions() -> Sessions {
        Sessions::new(metrics::Gateway::new(&mut Registry::default()))
    }

    fn refused(sessions: &Sessions, namespace: &str, name: &str, token: Option<&str>) -> Refusal {
        match sessions.admit(namespace, name, token) {
            Ok(_) => panic!("{namespace}/{name} was opened by {token:?}"),
            Err(refusal) => refusal,
        }
    }

    #[test]
    fn only_the_sessions_own_token_opens_it() {
        let sessions = sessions();
        sessions.apply(route("u1", &token("A")));
        assert!(
            sessions
                .admit("team-a", "vision", Some(&token("A")))
                .is_ok()
        );
        for wrong in [
            None,
            Some(""),
            Some("srchat_abcd1234_"),
            Some(token("B").as_str()),
            Some(&token("A")[..50]),
        ] {
            assert_eq!(
                refused(&sessions, "team-a", "vision", wrong),
                Refusal::Unauthorized
            );
        }
        assert_eq!(
            refused(&sessions, "team-b", "vision", Some(&token("A"))),
            Refusal::Unauthorized
        );
        assert_eq!(
            refused(&sessions, "team-a", "other", Some(&token("A"))),
            Refusal::Unauthorized
        );
    }

    #[test]
    fn a_session_without_a_token_is_opened_by_none() {
        let sessions = sessions();
        sessions.apply(Route {
            token: None,
            ..route("u1", "")
        });
        for wrong in [None, Some("-"), Some(token("A").as_str())] {
            assert_eq!(
                refused(&sessions, "team-a", "vision", wrong),
                Refusal::Unauthorized
            );
        }
    }

    #[test]
    fn a_new_token_ends_what_the_old_one_began() {
        let sessions = sessions();
        sessions.apply(route("u1", &token("A")));
        let before = sessions
            .admit("team-a", "vision", Some(&token("A")))
            .unwrap();
        sessions.apply(Route {
            stage: Stage::Serving,
            ..route("u1", &token("A"))
        });
        assert!(!before.known.revoked.is_cancelled());
        sessions.apply(route("u1", &token("B")));
        assert!(before.known.revoked.is_cancelled());
        assert_eq!(
            refused(&sessions, "team-a", "vision", Some(&token("A"))),
            Refusal::Unauthorized
        );
        assert!(
            sessions
                .admit("team-a", "vision", Some(&token("B")))
                .is_ok()
        );
    }

    #[test]
    fn the_same_name_made_anew_is_another_session() {
        let sessions = sessions();
        sessions.apply(route("u1", &token("A")));
        sessions.apply(route("u2", &token("B")));
        let new = sessions
            .admit("team-a", "vision", Some(&token("B")))
            .unwrap();
        sessions.remove("u1");
        assert!(!new.known.revoked.is_cancelled());
        assert_eq!(
            refused(&sessions, "team-a", "vision", Some(&token("A"))),
            Refusal::Unauthorized
        );
        sessions.keep_only(&HashSet::from(["u1".to_owned()]));
        assert!(new.known.revoked.is_cancelled());
        assert_eq!(
            refused(&sessions, "team-a", "vision", Some(&token("B"))),
            Refusal::Unauthorized
        );
    }

    #[test]
    fn requests_at_once_have_a_limit() {
        let sessions = sessions();
        sessions.apply(route("u1", &token("A")));
        let held: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                sessions
                    .admit("team-a", "vision", Some(&token("A")))
                    .unwrap()
            })
            .collect();
        assert_eq!(
            refused(&sessions, "team-a", "vision", Some(&token("A"))),
            Refusal::Busy
        );
        drop(held);
        assert!(
            sessions
                .admit("team-a", "vision", Some(&token("A")))
                .is_ok()
        );
    }

    #[tokio::test]
    async fn an_engine_is_reachable_only_while_the_route_serves() {
        let sessions = sessions();
        let known = |route| {
            sessions.apply(route);
            sessions
                .admit("team-a", "vision", Some(&token("A")))
                .unwrap()
                .known
        };
        let loading = known(route("u1", &token("A")));
        assert_eq!(
            loading.serving().err(),
            Some(Refusal::NotServing {
                stage: Stage::Downloading,
                percent: Some(63)
            })
        );
        let serving = Route {
            stage: Stage::Serving,
            host: Some(host(Engine::Vllm)),
            ..route("u1", &token("A"))
        };
        assert!(known(serving.clone()).serving().is_ok());
        let closed = known(Route {
            host: None,
            ..serving
        });
        assert_eq!(
            closed.serving().err(),
            Some(Refusal::NotServing {
                stage: Stage::Connecting,
                percent: None
            })
        );
    }
}
