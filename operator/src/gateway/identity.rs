//! Kubernetes tokens: whose a token is and what they may do, as the API server says, asked again every few seconds while it is used.
//! Off unless asked for. While the API server is away, what it granted last holds for some minutes, and nothing new is granted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::refusal::Refusal;
use super::routes::What;

/// Tokens are made for us, or they are not for us: one that a pod has for the API server opens nothing here.
pub const AUDIENCE: &str = "srchat";

/// How often a grant in use is asked for again. With the answer's own time, a revoked token stops within five seconds.
const AGAIN: Duration = Duration::from_secs(3);
/// Both reviews together: two round trips within a cluster.
const ASK_TIMEOUT: Duration = Duration::from_millis(1500);
/// While the API server is away, what it granted last holds this long: about as long as an upgrade of it takes.
const AWAY: Duration = Duration::from_secs(300);
/// A refusal is believed this long, so that a client that tries again and again asks nobody but us.
const REFUSED: Duration = Duration::from_secs(2);
/// Questions to the API server at once: anybody can send tokens that nobody knows.
const AT_ONCE: usize = 16;
/// Refusals remembered.
const REFUSALS: usize = 4096;
/// Service accounts' tokens have 1 to 2 kB, those of identity providers with many groups more.
const TOKEN_BYTES: usize = 8 << 10;

/// What somebody wants to do with a session; a subresource of it, so that it can be granted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Right {
    /// `create chatsessions/chat`.
    Chat,
    /// `create chatsessions/files`.
    Files,
}

impl Right {
    /// The one that a request needs.
    pub fn of(what: &What) -> Self {
        match what {
            What::FileList | What::Files | What::File(..) => Self::Files,
            What::Models
            | What::Model(_)
            | What::Chat
            | What::Completions
            | What::Embeddings
            | What::Responses
            | What::Logs
            | What::Status => Self::Chat,
        }
    }

    fn subresource(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Files => "files",
        }
    }
}

/// A token's hash, and what it is to be used for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Wish {
    token: [u8; 32],
    namespace: String,
    name: String,
    right: Right,
}

/// What the API server has granted. Requests hold it as long as they last.
#[derive(Debug)]
pub struct Grant {
    /// Cancelled when it is granted no longer, or the session is gone.
    pub revoked: CancellationToken,
    used: Mutex<Instant>,
}

/// What is known of tokens.
pub struct Identities {
    client: Client,
    asking: Semaphore,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    granted: HashMap<Wish, Arc<Grant>>,
    refused: HashMap<Wish, Instant>,
}

/// What the API server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Granted,
    Refused,
    /// It did not answer, or not in time.
    Unknown,
}

/// Whether a bearer has the form of a Kubernetes token: a JSON web token, which no token of ours is.
pub fn is_candidate(bearer: &str) -> bool {
    bearer.len() <= TOKEN_BYTES
        && bearer.split('.').count() == 3
        && bearer.split('.').all(|part| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
        })
}

impl Identities {
    /// Asks through this client, which may create TokenReviews and SubjectAccessReviews.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            asking: Semaphore::new(AT_ONCE),
            known: Mutex::default(),
        }
    }

    /// Whether whoever holds this token may use the session of this name, be there one or not. `session` is cancelled when the
    /// session ends; without one nothing is granted, after the same questions.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`] for every refusal, [`Refusal::Unverified`] when the API server does not answer.
    pub async fn grant(
        self: &Arc<Self>,
        bearer: &str,
        (namespace, name): (&str, &str),
        right: Right,
        session: Option<&CancellationToken>,
    ) -> Result<Arc<Grant>, Refusal> {
        let wish = Wish {
            token: Sha256::digest(bearer.as_bytes()).into(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            right,
        };
        if let Some(answer) = self.remembered(&wish) {
            return answer;
        }
        match self.ask(bearer, &wish).await {
            Verdict::Granted => {}
            Verdict::Refused => {
                self.refuse(wish);
                return Err(Refusal::Unauthorized);
            }
            Verdict::Unknown => return Err(Refusal::Unverified),
        }
        let Some(session) = session else {
            return Err(Refusal::Unauthorized);
        };
        let grant = Arc::new(Grant {
            revoked: session.child_token(),
            used: Mutex::new(Instant::now()),
        });
        self.locked()
            .granted
            .insert(wish.clone(), Arc::clone(&grant));
        // Ends when the grant does, or when nobody has used it for a while.
        tokio::spawn(Arc::clone(self).follow(wish, bearer.to_owned(), Arc::clone(&grant)));
        Ok(grant)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self, wish: &Wish) -> Option<Result<Arc<Grant>, Refusal>> {
        let known = self.locked();
        if let Some(grant) = known.granted.get(wish)
            && !grant.revoked.is_cancelled()
        {
            grant.touch();
            return Some(Ok(Arc::clone(grant)));
        }
        let refused = known.refused.get(wish)?;
        (refused.elapsed() < REFUSED).then_some(Err(Refusal::Unauthorized))
    }

    fn refuse(&self, wish: Wish) {
        let mut known = self.locked();
        if known.refused.len() >= REFUSALS {
            known.refused.retain(|_, at| at.elapsed() < REFUSED);
        }
        if known.refused.len() < REFUSALS {
            known.refused.insert(wish, Instant::now());
        }
    }

    /// Asks again and again while the grant is used.
    async fn follow(self: Arc<Self>, wish: Wish, bearer: String, grant: Arc<Grant>) {
        let mut sure = Instant::now();
        loop {
            tokio::select! {
                () = grant.revoked.cancelled() => break,
                () = sleep(AGAIN) => {}
            }
            if self.forgets(&wish, &grant) {
                return;
            }
            match self.ask(&bearer, &wish).await {
                Verdict::Granted => sure = Instant::now(),
                Verdict::Unknown if sure.elapsed() < AWAY => {}
                Verdict::Refused | Verdict::Unknown => break,
            }
        }
        grant.revoked.cancel();
        self.locked()
            .granted
            .retain(|_, held| !Arc::ptr_eq(held, &grant));
    }

    /// Forgets a grant that nobody uses. Who might take it up has to wait for the lock, and finds nothing.
    fn forgets(&self, wish: &Wish, grant: &Arc<Grant>) -> bool {
        let mut known = self.locked();
        // One is ours, one the map's.
        let in_hand = Arc::strong_count(grant) > 2;
        let unused = !in_hand && grant.unused() > AGAIN;
        if unused {
            known.granted.remove(wish);
        }
        unused
    }

    async fn ask(&self, bearer: &str, wish: &Wish) -> Verdict {
        let asked = async {
            // Never closed; an error would mean that nobody can be asked.
            let _slot = self.asking.acquire().await.ok()?;
            let user = match self.who(bearer).await {
                Ok(Some(user)) => user,
                Ok(None) => return Some(Verdict::Refused),
                Err(error) => {
                    tracing::warn!(%error, "a token could not be reviewed");
                    return None;
                }
            };
            match self.may(user, wish).await {
                Ok(true) => Some(Verdict::Granted),
                Ok(false) => Some(Verdict::Refused),
                Err(error) => {
                    tracing::warn!(%error, "a right could not be reviewed");
                    None
                }
            }
        };
        timeout(ASK_TIMEOUT, asked)
            .await
            .ok()
            .flatten()
            .unwrap_or(Verdict::Unknown)
    }

    async fn who(&self, bearer: &str) -> kube::Result<Option<UserInfo>> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(bearer.to_owned()),
                audiences: Some(vec![AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let status = reviews
            .create(&PostParams::default(), &review)
            .await?
            .status
            .unwrap_or_default();
        // An authenticator that knows no audiences leaves them out: such a token is for everybody, and not for us.
        let ours = status
            .audiences
            .is_some_and(|audiences| audiences.iter().any(|audience| audience == AUDIENCE));
        Ok(status
            .user
            .filter(|_| status.authenticated == Some(true) && ours))
    }

    async fn may(&self, user: UserInfo, wish: &Wish) -> kube::Result<bool> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username,
                groups: user.groups,
                uid: user.uid,
                extra: user.extra,
                resource_attributes: Some(ResourceAttributes {
                    group: Some("srchat.dev".to_owned()),
                    version: Some("v1alpha1".to_owned()),
                    resource: Some("chatsessions".to_owned()),
                    subresource: Some(wish.right.subresource().to_owned()),
                    verb: Some("create".to_owned()),
                    namespace: Some(wish.namespace.clone()),
                    name: Some(wish.name.clone()),
                    ..ResourceAttributes::default()
                }),
                non_resource_attributes: None,
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

impl Grant {
    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn unused(&self) -> Duration {
        self.used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_the_form_of_a_web_token_is_asked_about() {
        assert!(is_candidate("eyJh.eyJp-_0.c2ln"));
        let ours = format!("srchat_abcd1234_{}", "A".repeat(43));
        let long = format!("{}.b.c", "a".repeat(TOKEN_BYTES));
        for other in [
            "", "a.b", "a..c", "a.b.c.d", "a.b.c\n", "a b.c.d", &ours, &long,
        ] {
            assert!(!is_candidate(other), "{other}");
        }
    }

    #[test]
    fn files_are_a_right_of_their_own() {
        assert_eq!(Right::of(&What::FileList), Right::Files);
        assert_eq!(Right::of(&What::Files), Right::Files);
        assert_eq!(Right::of(&What::Chat), Right::Chat);
        assert_eq!(Right::of(&What::Status), Right::Chat);
    }
}
