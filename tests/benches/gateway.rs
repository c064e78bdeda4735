//! What the gateway adds to a request and to a token, beside `ssh -L`, its peer: both carry the same requests to the same engine through
//! the same sshd. `cargo bench -p srchat-tests --bench gateway`, some two minutes. A JSON line for each measurement:
//!
//! - `p50_ms`, `p99_ms`: of a request, or of a token from its making to its arrival; `added_*`: that, less the direct way's;
//!   `to_ssh_*`: what the gateway adds by what `ssh -L` adds
//! - `tokens_per_second`, and `mb` of resident memory of the gateway's process
//! - `goal*` and `met`, where the design sets one
//! - `load`: the machine's load, at the beginning and the end; latencies are worth something where it is far below the number of cores
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io::{BufRead as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use reqwest::Client;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use srchat_operator::gateway::Gateway;
use srchat_operator::metrics::Registry;
use srchat_operator::route::{Route, RouteHost, Stage, TokenHash};
use srchat_tests::deployed::Deployed;
use srchat_tests::scripted_engine::{Pace, Script, ScriptedEngine};
use tokio::time::{Instant, MissedTickBehavior};

const TOKEN: &str = "srchat_abcd1234_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const CHILD: &str = "--as-the-gateway";

/// One way to the engine.
struct Way {
    name: &'static str,
    base: String,
    http: Client,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    if std::env::args().any(|argument| argument == CHILD) {
        runtime.block_on(be_the_gateway());
    } else {
        runtime.block_on(measure());
    }
}

/// The gateway in a process of its own, so that its memory can be told: reads leaf and route from stdin, says its address.
async fn be_the_gateway() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let told: Value = serde_json::from_str(&line).unwrap();
    let gateway = Arc::new(Gateway::new(&mut Registry::default()).unwrap());
    let text = |name: &str| told[name].as_str().unwrap().to_owned();
    gateway
        .set_leaf(text("chain").as_bytes(), text("key").as_bytes())
        .unwrap();
    gateway.apply(serde_json::from_value(told["route"].clone()).unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let end = gateway.clone();
    std::thread::spawn(move || {
        // The parent's end closes our stdin.
        let _ = std::io::stdin().read_line(&mut String::new());
        end.end();
    });
    gateway.serve(listener).await;
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn measure() {
    let engine = ScriptedEngine::start(Script::default()).await.unwrap();
    let host = Deployed::start(engine.port()).await.unwrap();
    let route = RouteHost {
        address: host.bare.clone(),
        ..host.route.clone()
    };
    let direct = Way {
        name: "direct",
        base: format!("http://127.0.0.1:{}", engine.port()),
        http: Client::builder().no_proxy().build().unwrap(),
    };
    let (tunnel, _ssh, _folder) = ssh_forward(&route, engine.port()).await;
    let (gateway, child) = start_gateway(&route);
    let ways = [direct, tunnel, gateway];

    load("before");
    memory("idle", resident(child.0.id()), Some(20.0));
    requests(&ways).await;
    memory("after the requests", resident(child.0.id()), None);
    open_loop(&ways).await;
    // 1,000 tokens a second each way, then 3,000.
    tokens(&engine, &ways, (20, Duration::from_millis(20), 250)).await;
    tokens(&engine, &ways, (300, Duration::from_millis(100), 50)).await;
    throughput(&engine, &ways, child.0.id()).await;
    prompts(&ways[2], child.0.id()).await;
    load("after");
}

fn load(when: &str) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let one_minute = load.split(' ').next();
    println!(
        "{}",
        json!({"bench": "gateway", "what": "load", "when": when, "load": one_minute})
    );
}

fn memory(when: &str, mb: f64, goal: Option<f64>) {
    let mut line = json!({"bench": "gateway", "what": "memory", "when": when, "mb": rounded(mb)});
    if let Some(goal) = goal {
        line["goal"] = json!(goal);
        line["met"] = json!(mb <= goal);
    }
    println!("{line}");
}

fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

async fn ssh_forward(route: &RouteHost, engine: u16) -> (Way, Killed, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, route.key.to_openssh().expose_secret()).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (host, port) = route.address.rsplit_once(':').unwrap();
    let known = folder.path().join("known");
    std::fs::write(&known, format!("[{host}]:{port} {}\n", route.host_key)).unwrap();
    let local = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut command = Command::new("ssh");
    command.args([
        "-F",
        "none",
        "-N",
        "-o",
        "BatchMode=yes",
        "-o",
        "ExitOnForwardFailure=yes",
        "-c",
        "aes128-gcm@openssh.com",
        "-i",
    ]);
    command
        .arg(&key)
        .arg("-o")
        .arg(format!("UserKnownHostsFile={}", known.display()));
    command.args([
        "-L",
        &format!("127.0.0.1:{local}:127.0.0.1:{engine}"),
        "-p",
        port,
        &format!("{}@{host}", route.user),
    ]);
    let child = Killed(command.stdin(Stdio::null()).spawn().unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    while tokio::net::TcpStream::connect(("127.0.0.1", local))
        .await
        .is_err()
    {
        assert!(Instant::now() < deadline, "ssh -L does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let http = Client::builder().no_proxy().build().unwrap();
    (
        Way {
            name: "ssh -L",
            base: format!("http://127.0.0.1:{local}"),
            http,
        },
        child,
        folder,
    )
}

fn start_gateway(host: &RouteHost) -> (Way, Killed) {
    let leaf = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg(CHILD)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let route = Route {
        uid: "u".into(),
        namespace: "team-a".into(),
        name: "bench".into(),
        token: TokenHash::of(TOKEN),
        stage: Stage::Serving,
        percent: None,
        message: String::new(),
        hourly: None,
        spend: None,
        spend_as_of: None,
        expiry: None,
        idle_seconds: None,
        ready: None,
        host: Some(host.clone()),
    };
    let told =
        json!({"chain": leaf.cert.pem(), "key": leaf.signing_key.serialize_pem(), "route": route});
    writeln!(child.stdin.as_mut().unwrap(), "{told}").unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address: SocketAddr = line.trim().parse().unwrap();
    let root = reqwest::Certificate::from_pem(leaf.cert.pem().as_bytes()).unwrap();
    let http = Client::builder()
        .tls_certs_only([root])
        .no_proxy()
        .build()
        .unwrap();
    (
        Way {
            name: "gateway",
            base: format!("https://localhost:{}/team-a/bench", address.port()),
            http,
        },
        Killed(child),
    )
}

fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<f64>()
        .unwrap()
        / 1024.0
}

impl Way {
    fn ask(&self, stream: bool) -> reqwest::RequestBuilder {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "What is the capital of France?"}], "stream": stream});
        self.http
            .post(format!("{}/v1/chat/completions", self.base))
            .bearer_auth(TOKEN)
            .json(&body)
    }

    /// How long an answer took; `None` when it was refused, as it is when more is asked than a machine can do.
    async fn once(&self) -> Option<Duration> {
        let begun = Instant::now();
        let answer = self.ask(false).send().await.unwrap();
        let answered = answer.status() == 200;
        answer.bytes().await.unwrap();
        answered.then(|| begun.elapsed())
    }
}

/// Milliseconds at a share of the sorted times.
fn at(times: &[Duration], share: f64) -> f64 {
    let index = ((times.len() - 1) as f64 * share) as usize;
    times[index].as_secs_f64() * 1e3
}

/// What the gateway may add: milliseconds of p50 and of p99.
type Goal = Option<(f64, f64)>;

/// One line a way.
fn told(what: &str, goal: Goal, measured: Vec<(&'static str, Vec<Duration>)>) {
    let mut base = None;
    let mut peer = None;
    for (way, mut times) in measured {
        times.sort_unstable();
        let (p50, p99) = (at(&times, 0.5), at(&times, 0.99));
        let (base50, base99) = *base.get_or_insert((p50, p99));
        let added = (p50 - base50, p99 - base99);
        let mut line = json!({
            "bench": "gateway", "what": what, "way": way, "count": times.len(),
            "p50_ms": rounded(p50), "p99_ms": rounded(p99),
            "added_p50_ms": rounded(added.0), "added_p99_ms": rounded(added.1),
        });
        if way == "ssh -L" {
            peer = Some(added);
        }
        if way == "gateway" {
            if let Some(peer) = peer {
                line["to_ssh_p50"] = json!(rounded(added.0 / peer.0));
                line["to_ssh_p99"] = json!(rounded(added.1 / peer.1));
            }
            if let Some((p50, p99)) = goal {
                line["goal_p50_ms"] = json!(p50);
                line["goal_p99_ms"] = json!(p99);
                line["met"] = json!(added.0 <= p50 && added.1 <= p99);
            }
        }
        println!("{line}");
    }
}

/// One after another. The ways take turns, so that whatever else the machine does falls on all of them.
async fn requests(ways: &[Way]) {
    let mut measured: Vec<_> = ways.iter().map(|way| (way.name, Vec::new())).collect();
    for round in 0..2200 {
        for (way, (_, times)) in ways.iter().zip(&mut measured) {
            let time = way
                .once()
                .await
                .expect("one request at a time is never too much");
            if round >= 200 {
                times.push(time);
            }
        }
    }
    told("one request after another", Some((0.5, 2.0)), measured);
}

/// 500 a second, whether or not the last is answered.
async fn open_loop(ways: &[Way]) {
    let mut measured = Vec::new();
    for way in ways {
        let way = Arc::new(Way {
            name: way.name,
            base: way.base.clone(),
            http: way.http.clone(),
        });
        let mut asked = tokio::task::JoinSet::new();
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for _ in 0..2500 {
            tick.tick().await;
            let way = way.clone();
            asked.spawn(async move { way.once().await });
        }
        let answered: Vec<_> = asked.join_all().await.into_iter().flatten().collect();
        if answered.len() < 2500 {
            // More than the machine can do.
            println!(
                "{}",
                json!({"bench": "gateway", "what": "refused", "way": way.name, "of": 2500, "refused": 2500 - answered.len()})
            );
        }
        measured.push((way.name, answered));
    }
    told("500 requests a second", Some((0.5, 2.0)), measured);
}

fn now() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_nanos()
}

/// From a token's making to its arrival: the engine writes the time into the token.
async fn stream(way: Arc<Way>) -> Vec<Duration> {
    let answer = way.ask(true).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut body = answer.bytes_stream();
    let mut text = String::new();
    let mut times = Vec::new();
    while let Some(piece) = body.next().await {
        let arrived = now();
        text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
        while let Some((event, rest)) = text.split_once("\n\n") {
            if let Some(made) = event
                .split_once("\"content\":\"")
                .and_then(|(_, rest)| rest.split('"').next()?.parse::<u128>().ok())
            {
                times.push(Duration::from_nanos(
                    u64::try_from(arrived.saturating_sub(made)).unwrap(),
                ));
            }
            text = rest.to_owned();
        }
    }
    times
}

/// So many streams at once, each with a token after each such time.
async fn tokens(
    engine: &ScriptedEngine,
    ways: &[Way],
    (streams, pace, tokens): (usize, Duration, usize),
) {
    let mut measured = Vec::new();
    for way in ways {
        engine.follow(Script {
            tokens: vec![String::new(); tokens],
            pace: Pace::Every(pace),
            stamped: true,
            ..Script::default()
        });
        let way = Arc::new(Way {
            name: way.name,
            base: way.base.clone(),
            http: way.http.clone(),
        });
        let mut asked = tokio::task::JoinSet::new();
        for _ in 0..streams {
            asked.spawn(stream(way.clone()));
        }
        measured.push((way.name, asked.join_all().await.concat()));
    }
    // The goal is set for 20 streams.
    let goal = (streams == 20).then_some((0.35, 3.0));
    told(&format!("a token of {streams} streams"), goal, measured);
}

/// 300 streams at once, as fast as they go: the goal is 15,000 tokens a second and 64 MB.
async fn throughput(engine: &ScriptedEngine, ways: &[Way], gateway: u32) {
    for way in ways {
        engine.follow(Script {
            tokens: vec![String::new(); 200],
            stamped: true,
            ..Script::default()
        });
        let way = Arc::new(Way {
            name: way.name,
            base: way.base.clone(),
            http: way.http.clone(),
        });
        let watching = (way.name == "gateway").then(|| watch(gateway));
        let begun = Instant::now();
        let mut streams = tokio::task::JoinSet::new();
        for _ in 0..300 {
            streams.spawn(stream(way.clone()));
        }
        let tokens: usize = streams.join_all().await.iter().map(Vec::len).sum();
        let speed = tokens as f64 / begun.elapsed().as_secs_f64();
        let mut line = json!({
            "bench": "gateway", "what": "300 streams as fast as they go", "way": way.name,
            "count": tokens, "tokens_per_second": speed.round(),
        });
        if way.name == "gateway" {
            line["goal"] = json!(15_000);
            line["met"] = json!(speed >= 15_000.0);
        }
        println!("{line}");
        if let Some(watching) = watching {
            memory("300 streams, at most", watching.stop().await, Some(64.0));
        }
    }
}

/// Looks at a process's memory until it is stopped.
struct Watching(
    tokio::sync::oneshot::Sender<()>,
    tokio::task::JoinHandle<f64>,
);

fn watch(pid: u32) -> Watching {
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let looking = tokio::spawn(async move {
        let mut peak = resident(pid);
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            tokio::select! {
                _ = tick.tick() => peak = peak.max(resident(pid)),
                _ = &mut stopped => return peak,
            }
        }
    });
    Watching(stop, looking)
}

impl Watching {
    async fn stop(self) -> f64 {
        self.0.send(()).unwrap();
        self.1.await.unwrap()
    }
}

/// Prompts of 8 MiB, one after another: memory is to be flat in their size.
async fn prompts(way: &Way, gateway: u32) {
    let before = resident(gateway);
    let watching = watch(gateway);
    for _ in 0..20 {
        let body = json!({"messages": [{"role": "user", "content": "x".repeat(8 << 20)}]});
        let url = format!("{}/v1/chat/completions", way.base);
        let answer = way.http.post(url).bearer_auth(TOKEN).json(&body).send();
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    memory("before 20 prompts of 8 MiB", before, None);
    memory("during them, at most", watching.stop().await, None);
    memory("after them", resident(gateway), None);
}
