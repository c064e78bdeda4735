//! The demo as its users meet it: a program with arguments, output, and an end that leaves nothing behind.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use srchat_tests::control_plane::ControlPlane;
use srchat_tests::eventually::eventually;
use srchat_tests::hosts::Hosts;
use srchat_tests::hub::HubServer;
use srchat_tests::runpod::{self, Images, Simulator};
use srchat_tests::terminal::Terminal;
use srchat_tests::{model, process, tools};

/// The first run on a machine builds a control plane, for minutes; after that it is seconds.
const SET_UP: Duration = Duration::from_secs(1800);

/// How long an end may take: clearing, two proofs ten seconds apart, and every part's own end.
const END: Duration = Duration::from_secs(300);

/// One demo at a time has the folder `target/demo`, and the next finds nothing of it in the process table.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    process::without_the_callers_settings(&mut command);
    // What the caller has set must never be used: these would fail at once if it were.
    command
        .env("KUBECONFIG", "/nonexistent")
        .env("RUNPOD_API_KEY", "wrong")
        .env("RUNPOD_API_URL", "http://127.0.0.1:9");
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The last line on stdout.
fn report(output: &Output) -> serde_json::Value {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let told = || format!("{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(stdout.lines().last().unwrap_or_default())
        .unwrap_or_else(|_| panic!("no report: {}", told()))
}

/// The demo, ended when a test fails in the middle.
struct Running(Child);

impl Running {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.0.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    async fn ended(&mut self) -> std::process::ExitStatus {
        eventually("the demo to end", END, || {
            let ended = self.0.try_wait().unwrap();
            async move { ended.ok_or("it is running") }
        })
        .await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `target/demo/env`, for this test binary's target folder.
fn env_file() -> PathBuf {
    let us = Path::new(env!("CARGO_BIN_EXE_demo"));
    let target = us
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
        .unwrap();
    target.join("demo/env")
}

#[test]
fn a_whole_life_is_checked_and_reported_in_one_line() {
    let _alone = ONE.blocking_lock();
    let output = demo(&["--", "--check", "--ask", "What is the capital of Italy?"])
        .output()
        .unwrap();
    let report = report(&output);
    assert_eq!(
        report["ok"],
        true,
        "{report:#}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success());
    assert!(
        report["answer"].as_str().unwrap().contains("Rome"),
        "{report:#}"
    );
    assert_eq!(report["question"], "What is the capital of Italy?");
    assert!(report["tokens"].as_u64().unwrap() > 0, "{report:#}");
    assert_eq!(report["ledger"]["leaked"], 0);
    assert_eq!(report["left"], serde_json::json!([]));
    for stage in [
        "planned",
        "rented",
        "booted",
        "trusted",
        "served",
        "published",
        "first_token",
        "cleared",
        "terminated",
        "gone",
    ] {
        assert!(report["seconds"][stage].is_number(), "{stage}: {report:#}");
    }
    for process in ["controller", "gateway"] {
        let held = report["memory"][process].as_u64().unwrap();
        assert!(held > 1_000, "{process}: {held} KiB");
    }
    // Where pods are kept apart this is known, and it holds; where not, it is not claimed.
    match report["isolation"].as_str().unwrap() {
        "namespace" | "userns" => assert_eq!(report["port_closed"], true),
        _ => assert_eq!(report["port_closed"], serde_json::Value::Null),
    }
}

#[tokio::test]
async fn parts_that_are_served_can_be_used_from_a_shell_and_end_with_ctrl_c() {
    let _alone = ONE.lock().await;
    let mut serving = Running(demo(&["--serve"]).stdout(Stdio::null()).spawn().unwrap());
    let env = env_file();
    eventually("everything to be ready", SET_UP, || {
        let ended = serving.0.try_wait().unwrap();
        let ready = env.exists();
        assert!(ended.is_none() || ready, "the demo has ended: {ended:?}");
        async move {
            if ready {
                Ok(())
            } else {
                Err("there is no env file")
            }
        }
    })
    .await;
    let shell = |script: &str| {
        let script = format!(". '{}' && {script}", env.display());
        tools::run(Command::new("sh").args(["-ec", &script])).unwrap()
    };
    let crd = shell("kubectl get crd chatsessions.srchat.dev --output=jsonpath={.spec.group}");
    assert_eq!(crd, "srchat.dev");
    let accounts = shell("kubectl get serviceaccounts --namespace srchat-system --output=name");
    assert!(
        accounts.contains("serviceaccount/srchat-controller"),
        "{accounts}"
    );
    let ledger = shell("curl --silent --fail \"$SRCHAT_SIM_LEDGER_URL\"");
    assert!(ledger.contains("\"created\":0"), "{ledger}");
    assert!(shell("srchat --version").starts_with("srchat "));
    let kubeconfig = shell("printf %s \"$KUBECONFIG\"");

    serving.signal(rustix::process::Signal::INT);
    let status = serving.ended().await;
    assert!(status.success(), "{status}");
    assert!(!env.exists());
    assert!(!Path::new(&kubeconfig).exists());
}

#[tokio::test]
async fn a_demo_that_is_killed_leaves_no_process_and_no_file() {
    let _alone = ONE.lock().await;
    let place = tempfile::tempdir().unwrap();
    // Everything of this run has this folder in its arguments or environment.
    let mut command = demo(&["--check"]);
    command
        .env("TMPDIR", place.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut running = Running(command.spawn().unwrap());
    let ours = || {
        let pids = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .map(|entry| entry.path());
        let named = |path: &PathBuf| {
            let read = |name: &str| fs::read(path.join(name)).unwrap_or_default();
            let text =
                String::from_utf8_lossy(&[read("cmdline"), read("environ")].concat()).into_owned();
            text.contains(&*place.path().to_string_lossy())
        };
        pids.filter(named)
            .map(|path| fs::read_to_string(path.join("comm")).unwrap_or_default())
            .collect::<Vec<_>>()
    };
    eventually("the controller to run", SET_UP, || {
        assert!(
            running.0.try_wait().unwrap().is_none(),
            "the demo has ended"
        );
        let running = ours()
            .iter()
            .any(|name| name.starts_with("srchat-operator"));
        async move { if running { Ok(()) } else { Err("it does not") } }
    })
    .await;
    running.signal(rustix::process::Signal::KILL);
    running.ended().await;
    eventually("everything to be gone", END, || {
        let left = ours();
        let files: Vec<_> = fs::read_dir(place.path())
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        async move {
            if left.is_empty() && files.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?} {files:?}"))
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn others_parts_take_the_place_of_the_embedded_ones_and_keep_nothing_of_the_demo() {
    let _alone = ONE.lock().await;
    let small = tokio::task::spawn_blocking(model::small_model);
    let small = small.await.unwrap().unwrap();
    let hub = HubServer::start(&small.hub_folder).await.unwrap();
    let mut images = Images::default();
    images.put_on_path("", &small.path, &small.visible);
    let simulator = Simulator::start(runpod::Options {
        hosts: Hosts::real().await.unwrap(),
        images,
        reach: vec![hub.address()],
        ..runpod::Options::default()
    });
    let (simulator, cluster) = tokio::join!(simulator, ControlPlane::start());
    let (simulator, cluster) = (simulator.unwrap(), cluster.unwrap());
    let with_key = format!("http://{}@", simulator.key());
    let mut command = demo(&["--check", "--hub", hub.url()]);
    command
        .args(["--runpod", &simulator.url().replace("http://", &with_key)])
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig())
        .env("SRCHAT_SIM_LEDGER_URL", simulator.ledger_url());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let report = report(&output);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(report["ok"], true, "{report:#}\n{told}");
    assert_eq!(report["port_closed"], serde_json::Value::Null);
    assert!(report["skipped"]["port_closed"].is_string());

    assert!(hub.served().iter().any(|file| file.bytes > 100_000_000));
    let total = simulator.ledger().total;
    assert_eq!((total.created, total.terminated, total.alive), (1, 1, 0));
    eventually("the demo's namespace to be gone", END, || async {
        let kubectl = cluster.kubectl_with(&["get", "namespaces", "--output=name"], "");
        let namespaces = kubectl.map_err(|error| error.to_string())?;
        if namespaces.contains("srchat-demo") {
            Err(namespaces)
        } else {
            Ok(())
        }
    })
    .await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_what_it_costs_before_the_chat_and_every_proof_after_it() {
    let _alone = ONE.lock().await;
    let mut terminal = Terminal::run(&demo(&[]), (50, 160)).unwrap();
    let until = |what: &'static str, within: Duration| {
        let terminal = &terminal;
        async move {
            eventually(&format!("the demo to show {what:?}"), within, || async {
                let all = terminal.everything();
                if all.contains(what) {
                    Ok(all)
                } else {
                    Err(all)
                }
            })
            .await
        }
    };
    let before = until("/help lists the commands", SET_UP).await;
    for words in [
        "planned: ",
        "rented: runpod://",
        "at $",
        "trusted: the host key is SHA256:",
    ] {
        assert!(before.contains(words), "{words}: {before}");
    }
    // The line that moves has been drawn over: percent, bytes, and what has been spent.
    let drawn = terminal.raw();
    assert!(
        (1..=100).any(|percent| drawn.contains(&format!(" {percent:>3}%"))),
        "no percent: {drawn}"
    );
    let words: Vec<&str> = drawn.split([' ', ',']).collect();
    let bytes = words.windows(4).any(|four| match four {
        [some, "of", all, unit] => {
            let numbers = [some, all].map(|number| number.parse::<f64>().is_ok());
            numbers == [true, true] && ["KiB", "MiB", "GiB"].contains(unit)
        }
        _ => false,
    });
    assert!(bytes, "no bytes: {drawn}");
    let spent = words.windows(3).any(|three| match three {
        [dollars, "so", far] => dollars.starts_with("$0.") && far.starts_with("far"),
        _ => false,
    });
    assert!(spent, "no cost: {drawn}");

    terminal.press("What is the capital of France?\r");
    until("Paris", END).await;
    terminal.press("/exit\r");
    let after = until("the provider's books: ", END).await;
    let mut told = after.as_str();
    // In this order.
    for words in [
        "ending the session",
        "cleared Cleared",
        "terminated and proved absent ProvedAbsent",
        "gone: the object has left the cluster",
        "the provider's books: 1 made, 1 terminated, 0 left, $0.",
    ] {
        let at = told.find(words);
        told = &told[at.unwrap_or_else(|| panic!("{words}: {after}"))..];
    }
    let status = eventually("the demo to end", END, || {
        let ended = terminal.ended();
        async move { ended.ok_or("it is running") }
    })
    .await;
    assert!(status.success(), "{status}");
    terminal.is_sane().unwrap();
    assert!(!env_file().exists());
}

#[test]
fn only_a_simulator_of_this_machine_is_taken() {
    let output = demo(&["--check", "--runpod", "https://api.runpod.io/v2"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("must not be able to spend money"));
}
