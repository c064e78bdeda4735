//! A client that nobody here wrote: RunPod's own npm package, whose REST v2 client is generated from RunPod's contract.

#![allow(clippy::unwrap_used)]

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::{Value, json};
use srchat_tests::{
    cache,
    runpod::{Clock, Options, Simulator},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::setting::{options, start_with};

/// The version that was tried; newer ones may want calls that the simulator does not have.
const PACKAGE: &str = "@runpod/mcp-server@4.0.0";
/// Its own requests give up after 30 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// RunPod's package, running, spoken to in JSON-RPC over its stdin and stdout.
struct Peer {
    _process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    asked: u64,
}

impl Peer {
    async fn start(simulator: &Simulator) -> Self {
        let folder = cache::once("runpod-mcp-server-4.0.0", |folder: &Path| {
            let install = std::process::Command::new("npm")
                .args([
                    "install",
                    "--no-audit",
                    "--no-fund",
                    "--ignore-scripts",
                    "--prefix",
                ])
                .arg(folder)
                .arg(PACKAGE)
                .stdout(Stdio::null())
                .status()?;
            if install.success() {
                Ok(())
            } else {
                Err(std::io::Error::other(format!("npm: {install}")))
            }
        });
        let folder = folder.expect("npm installs RunPod's package");
        let mut process = Command::new("node")
            .arg(folder.join("node_modules/@runpod/mcp-server/dist/stdio.mjs"))
            .env(
                "RUNPOD_API_BASE_URL",
                simulator.url().trim_end_matches("/v2"),
            )
            .env("RUNPOD_API_KEY", simulator.key())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node starts");
        let (input, output) = (
            process.stdin.take().unwrap(),
            process.stdout.take().unwrap(),
        );
        let mut peer = Self {
            _process: process,
            input,
            output: BufReader::new(output).lines(),
            asked: 0,
        };
        let hello = json!({"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "srchat", "version": "0"}});
        peer.ask("initialize", hello).await;
        peer.send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
            .await;
        peer
    }

    async fn send(&mut self, message: Value) {
        self.input
            .write_all(format!("{message}\n").as_bytes())
            .await
            .unwrap();
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.asked += 1;
        self.send(json!({"jsonrpc": "2.0", "id": self.asked, "method": method, "params": params}))
            .await;
        loop {
            let line = timeout(PATIENCE, self.output.next_line())
                .await
                .expect("it answers")
                .unwrap()
                .expect("it goes on");
            let message: Value = serde_json::from_str(&line).unwrap();
            if message["id"] == self.asked {
                return message["result"].clone();
            }
        }
    }

    /// What one of its tools answers: the API's own body, or the problem.
    async fn call(&mut self, tool: &str, arguments: Value) -> Result<Value, Value> {
        let result = self
            .ask("tools/call", json!({"name": tool, "arguments": arguments}))
            .await;
        let text = result["content"][0]["text"]
            .as_str()
            .unwrap_or_else(|| panic!("{tool}: {result}"));
        let body = serde_json::from_str(text).unwrap_or_else(|_| json!(text));
        if result["isError"] == true {
            Err(body)
        } else {
            Ok(body)
        }
    }
}

#[tokio::test]
#[ignore = "installs RunPod's own client from npm; needs Node 20"]
async fn runpods_own_client_lives_a_pods_life() {
    let (simulator, _) = start_with(Options {
        clock: Clock::standing(),
        ..options()
    })
    .await;
    let mut peer = Peer::start(&simulator).await;

    let gpus = peer
        .call(
            "list-gpu-types",
            json!({"include": ["AVAILABILITY"], "product": ["POD"], "count": 2}),
        )
        .await
        .unwrap();
    assert_eq!(gpus["gpus"].as_array().unwrap().len(), 17);
    let gpu = peer
        .call("get-gpu-type", json!({"id": "NVIDIA L4"}))
        .await
        .unwrap();
    assert_eq!(gpu["price"]["secure"], 0.49);

    let body = json!({"name": "peer", "image": "runpod/pytorch:1", "gpu": {"id": "NVIDIA L4", "count": 1}, "disk": 50, "ports": ["22/tcp"]});
    let pod = peer
        .call("create-pod", json!({"body": body}))
        .await
        .unwrap();
    let id = pod["id"].as_str().unwrap().to_owned();
    simulator.clock().advance(Duration::from_secs(200));
    let booted = peer.call("get-pod", json!({"id": id})).await.unwrap();
    assert_eq!(
        (&booted["status"], booted["ssh"]["direct"]["port"].is_u64()),
        (&json!("RUNNING"), true)
    );
    assert_eq!(
        peer.call("list-pods", json!({})).await.unwrap()["pods"],
        json!([booted])
    );
    simulator.write(&id, "hello");
    let log = peer
        .call(
            "stream-pod-logs",
            json!({"podId": id, "source": "container", "maxWaitMs": 1000}),
        )
        .await
        .unwrap();
    assert_eq!(log["items"][0]["line"], "hello");

    let act = |action: &str| json!({"id": id, "body": {"action": action}});
    assert_eq!(
        peer.call("pod-action", act("stop")).await.unwrap()["status"],
        "EXITED"
    );
    assert_eq!(
        peer.call("pod-action", act("restart")).await.unwrap_err()["status"],
        409
    );
    assert_eq!(
        peer.call("pod-action", act("start")).await.unwrap()["status"],
        "RUNNING"
    );
    let billing = peer
        .call(
            "list-pod-billing",
            json!({"podId": id, "bucketSize": "hour", "lastN": 2}),
        )
        .await
        .unwrap();
    assert!(billing["metadata"]["totals"]["gpuAmount"].as_f64().unwrap() > 0.02);

    let refused = peer
        .call(
            "create-pod",
            json!({"body": {"name": "peer", "image": "i", "gpu": {"id": "none"}}}),
        )
        .await
        .unwrap_err();
    assert_eq!(refused["status"], 400);
    assert_eq!(
        peer.call("delete-pod", json!({"id": id})).await.unwrap()["status"],
        204
    );
    assert_eq!(
        peer.call("get-pod", json!({"id": id})).await.unwrap_err()["status"],
        404
    );
    assert_eq!(simulator.ledger().total.alive, 0);
    simulator.stop().await;
}
