//! The only effects: one action at a time, each idempotent, so that a crash between any two lines needs no thought. What an action
//! learned goes into the ledger by compare-and-swap; losing that swap is no failure, since the next pass looks again.

mod finish;
mod host;
mod rent;

use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use srchat_crds::{ChatSession, FIELD_MANAGER, FINALIZER};

use super::Given;
use super::context::{Context, Memory};
use super::decide::Action;
use super::ledger::store::Stored;
use super::ledger::{Change, Keys, Ledger, Owner};
use super::observe::{LedgerSeen, Observation};
use crate::provider;
use crate::route::{Route, Stage};
use crate::ssh::KeyPair;

/// What one pass works on.
pub(super) struct Pass<'a> {
    pub context: &'a Context,
    pub session: &'a ChatSession,
    pub seen: &'a Observation,
    pub stored: &'a Stored,
    /// The ledger as the last write left it.
    pub written: Mutex<Option<Stored>>,
}

/// Why an action did not happen. None of these is a user's mistake, and all of them are tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The API server did not do it.
    #[error("could not {0}")]
    Api(&'static str, #[source] kube::Error),
    /// The provider did not do it.
    #[error("could not {0}")]
    Provider(&'static str, #[source] provider::Error),
    /// The host did not do it.
    #[error("could not {0}")]
    Host(&'static str, #[source] crate::host::Error),
    /// The system has no randomness to give.
    #[error("could not make keys")]
    Keys(#[source] getrandom::Error),
    /// Something that a decision rests on is not there any more: look again.
    #[error("what was to be done is not to be done any more: {0}")]
    Overtaken(&'static str),
}

impl Failure {
    /// Another writer was faster, or the world moved on: looked at again at once, and nothing to speak of.
    pub(super) fn overtaken(&self) -> bool {
        match self {
            Self::Overtaken(_) => true,
            Self::Api(_, kube::Error::Api(status)) => {
                status.is_conflict() || status.is_already_exists()
            }
            Self::Api(..) | Self::Provider(..) | Self::Host(..) | Self::Keys(_) => false,
        }
    }

    /// The provider does not accept the key: nobody but a person can help.
    pub(super) fn unauthorized(&self) -> bool {
        matches!(
            self,
            Self::Provider(_, provider::Error::Unauthorized { .. })
        )
    }
}

/// Performs one action.
pub(super) async fn act(
    pass: &Pass<'_>,
    memory: &mut Memory,
    action: Action,
) -> Result<(), Failure> {
    match action {
        Action::Open { adrift, latch } => open(pass, adrift, latch).await,
        Action::Guard => guard(pass).await,
        Action::Note(change) => pass.note(change).await,
        Action::Publish => publish(pass).await,
        Action::Rent { proposal, number } => rent::rent(pass, *proposal, number).await,
        Action::Deploy { pod } => host::deploy(pass, memory, &pod).await,
        Action::OpenDoor { pod, address, port } => {
            host::open_door(pass, memory, &pod, &address, port).await
        }
        Action::CloseDoor => host::close_door(pass).await,
        Action::DropRoute => drop_route(pass).await,
        Action::Clear { pod, until } => host::clear(pass, memory, &pod, until).await,
        Action::Terminate { pod } => finish::terminate(pass, memory, &pod).await,
        Action::Receipt => finish::receipt(pass).await,
        Action::Release => finish::release(pass).await,
        Action::Discard => finish::discard(pass).await,
    }
}

impl Pass<'_> {
    fn ledger(&self) -> Result<&Ledger, Failure> {
        match &self.seen.ledger {
            LedgerSeen::Is(ledger) => Ok(ledger),
            LedgerSeen::Missing | LedgerSeen::Unreadable => {
                Err(Failure::Overtaken("there is no ledger"))
            }
        }
    }

    /// Writes one change.
    pub(super) async fn note(&self, change: Change) -> Result<(), Failure> {
        self.write(self.stored, [change]).await.map(drop)
    }

    /// Writes changes over what was read, and tells what is there now.
    async fn write(
        &self,
        stored: &Stored,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<Stored, Failure> {
        let LedgerSeen::Is(ledger) = &stored.seen else {
            return Err(Failure::Overtaken("there is no ledger"));
        };
        let mut ledger = ledger.clone();
        for change in changes {
            ledger.apply(change);
        }
        let written = self
            .context
            .ledgers
            .put(&ledger, stored)
            .await
            .map_err(|e| Failure::Api("write the ledger", e))?;
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = Some(written.clone());
        Ok(written)
    }

    /// What the API server answers with may be a session whose spec cannot be read: that stands in nobody's way.
    fn sessions(&self) -> Api<DeserializeGuard<ChatSession>> {
        Api::namespaced(self.context.client.clone(), &self.seen.session.namespace)
    }

    /// The session as it is at this moment, if it is still the same one (S4, S13).
    async fn live(&self) -> Result<Option<Given>, Failure> {
        let found = self.sessions().get_opt(&self.seen.session.name).await;
        let found = found.map_err(|e| Failure::Api("read the session", e))?;
        let same =
            found.filter(|found| found.uid().as_deref() == Some(self.seen.session.uid.as_str()));
        Ok(same.map(Given::from))
    }
}

async fn open(pass: &Pass<'_>, adrift: bool, latch: Option<Timestamp>) -> Result<(), Failure> {
    let session = &pass.seen.session;
    let pair = || KeyPair::generate().map_err(Failure::Keys);
    let keys = Keys {
        controller: pair()?,
        gateway: pair()?,
    };
    let owner = Owner {
        uid: session.uid.clone(),
        namespace: session.namespace.clone(),
        name: session.name.clone(),
    };
    let now = Timestamp::now();
    let mut ledger = Ledger::new(owner, &pass.context.installation.id, keys, now);
    // Without a key nobody can say what a lost ledger did: the empty fingerprint is nobody's, so the attempt waits for one.
    let account = pass
        .seen
        .house
        .account
        .clone()
        .unwrap_or(provider::Fingerprint(String::new()));
    ledger.open(now, adrift.then_some(account), latch);
    pass.context
        .ledgers
        .create(&ledger)
        .await
        .map(drop)
        .map_err(|e| Failure::Api("make the ledger", e))
}

/// The finalizer, only on this very object (S4): a patch that carries the UID.
async fn guard(pass: &Pass<'_>) -> Result<(), Failure> {
    let Some(Given { session: live, .. }) = pass.live().await? else {
        return Err(Failure::Overtaken("the session is another one"));
    };
    let mut finalizers = live.finalizers().to_vec();
    if live.metadata.deletion_timestamp.is_some() || finalizers.iter().any(|one| one == FINALIZER) {
        return Ok(());
    }
    finalizers.push(FINALIZER.to_owned());
    set_finalizers(pass, &live, finalizers, "put the finalizer on").await
}

async fn set_finalizers(
    pass: &Pass<'_>,
    live: &ChatSession,
    finalizers: Vec<String>,
    what: &'static str,
) -> Result<(), Failure> {
    let patch = json!({"metadata": {
        "uid": live.metadata.uid,
        "resourceVersion": live.metadata.resource_version,
        "finalizers": finalizers,
    }});
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patched = pass
        .sessions()
        .patch(&pass.seen.session.name, &params, &Patch::Merge(&patch))
        .await;
    patched.map(drop).map_err(|e| Failure::Api(what, e))
}

/// The published Secret first, then the route with its token's hash: a route without a token admits nobody.
async fn publish(pass: &Pass<'_>) -> Result<(), Failure> {
    let context = pass.context;
    let token = context.front.publish(&context.client, pass.session).await;
    let token = token.map_err(|e| Failure::Api("write the Secret of the endpoint", e))?;
    let Some(token) = token else {
        return Err(Failure::Overtaken("the Secret's name is taken"));
    };
    let session = &pass.seen.session;
    let route = context
        .routes
        .get(&session.uid)
        .await
        .map_err(|e| Failure::Api("read the route", e))?;
    let mut route = route.unwrap_or_else(|| Route {
        uid: session.uid.clone(),
        namespace: session.namespace.clone(),
        name: session.name.clone(),
        token: None,
        stage: Stage::Planning,
        percent: None,
        message: String::new(),
        hourly: None,
        spend: None,
        spend_as_of: None,
        expiry: None,
        idle_seconds: session.limits.idle.map(|idle| idle.as_secs()),
        ready: None,
        host: None,
    });
    route.token = token.hash();
    context
        .routes
        .put(&route)
        .await
        .map_err(|e| Failure::Api("write the route", e))
}

async fn drop_route(pass: &Pass<'_>) -> Result<(), Failure> {
    pass.context
        .routes
        .drop_of(&pass.seen.session.uid)
        .await
        .map_err(|e| Failure::Api("delete the route", e))
}
