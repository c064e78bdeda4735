//! RunPod's REST v2: one method a call, each with its own time limit, its place in the rate budget, and an answer or a closed error.
//! Nothing is ever sent twice: a call that failed is reported, and whoever asked decides.

mod answer;
mod body;
mod budget;
mod key;
mod logs;
mod sse;
mod wire;

use std::{
    collections::{BTreeMap, HashSet},
    io, iter,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use reqwest::{Client, RequestBuilder, Response, Url, redirect};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use self::{
    answer::Act,
    budget::{Budget, Purpose},
    logs::{OpenLog, OpenLogs},
};
pub use self::{
    key::{Key, NotAKey},
    logs::LogStream,
};
use crate::metrics::{OutcomeLabels, ProviderCalls};
use crate::provider::{
    Billed, Cloud, Error, Fingerprint, LogLine, NewPod, Offer, Pod, PodId, Snapshot,
};

/// A host that has not completed TCP and TLS by then is down, or too far away to rent from.
const CONNECT: Duration = Duration::from_secs(5);
/// S2's request timeout: placing a pod takes RunPod up to 20 s; the deadline of an intent is twice as long.
pub const CREATE: Duration = Duration::from_secs(30);
/// One page of the list; some megabytes for a thousand pods.
const LIST: Duration = Duration::from_secs(20);
/// One small record.
const GET: Duration = Duration::from_secs(10);
/// Ending releases a machine before it answers; asked again when this was too short, which harms nobody.
const END: Duration = Duration::from_secs(20);
/// The catalog computes stock for every GPU and data center, and billing sums up a month.
const REPORT: Duration = Duration::from_secs(30);

/// How long each kind of call may take, its answer read to the end. The defaults are for the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// S2's request timeout.
    pub create: Duration,
    /// One page of the list.
    pub list: Duration,
    /// One pod.
    pub get: Duration,
    /// The end of a pod.
    pub end: Duration,
    /// Catalog and billing.
    pub report: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            create: CREATE,
            list: LIST,
            get: GET,
            end: END,
            report: REPORT,
        }
    }
}

/// More pages than any account has; a server that turns pages for ever is not believed.
const MOST_PAGES: usize = 1_000;

/// RunPod, asked with one key. Cheap to clone; clones share connections and rate budget. Another key is another `RunPod`.
#[derive(Clone, Debug)]
pub struct RunPod(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    base: Url,
    key: Key,
    patience: Patience,
    /// Sends what must not be sent twice: a connection of its own for each request, so that no library can re-send one.
    once: Client,
    /// Everything else.
    pooled: Client,
    budget: Mutex<Budget>,
    logs: OpenLogs,
    calls: ProviderCalls,
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum Misconfigured {
    /// Not a base URL.
    #[error("{0:?} is not the URL of a RunPod API, such as https://api.runpod.io/v2")]
    Url(String),
    /// The key would cross a network in the clear.
    #[error(
        "{0:?} must be https, since the account's key goes there; http is for this machine's own addresses"
    )]
    Clear(String),
    /// The HTTP library did not start.
    #[error("could not make an HTTP client")]
    Client(#[source] reqwest::Error),
}

impl RunPod {
    /// A client for the API at `base` (`https://api.runpod.io/v2`). Nothing is sent yet.
    pub fn new(base: &str, key: Key) -> Result<Self, Misconfigured> {
        Self::with_patience(base, key, Patience::default())
    }

    /// The same with other time limits: those of a test, whose provider is on the same machine.
    pub fn with_patience(base: &str, key: Key, patience: Patience) -> Result<Self, Misconfigured> {
        let base = base_url(base)?;
        let once = client(&base)
            .http1_only()
            .pool_max_idle_per_host(0)
            .build()
            .map_err(Misconfigured::Client)?;
        let pooled = client(&base).build().map_err(Misconfigured::Client)?;
        Ok(Self(Arc::new(Inner {
            base,
            key,
            patience,
            once,
            pooled,
            budget: Mutex::default(),
            logs: OpenLogs::default(),
            calls: ProviderCalls::default(),
        })))
    }

    /// Counts its calls there. Those of clones that exist already go on being counted where they were.
    #[must_use]
    pub fn counting(self, calls: &ProviderCalls) -> Self {
        match Arc::try_unwrap(self.0) {
            Ok(inner) => Self(Arc::new(Inner {
                calls: calls.clone(),
                ..inner
            })),
            Err(shared) => Self(shared),
        }
    }

    /// Which key this asks with.
    pub fn fingerprint(&self) -> &Fingerprint {
        self.0.key.fingerprint()
    }

    /// Whether the key may see pods. Whether it may create them shows only when one is created.
    pub async fn check_key(&self) -> Result<(), Error> {
        self.page(self.get_request(&["pods"])).await.map(drop)
    }

    /// Rents a pod, once: leaves only if its time limit ends before `deadline`, and is given up then at the latest.
    ///
    /// [`Error::Ambiguous`] is everything that may have made a pod; every other error says that none was made.
    pub async fn create(&self, new: &NewPod, deadline: Instant) -> Result<Pod, Error> {
        // Serialized first: nothing slow may lie between the fence and the request.
        let request = self
            .0
            .once
            .post(self.url(&["pods"]))
            .json(&wire::new_pod(new));
        self.admit(Purpose::Create)?;
        if Instant::now() + self.0.patience.create > deadline {
            return Err(answer::unavailable("the time to send this request is over"));
        }
        let body = self
            .send(Act::Create, self.0.patience.create, request)
            .await?;
        wire::pod(&body).map_err(|error| answer::unreadable(Act::Create, &error))
    }

    /// All pods of the account, every page, or an error: a partial list does not exist.
    pub async fn list_all(&self) -> Result<Snapshot, Error> {
        self.0.logs.close_idle();
        let (began, began_at) = (Instant::now(), Timestamp::now());
        let mut pods = BTreeMap::new();
        let mut seen = HashSet::new();
        let mut cursor: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let mut request = self.get_request(&["pods"]);
            if let Some(cursor) = &cursor {
                request = request.query(&[("cursor", cursor)]);
            }
            let (page, next) = self.page(request).await?;
            pods.extend(page.into_iter().map(|pod| (pod.id.clone(), pod)));
            match next {
                None => {
                    return Ok(Snapshot {
                        began,
                        began_at,
                        key: self.fingerprint().clone(),
                        pods,
                    });
                }
                Some(next) if !seen.insert(next.clone()) => break,
                Some(next) => cursor = Some(next),
            }
        }
        Err(answer::unreadable(
            Act::Read,
            &wire::Unreadable("pages that never end"),
        ))
    }

    /// One pod. [`Error::NotFound`] proves nothing by itself.
    pub async fn get(&self, id: &PodId) -> Result<Pod, Error> {
        let body = self
            .json(
                Act::Read,
                Purpose::Get,
                self.0.patience.get,
                self.get_request(&["pods", id.as_str()]),
            )
            .await?;
        let pod = wire::pod(&body).map_err(|error| answer::unreadable(Act::Read, &error))?;
        if pod.id != *id {
            return Err(answer::unreadable(
                Act::Read,
                &wire::Unreadable("another pod's record"),
            ));
        }
        Ok(pod)
    }

    /// Ends a pod for good. [`Error::NotFound`] means that RunPod knows no such pod (any more).
    pub async fn delete(&self, id: &PodId) -> Result<(), Error> {
        self.admit(Purpose::End)?;
        let request = self.0.pooled.delete(self.url(&["pods", id.as_str()]));
        self.send(Act::End, self.0.patience.end, request)
            .await
            .map(drop)
    }

    /// The last `tail` lines (5,000 at most) that the pod's container has written so far.
    ///
    /// The first question is a request, and waits until what is there has arrived. Its answer stays open, so later ones cost
    /// nothing and return at once; it is closed when nobody asks any more.
    pub async fn logs(&self, id: &PodId, tail: u32) -> Result<Vec<LogLine>, Error> {
        let slot = self.0.logs.slot(id);
        let mut slot = slot.lock().await;
        if let Some(open) = slot.as_mut().filter(|open| open.reaches(tail))
            && open.arrived()
        {
            return Ok(open.last(tail));
        }
        *slot = None;
        let mut open = OpenLog::new(self.follow(id, tail).await?, tail);
        open.backlog().await;
        let lines = open.last(tail);
        *slot = Some(open);
        Ok(lines)
    }

    /// Nobody will ask for this log any more.
    pub fn close_log(&self, id: &PodId) {
        self.0.logs.close(id);
    }

    /// The last `tail` lines and then each new one, until it is dropped. One request, however long it lasts.
    pub async fn follow(&self, id: &PodId, tail: u32) -> Result<LogStream, Error> {
        self.admit(Purpose::Log)?;
        let tail = tail.min(logs::LONGEST_TAIL).to_string();
        let request = self
            .get_request(&["pods", id.as_str(), "logs"])
            .query(&[("source", "container"), ("tail", &tail)]);
        let response = timeout(logs::HEAD, self.respond(Act::Read, request)).await;
        let response =
            response.unwrap_or_else(|_| Err(answer::lost(Act::Read, "no answer in time")));
        self.counted(response).map(LogStream::new)
    }

    /// What can be rented in one cloud, with the stock for `count` GPUs on one machine.
    pub async fn offers(&self, count: u32, cloud: Cloud) -> Result<Vec<Offer>, Error> {
        let asked = [
            ("include", "AVAILABILITY"),
            ("product", "POD"),
            ("count", &count.to_string()),
            ("cloud", cloud.as_str()),
        ];
        let request = self.get_request(&["catalog", "gpus"]).query(&asked);
        let body = self
            .json(Act::Read, Purpose::Catalog, self.0.patience.report, request)
            .await?;
        wire::offers(&body, cloud, count).map_err(|error| answer::unreadable(Act::Read, &error))
    }

    /// What one pod has been billed since `since`; RunPod bills whole periods, some time after they end.
    pub async fn billing(&self, id: &PodId, since: Timestamp) -> Result<Billed, Error> {
        let asked = [
            ("podId", id.as_str()),
            ("bucketSize", "hour"),
            ("startTime", &since.to_string()),
        ];
        let request = self.get_request(&["billing", "pods"]).query(&asked);
        let body = self
            .json(Act::Read, Purpose::Billing, self.0.patience.report, request)
            .await?;
        wire::billed(&body, id).map_err(|error| answer::unreadable(Act::Read, &error))
    }

    /// How long to leave between two lists, as the rate limit stands.
    pub(super) fn list_spacing(&self) -> Duration {
        self.with_budget(|budget| budget.list_spacing(Instant::now()))
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.0.base.clone();
        url.path_segments_mut()
            .expect("an http URL has a path")
            .pop_if_empty()
            .extend(path);
        url
    }

    fn get_request(&self, path: &[&str]) -> RequestBuilder {
        self.0.pooled.get(self.url(path))
    }

    fn admit(&self, purpose: Purpose) -> Result<(), Error> {
        self.with_budget(|budget| budget.admit(purpose, Instant::now()))
            .map_err(|after| Error::RateLimited { after })
    }

    async fn json(
        &self,
        act: Act,
        purpose: Purpose,
        limit: Duration,
        request: RequestBuilder,
    ) -> Result<Value, Error> {
        self.admit(purpose)?;
        self.send(act, limit, request).await
    }

    /// One page of the list.
    async fn page(&self, request: RequestBuilder) -> Result<(Vec<Pod>, Option<String>), Error> {
        self.admit(Purpose::List)?;
        let whole = async {
            let response = self.respond(Act::Read, request).await?;
            body::read_along(response, |pieces| wire::page(io::BufReader::new(pieces)))
                .await
                .map_err(|seen| answer::lost(Act::Read, &seen))?
                .map_err(|error| answer::unreadable(Act::Read, &error))
        };
        let ended = timeout(self.0.patience.list, whole)
            .await
            .unwrap_or_else(|_| Err(answer::lost(Act::Read, "no answer in time")));
        self.counted(ended)
    }

    /// Sends, and reads the answer to its end, within `limit`. An empty body is `Null`.
    async fn send(
        &self,
        act: Act,
        limit: Duration,
        request: RequestBuilder,
    ) -> Result<Value, Error> {
        let whole = async {
            let response = self.respond(act, request).await?;
            let body = body::whole(response)
                .await
                .map_err(|seen| answer::lost(act, &seen))?;
            if body.is_empty() {
                return Ok(Value::Null);
            }
            // DELETE has nothing to say: whatever came with its success is not looked at.
            if act == Act::End {
                return Ok(Value::Null);
            }
            serde_json::from_slice(&body)
                .map_err(|_| answer::unreadable(act, &wire::Unreadable("not JSON")))
        };
        let ended = timeout(limit, whole)
            .await
            .unwrap_or_else(|_| Err(answer::lost(act, "no answer in time")));
        self.counted(ended)
    }

    fn counted<T>(&self, ended: Result<T, Error>) -> Result<T, Error> {
        let outcome = ended.as_ref().err().map_or("Ok", Error::kind);
        self.0.calls.get_or_create(&OutcomeLabels { outcome }).inc();
        ended
    }

    /// The answer's head, when it is a success; its meaning as an error otherwise.
    async fn respond(&self, act: Act, request: RequestBuilder) -> Result<Response, Error> {
        let request = request.header(http::header::AUTHORIZATION, self.0.key.header());
        let response = request
            .send()
            .await
            .map_err(|error| answer::unsent_or_lost(act, &error))?;
        self.with_budget(|budget| budget.learn(response.headers(), Instant::now()));
        let status = response.status();
        if act.succeeded(status) {
            return Ok(response);
        }
        let after = (status.as_u16() == 429)
            .then(|| self.with_budget(|budget| budget.refused(response.headers(), Instant::now())));
        let body = body::whole(response).await.unwrap_or_default();
        let body = self.0.key.redact(&String::from_utf8_lossy(&body));
        Err(answer::refusal(act, status, &body, after))
    }

    fn with_budget<T>(&self, ask: impl FnOnce(&mut Budget) -> T) -> T {
        ask(&mut self.0.budget.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Waits until the next list may follow the one that began at `began`.
pub(super) async fn space_lists(runpod: &RunPod, began: Instant) {
    sleep(runpod.list_spacing().saturating_sub(began.elapsed())).await;
}

fn client(base: &Url) -> reqwest::ClientBuilder {
    let builder = Client::builder()
        .user_agent(concat!("srchat/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .tcp_keepalive(Duration::from_secs(20))
        .redirect(redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never());
    let builder = match base.scheme() {
        // Plain HTTP is this machine's own: the system's roots, slow to read, would be trusted for nothing.
        "http" => builder.tls_certs_only(iter::empty::<reqwest::Certificate>()),
        _ => builder,
    };
    // A proxy from the environment is for the internet, never for this machine.
    if is_loopback(base) {
        builder.no_proxy()
    } else {
        builder
    }
}

fn base_url(text: &str) -> Result<Url, Misconfigured> {
    let url = Url::parse(text).map_err(|_| Misconfigured::Url(text.to_owned()))?;
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    match url.scheme() {
        _ if !plain || url.host_str().is_none() => Err(Misconfigured::Url(text.to_owned())),
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err(Misconfigured::Clear(text.to_owned())),
        _ => Err(Misconfigured::Url(text.to_owned())),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_key_goes_nowhere_in_the_clear() {
        for refused in [
            "http://api.runpod.io/v2",
            "http://10.0.0.1/v2",
            "ftp://x/",
            "https://user@x/",
            "https://x/?q",
            "nonsense",
            "",
        ] {
            assert!(base_url(refused).is_err(), "{refused}");
        }
        for taken in [
            "https://api.runpod.io/v2",
            "https://x/v2/",
            "http://127.0.0.1:8080",
            "http://[::1]:1/v2",
            "http://localhost/v2",
        ] {
            assert!(base_url(taken).is_ok(), "{taken}");
        }
    }

    #[test]
    fn a_path_is_joined_whether_or_not_the_base_ends_with_a_slash() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        for base in ["http://localhost/v2", "http://localhost/v2/"] {
            let runpod = RunPod::new(base, Key::parse("k").unwrap()).unwrap();
            assert_eq!(
                runpod.url(&["pods", "a"]).as_str(),
                "http://localhost/v2/pods/a"
            );
        }
    }
}
