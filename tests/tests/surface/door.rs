//! `srchat proxy`: the session as plain HTTP on this machine.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use super::stage::{NAME, Run as _, Stage, serving};

/// A running proxy. Dropping it ends it.
struct Proxy {
    child: Child,
    base_url: String,
    key: String,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    fn start(stage: &Stage) -> Self {
        let mut command = stage.srchat(&["proxy", NAME, "--port", "0", "-o", "json"]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let line = tokio::task::block_in_place(|| {
            let mut line = String::new();
            let out = child.stdout.take().unwrap();
            BufReader::new(out).read_line(&mut line).unwrap();
            line
        });
        let exports: Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| exports[name].as_str().unwrap().to_owned();
        Self {
            child,
            base_url: text("OPENAI_BASE_URL"),
            key: text("OPENAI_API_KEY"),
        }
    }

    fn http() -> Client {
        Client::builder().no_proxy().build().unwrap()
    }
}

pub async fn tools_on_this_machine_talk_to_the_session_without_its_token() {
    let stage = serving().await;
    let proxy = Proxy::start(stage);
    let http = Proxy::http();
    let models = http
        .get(format!("{}/models", proxy.base_url))
        .bearer_auth(&proxy.key);
    let models: Value = models.send().await.unwrap().json().await.unwrap();
    assert_eq!(models["object"], "list", "{models}");

    let question = json!({
        "model": models["data"][0]["id"], "max_tokens": 16, "temperature": 0, "stream": true,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    });
    let ask = http.post(format!("{}/chat/completions", proxy.base_url));
    let answer = ask
        .bearer_auth(&proxy.key)
        .json(&question)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let kind = answer.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(kind.starts_with("text/event-stream"), "{kind}");
    let stream = answer.text().await.unwrap();
    assert!(stream.matches("data: ").count() > 3, "{stream}");
    assert!(stream.contains("[DONE]"), "{stream}");

    // The session's own token is nowhere in what was shown.
    let secret = stage.kubectl(&[
        "-n",
        super::stage::NAMESPACE,
        "get",
        "secret",
        "qwen-chat",
        "-o",
        "json",
    ]);
    let token = secret.json()["data"]["OPENAI_API_KEY"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(!token.is_empty() && !token.contains(&proxy.key));

    // The second proxy has the same key, and another port when the first is taken.
    let port = proxy
        .base_url
        .rsplit(':')
        .next()
        .unwrap()
        .trim_end_matches("/v1")
        .to_owned();
    let taken = stage.srchat(&["proxy", NAME, "--port", &port]).ran();
    taken.fails(1, &format!("could not listen on port {port}"), "--port 0");
    assert_eq!(Proxy::start(stage).key, proxy.key);
}

pub async fn pages_in_a_browser_and_other_users_are_kept_out() {
    let stage = serving().await;
    let proxy = Proxy::start(stage);
    let http = Proxy::http();
    let url = format!("{}/models", proxy.base_url);
    let get = |host: &str, key: &str| {
        let request = http.get(&url).bearer_auth(key);
        match host {
            "" => request,
            host => request.header("host", host),
        }
    };
    let status = async |host: &str, key: &str| get(host, key).send().await.unwrap().status();
    assert_eq!(status("", &proxy.key).await, StatusCode::OK);
    assert_eq!(status("localhost", &proxy.key).await, StatusCode::OK);
    assert_eq!(status("", "another").await, StatusCode::UNAUTHORIZED);
    assert_eq!(
        status("rebound.example", &proxy.key).await,
        StatusCode::FORBIDDEN
    );
    let refused: Value = get("", "another")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(refused["error"]["type"], "invalid_request_error");
    // Neither other paths of the gateway nor other sessions are reached through it.
    for path in [
        "/",
        "/readyz",
        "/v1",
        "/v1/../files/",
        "/v1/%2e%2e/%2e%2e/x/v1/models",
    ] {
        let at = proxy.base_url.trim_end_matches("/v1");
        let raw = raw_get(at, path, &proxy.key).await;
        assert!(raw.starts_with("HTTP/1.1 404"), "{path}: {raw}");
    }
}

/// A request whose path no library has tidied.
async fn raw_get(base: &str, path: &str, key: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = base.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
