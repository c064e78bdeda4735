//! Somebody with a token, and what the API server answers to him.

use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use srchat_tests::cluster::{self, Cluster};

/// One request, as it is sent.
#[derive(Clone, Debug)]
pub struct Ask {
    pub verb: Method,
    pub path: String,
    pub body: Option<Value>,
    /// Asks in the name of this user.
    pub poses_as: Option<String>,
}

pub fn get(path: impl Into<String>) -> Ask {
    ask(Method::GET, path, None)
}

pub fn create(path: impl Into<String>, body: Value) -> Ask {
    ask(Method::POST, path, Some(body))
}

/// A POST without a body, as the subresources want it that turn into a stream.
pub fn connect(path: impl Into<String>) -> Ask {
    ask(Method::POST, path, None)
}

pub fn put(path: impl Into<String>, body: Value) -> Ask {
    ask(Method::PUT, path, Some(body))
}

/// A merge patch.
pub fn patch(path: impl Into<String>, body: Value) -> Ask {
    ask(Method::PATCH, path, Some(body))
}

pub fn delete(path: impl Into<String>) -> Ask {
    ask(Method::DELETE, path, None)
}

fn ask(verb: Method, path: impl Into<String>, body: Option<Value>) -> Ask {
    let path = path.into();
    Ask {
        verb,
        path,
        body,
        poses_as: None,
    }
}

impl Ask {
    pub fn posing_as(self, user: &str) -> Ask {
        Ask {
            poses_as: Some(user.to_owned()),
            ..self
        }
    }

    /// The same without an effect: it passes everything but the store.
    fn without_effect(&self) -> Ask {
        let mut ask = self.clone();
        if ask.verb != Method::GET {
            let joint = if ask.path.contains('?') { '&' } else { '?' };
            ask.path = format!("{}{joint}dryRun=All", ask.path);
        }
        ask
    }
}

/// Somebody at the API server.
pub struct Caller {
    name: String,
    client: Client,
}

impl Caller {
    /// An administrator.
    pub async fn admin(cluster: &Cluster) -> Caller {
        Caller {
            name: "an administrator".to_owned(),
            client: cluster.client().await.unwrap(),
        }
    }

    /// A service account with a token of its own, which is asked for and used as it is: the API server says whose it is.
    pub async fn account(cluster: &Cluster, namespace: &str, account: &str) -> Caller {
        let kubeconfig = cluster.kubeconfig_of(namespace, account).await.unwrap();
        let caller = Caller {
            name: format!("system:serviceaccount:{namespace}:{account}"),
            client: cluster::client(&kubeconfig).await.unwrap(),
        };
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let (_, who) = caller
            .ask(&create(
                "/apis/authentication.k8s.io/v1/selfsubjectreviews",
                review,
            ))
            .await;
        assert_eq!(who["status"]["userInfo"]["username"], caller.name);
        caller
    }

    /// The name that the API server knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a request as it is.
    pub async fn ask(&self, ask: &Ask) -> (StatusCode, Value) {
        let content = match ask.verb {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let mut request = Request::builder()
            .method(ask.verb.clone())
            .uri(&ask.path)
            .header("Content-Type", content);
        if let Some(user) = &ask.poses_as {
            request = request.header("Impersonate-User", user);
        }
        let body = ask.body.as_ref().map(Value::to_string).unwrap_or_default();
        let request = request.body(Body::from(body.into_bytes())).unwrap();
        let answer = self.client.send(request).await.unwrap();
        let status = answer.status();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let said = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes).into_owned()));
        (status, said)
    }

    /// Each of these is done, or would be: writes are sent as a dry run.
    pub async fn can(&self, asks: &[Ask]) {
        for ask in asks {
            let (status, said) = self.ask(&ask.without_effect()).await;
            assert!(
                status.is_success(),
                "{} may not {} {}: {said}",
                self.name,
                ask.verb,
                ask.path
            );
        }
    }

    /// Each of these is refused as forbidden, and only for want of rights: the administrator may.
    pub async fn cannot(&self, admin: &Caller, asks: &[Ask]) {
        for ask in asks {
            let (possible, said) = admin.ask(&ask.without_effect()).await;
            assert!(
                !matches!(possible.as_u16(), 401 | 403 | 404 | 405 | 415),
                "nobody could {} {} as it stands here: {said}",
                ask.verb,
                ask.path
            );
            let (status, said) = self.ask(ask).await;
            assert_eq!(
                status,
                StatusCode::FORBIDDEN,
                "{} may {} {}: {said}",
                self.name,
                ask.verb,
                ask.path
            );
        }
    }
}
