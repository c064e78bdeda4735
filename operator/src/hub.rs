//! Model facts from the Hugging Face Hub. It asks and parses; what to rent for the answer is the planner's business.
//! Nothing here writes to disk, and a token goes to the Hub it was given for and nowhere else.

mod ask;
pub mod facts;
mod gguf;
mod shape;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hf_hub::{HFClient, HFRepository, RepoTypeModel};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest as _, Sha256};
use srchat_crds::ModelId;

use ask::{Asking, limited};
pub use facts::{Cache, Facts, File, Gguf, Shape, Stored};

/// To reach the Hub: it answers from the nearest edge, so what takes longer is an outage.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For one whole answer: the largest is a page of a thousand file names, some 200 KiB.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// The Hub's longest window is five minutes; what claims more is cut to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How long an answer is believed without asking again, so that sessions which wait for stock do not ask at every look.
const FRESH: Duration = Duration::from_secs(60);
/// Facts kept, for sessions of many models; some 20 KiB each.
const KEPT: usize = 256;

/// A user's access token for the Hub. Nothing prints it.
#[derive(Clone)]
pub struct Token(SecretString);

impl Token {
    /// Takes a token as it stands in a Secret, without the spaces and line ends around it; `None` when no token looks like that.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let good = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        good.then(|| Self(SecretString::from(text.to_owned())))
    }

    /// The token itself, for the Hub and for the download on the host.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(self.expose().as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Why there are no facts. Each sentence is the user's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such model, revision or variant, as far as this token sees: `ModelNotFound`.
    #[error("{0}")]
    NotFound(String),
    /// Its licence was not accepted, or the token is no good: `GatedModel`.
    #[error("{0}")]
    Gated(String),
    /// It exists, and nothing here can serve it: `UnsupportedModel`.
    #[error("{0}")]
    Unsupported(String),
    /// The Hub did not answer, or not so that it could be understood: `HubUnavailable`.
    #[error("{message}")]
    Unavailable {
        /// What was seen.
        message: String,
        /// When it makes sense to ask again, if the Hub said so.
        after: Option<Duration>,
    },
}

impl Error {
    fn unavailable(what: impl fmt::Display) -> Self {
        Self::Unavailable {
            message: format!("the Hugging Face Hub cannot be asked: {what}"),
            after: None,
        }
    }
}

/// The Hub at one address.
pub struct Hub {
    endpoint: String,
    http: reqwest::Client,
    memory: Mutex<Memory>,
}

/// What was learned, and until when nothing may be asked.
#[derive(Default)]
struct Memory {
    /// By what was asked and with which token.
    answers: HashMap<Question, (Instant, Arc<Facts>)>,
    /// By what cannot change any more: repository, commit and variant.
    commits: HashMap<(String, String, Option<String>), Arc<Facts>>,
    paused_until: Option<Instant>,
}

type Question = (ModelId, Option<[u8; 32]>);

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Hub {
    /// A Hub at `endpoint` (`https://huggingface.co`). Nothing is asked yet.
    pub fn new(endpoint: &str) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("srchat/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .build()?;
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            http,
            memory: Mutex::default(),
        })
    }

    /// What the Hub knows of a model, read with this token: whoever may not read its files learns nothing.
    pub async fn facts(&self, model: &ModelId, token: Option<&Token>) -> Result<Arc<Facts>, Error> {
        let question = (model.clone(), token.map(Token::fingerprint));
        if let Some(known) = self.remembered(&question)? {
            return Ok(known);
        }
        let asked = self.ask(model, token).await;
        let mut memory = self.memory();
        match &asked {
            Ok(facts) => {
                let now = Instant::now();
                memory
                    .answers
                    .retain(|_, (at, _)| now.duration_since(*at) < FRESH);
                memory.answers.insert(question, (now, Arc::clone(facts)));
            }
            Err(Error::Unavailable {
                after: Some(after), ..
            }) => memory.paused_until = Some(Instant::now() + *after),
            Err(_) => {}
        }
        asked
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // What is kept is whole at every moment, so a panic elsewhere does not spoil it.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self, question: &Question) -> Result<Option<Arc<Facts>>, Error> {
        let memory = self.memory();
        let now = Instant::now();
        if let Some((_, facts)) = memory
            .answers
            .get(question)
            .filter(|(at, _)| now.duration_since(*at) < FRESH)
        {
            return Ok(Some(Arc::clone(facts)));
        }
        match memory.paused_until.filter(|until| *until > now) {
            Some(until) => Err(limited(until - now)),
            None => Ok(None),
        }
    }

    async fn ask(&self, model: &ModelId, token: Option<&Token>) -> Result<Arc<Facts>, Error> {
        let repository = self.repository(model, token)?;
        let asking = Asking {
            hub: self,
            model,
            token,
            repository,
        };
        let found = asking.info().await?;
        let key = (
            found.id.clone(),
            found.sha.clone(),
            model.variant().map(str::to_owned),
        );
        let known = self.memory().commits.get(&key).cloned();
        let facts = match known {
            Some(facts) => facts,
            None => {
                let facts = Arc::new(asking.read(&found).await?);
                let mut memory = self.memory();
                if memory.commits.len() >= KEPT {
                    memory.commits.clear();
                }
                memory.commits.insert(key, Arc::clone(&facts));
                facts
            }
        };
        if found.gated {
            // Anybody may read the description of a gated model; only its files tell who may have them.
            asking.may_read(&facts).await?;
        }
        Ok(facts)
    }

    fn repository(
        &self,
        model: &ModelId,
        token: Option<&Token>,
    ) -> Result<HFRepository<RepoTypeModel>, Error> {
        // Without a token hf-hub takes one from this process's environment or home, which would be the operator's. A text that
        // cannot be a header makes it send none.
        let token = token.map_or("\n", Token::expose);
        let client = HFClient::builder()
            .endpoint(&self.endpoint)
            .client(self.http.clone())
            .token(token)
            .cache_enabled(false)
            // The caller comes back by itself, later and with more patience than a library has.
            .retry_max_attempts(0)
            .build()
            .map_err(Error::unavailable)?;
        Ok(client.model(model.owner(), model.name()))
    }
}
