//! A port of this machine that leads to a gateway's pod through the API server, as `kubectl port-forward` does.

use crate::cluster::failed;
use crate::failure::{Code, Failure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::net::{TcpListener, TcpStream};

/// The chart's labels of a gateway's pod.
const SELECTOR: &str = "app.kubernetes.io/name=srchat,app.kubernetes.io/component=gateway";
/// The port that the chart gives the gateway.
const PORT: u16 = 8443;

/// Opens the port and serves it until the program ends.
pub async fn start(client: Client, namespace: &str) -> Result<u16, Failure> {
    let pods = Api::<Pod>::namespaced(client, namespace);
    let name = running(&pods, namespace).await?;
    let cannot =
        |e: std::io::Error| Failure::new(Code::Error, format!("could not open a local port: {e}"));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(cannot)?;
    let port = listener.local_addr().map_err(cannot)?.port();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            // A connection that fails is seen by whoever made it, as one that closes.
            tokio::spawn(carry(pods.clone(), name.clone(), connection));
        }
    });
    Ok(port)
}

async fn running(pods: &Api<Pod>, namespace: &str) -> Result<String, Failure> {
    let list = pods.list(&ListParams::default().labels(SELECTOR)).await;
    let list = list.map_err(|e| failed("look for a gateway", &e))?;
    let running = list.items.into_iter().find(|pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
    });
    running.and_then(|pod| pod.metadata.name).ok_or_else(|| {
        Failure::new(
            Code::NotReady,
            format!("the endpoint does not answer and no gateway runs in namespace {namespace}"),
        )
        .hint("--system-namespace names the operator's namespace; is srchat installed there?")
    })
}

async fn carry(pods: Api<Pod>, name: String, mut connection: TcpStream) -> Option<()> {
    let mut forwarder = pods.portforward(&name, &[PORT]).await.ok()?;
    let mut stream = forwarder.take_stream(PORT)?;
    tokio::io::copy_bidirectional(&mut connection, &mut stream)
        .await
        .ok()?;
    drop(stream);
    forwarder.join().await.ok()
}
