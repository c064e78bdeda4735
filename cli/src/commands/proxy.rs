//! `srchat proxy`: a session's endpoint as plain HTTP on this machine, for every tool on it.

mod relay;

use crate::args::{self, Output};
use crate::cluster::Cluster;
use crate::failure::{Code, Failure};
use crate::print::Printer;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use relay::Relay;
use serde::Serialize;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// A program on this machine sends its head at once.
const HEAD: Duration = Duration::from_secs(10);
/// After a failed accept (too many open files, most likely) there is no point in trying at once.
const BREATH: Duration = Duration::from_millis(100);

/// What a tool has to know, under the names that OpenAI's clients read.
#[derive(Serialize)]
struct Exports<'a> {
    #[serde(rename = "OPENAI_BASE_URL")]
    base_url: String,
    #[serde(rename = "OPENAI_API_KEY")]
    api_key: &'a str,
}

/// Serves until Ctrl-C.
pub async fn proxy(
    cluster: Cluster,
    args: args::Proxy,
    output: Output,
    print: &Printer,
) -> Result<(), Failure> {
    let name = cluster.named_or_only(args.name).await?;
    let relay = Relay::new(cluster, &name).await?;
    let listener = listen(args.port).await?;
    let port = listener
        .local_addr()
        .map_or(args.port, |address| address.port());
    let exports = Exports {
        base_url: format!("http://127.0.0.1:{port}/v1"),
        api_key: relay.key(),
    };
    match output {
        Output::Json => print.json(&exports)?,
        Output::Text => {
            print.line(&format!("export OPENAI_BASE_URL={}", exports.base_url))?;
            print.line(&format!("export OPENAI_API_KEY={}", exports.api_key))?;
        }
    }
    print.note(&format!(
        "{name} answers at http://127.0.0.1:{port} until Ctrl-C, to this machine and with this key only."
    ));
    serve(listener, Arc::new(relay)).await
}

async fn listen(port: u16) -> Result<TcpListener, Failure> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .map_err(|e| {
            let failure =
                Failure::new(Code::Error, format!("could not listen on port {port}: {e}"));
            match e.kind() {
                std::io::ErrorKind::AddrInUse => failure.hint("--port 0 takes one that is free"),
                std::io::ErrorKind::PermissionDenied => {
                    failure.hint("ports from 1024 on are free for all")
                }
                _ => failure,
            }
        })
}

async fn serve(listener: TcpListener, relay: Arc<Relay>) -> Result<(), Failure> {
    loop {
        let Ok((connection, _)) = listener.accept().await else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        // Tokens are small and must not wait for each other.
        let _ = connection.set_nodelay(true);
        let relay = Arc::clone(&relay);
        let answer = service_fn(move |request| {
            let relay = Arc::clone(&relay);
            async move { Ok::<_, Infallible>(relay.answer(request).await) }
        });
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEAD);
        // A connection that fails is seen by whoever made it, as one that closes.
        tokio::spawn(server.serve_connection(TokioIo::new(connection), answer));
    }
}
