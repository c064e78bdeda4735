//! The cluster as kubectl sees it: sessions, their Secrets, the way to the gateway.

mod forward;

use crate::args::Global;
use crate::failure::{Code, Failure, chain};
use crate::gateway::{Endpoint, Gateway};
use k8s_openapi::api::core::v1::Secret;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use secrecy::SecretString;
use srchat_crds::ChatSession;
use std::time::Duration;
use tokio::net::TcpStream;

/// An API server that answers takes milliseconds; a wrong address should not hold a person up.
const CONNECT: Duration = Duration::from_secs(10);
/// A gateway beside us answers at once, one across the world within a second; after that the API server helps.
const REACH: Duration = Duration::from_secs(2);

/// A connection to the cluster, and the namespace that the person works in.
pub struct Cluster {
    /// The Kubernetes client.
    pub client: Client,
    /// Where sessions are looked for.
    pub namespace: String,
    system_namespace: String,
}

impl Cluster {
    /// Finds the cluster as kubectl does.
    pub async fn connect(global: &Global) -> Result<Self, Failure> {
        let options = KubeConfigOptions {
            context: global.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = match &global.kubeconfig {
            Some(path) => match Kubeconfig::read_from(path) {
                Ok(file) => Config::from_custom_kubeconfig(file, &options).await,
                Err(error) => Err(error),
            },
            None => Config::from_kubeconfig(&options).await,
        };
        let mut config = config.map_err(|e| {
            Failure::new(Code::Error, format!("no cluster to talk to: {}", chain(&e)))
                .hint("set KUBECONFIG or pass --kubeconfig; `kubectl cluster-info` must work")
        })?;
        config.connect_timeout = Some(CONNECT);
        let namespace = global
            .namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|e| failed("connect to the cluster", &e))?;
        Ok(Self {
            client,
            namespace,
            system_namespace: global.system_namespace.clone(),
        })
    }

    /// Where the operator runs.
    pub fn system_namespace(&self) -> &str {
        &self.system_namespace
    }

    /// The sessions of our namespace.
    pub fn sessions(&self) -> Api<ChatSession> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// One session; near names are suggested when there is none of this name.
    pub async fn session(&self, name: &str) -> Result<ChatSession, Failure> {
        let found = self.sessions().get_opt(name).await;
        if let Some(session) = found.map_err(|e| failed("read the session", &e))? {
            return Ok(session);
        }
        let failure = Failure::new(
            Code::NotFound,
            format!("there is no session {name} in namespace {}", self.namespace),
        );
        let names = self.names().await?;
        Err(match near(name, &names) {
            Some(other) => failure.hint(format!("did you mean {other}?")),
            None if names.is_empty() => {
                failure.hint("`srchat run MODEL` makes one; -n chooses another namespace")
            }
            None => failure.hint(format!("there are: {}", names.join(", "))),
        })
    }

    /// The session that was named, else the only one there is.
    pub async fn named_or_only(&self, name: Option<String>) -> Result<String, Failure> {
        match name {
            Some(name) => Ok(name),
            None => self.only().await,
        }
    }

    /// The only session of the namespace, for those who name none.
    pub async fn only(&self) -> Result<String, Failure> {
        let mut names = self.names().await?;
        match (names.len(), names.pop()) {
            (1, Some(name)) => Ok(name),
            (_, Some(last)) => Err(Failure::new(
                Code::Usage,
                format!("there are several sessions in namespace {}", self.namespace),
            )
            .hint(format!("name one: {}, {last}", names.join(", ")))),
            (_, None) => Err(Failure::new(
                Code::NotFound,
                format!("there is no session in namespace {}", self.namespace),
            )
            .hint("`srchat run MODEL` makes one; -n chooses another namespace")),
        }
    }

    async fn names(&self) -> Result<Vec<String>, Failure> {
        let list = self
            .sessions()
            .list(&kube::api::ListParams::default())
            .await;
        let list = list.map_err(|e| failed("list sessions", &e))?;
        Ok(list
            .items
            .into_iter()
            .filter_map(|s| s.metadata.name)
            .collect())
    }

    /// The endpoint of a session, by its published Secret: directly where its address answers, else through the
    /// API server.
    pub async fn gateway(&self, name: &str) -> Result<Gateway, Failure> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let secret = secrets.get_opt(&format!("{name}-chat")).await;
        let Some(secret) = secret.map_err(|e| failed("read the session's Secret", &e))? else {
            self.session(name).await?;
            return Err(Failure::new(
                Code::NotReady,
                format!("session {name} has published no endpoint yet"),
            )
            .hint(format!("`srchat status {name}` says why")));
        };
        let endpoint = endpoint(name, secret)?;
        let local = match self.reachable(&endpoint.base_url).await {
            true => None,
            false => Some(forward::start(self.client.clone(), &self.system_namespace).await?),
        };
        Gateway::new(endpoint, local)
    }

    async fn reachable(&self, base_url: &str) -> bool {
        let Some((host, port)) = host_and_port(base_url) else {
            return false;
        };
        let connect = TcpStream::connect((host.as_str(), port));
        matches!(tokio::time::timeout(REACH, connect).await, Ok(Ok(_)))
    }
}

/// What went wrong at the API server, in the words of a person.
pub fn failed(what: &str, error: &kube::Error) -> Failure {
    let text = || format!("could not {what}: {}", chain(error));
    match error {
        kube::Error::Api(status) if status.code == 401 => Failure::new(Code::NotAllowed, text())
            .hint("the cluster does not know you: renew your credentials"),
        kube::Error::Api(status) if status.code == 403 => Failure::new(Code::NotAllowed, text())
            .hint("ask for the role srchat-user in this namespace"),
        kube::Error::Api(status) if status.is_invalid() => {
            Failure::new(Code::Usage, format!("could not {what}: {}", said(status)))
                .hint("`kubectl explain chatsession.spec` says what each field takes")
        }
        kube::Error::Api(status) if status.code == 404 => Failure::new(
            Code::NotFound,
            "this cluster does not know ChatSession".to_owned(),
        )
        .hint("install srchat: helm install srchat charts/srchat -n srchat-system"),
        _ => Failure::new(Code::Error, text()).hint("is the cluster up? `kubectl cluster-info`"),
    }
}

/// The rules that an object breaks, in the words of the resource, without the object itself.
fn said(status: &kube::core::Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let rules: Vec<String> = causes
        .map(|cause| {
            let rule = match cause.message.strip_prefix("Invalid value: ") {
                Some(rest) => rest.split_once("\": ").map_or(rest, |(_, rule)| rule),
                None => &cause.message,
            };
            format!("{}: {rule}", cause.field)
        })
        .collect();
    if rules.is_empty() {
        status.message.clone()
    } else {
        rules.join("; ")
    }
}

fn endpoint(name: &str, secret: Secret) -> Result<Endpoint, Failure> {
    let mut data = secret.data.unwrap_or_default();
    let mut text = |key: &str| {
        let value = data.remove(key).and_then(|v| String::from_utf8(v.0).ok());
        value.ok_or_else(|| {
            Failure::new(
                Code::Error,
                format!("the Secret {name}-chat of session {name} has no {key}"),
            )
            .hint("delete that Secret; the operator publishes it again")
        })
    };
    Ok(Endpoint {
        base_url: text("OPENAI_BASE_URL")?,
        key: SecretString::from(text("OPENAI_API_KEY")?),
        ca: text("ca.crt").ok().map(String::into_bytes),
    })
}

fn host_and_port(url: &str) -> Option<(String, u16)> {
    let url = reqwest::Url::parse(url).ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
    Some((host, url.port_or_known_default()?))
}

/// The name that was probably meant: at most two edits away, or one that begins like it.
pub fn near<'a>(name: &str, names: &'a [String]) -> Option<&'a String> {
    let closest = names.iter().min_by_key(|other| edits(name, other))?;
    let close = edits(name, closest) <= 2.min(name.len() / 2)
        || (name.len() > 2 && closest.starts_with(name));
    close.then_some(closest)
}

/// Levenshtein's distance, in characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_typo_finds_its_session_and_nonsense_finds_none() {
        let names = ["qwen".to_owned(), "vision".to_owned()];
        assert_eq!(near("qwne", &names), Some(&names[0]));
        assert_eq!(near("vis", &names), Some(&names[1]));
        assert_eq!(near("llama", &names), None);
        assert_eq!(near("a", &[]), None);
    }

    #[test]
    fn edits_are_counted() {
        let counted = [("", "abc"), ("kitten", "sitting"), ("same", "same")];
        assert_eq!(counted.map(|(a, b)| edits(a, b)), [3, 3, 0]);
    }

    #[test]
    fn a_secret_without_its_keys_is_a_sentence() {
        let failure = endpoint("qwen", Secret::default()).err().unwrap();
        let expected = "the Secret qwen-chat of session qwen has no OPENAI_BASE_URL";
        assert_eq!(failure.message, expected);
    }

    #[test]
    fn addresses_of_every_kind_are_found_in_urls() {
        let at = |url: &str| host_and_port(url).unwrap();
        assert_eq!(at("https://[::1]:8443/a"), ("::1".to_owned(), 8443));
        assert_eq!(
            at("https://chat.example/a"),
            ("chat.example".to_owned(), 443)
        );
        assert_eq!(host_and_port("nonsense"), None);
    }
}
