//! The programs that serve models in simulated pods: real llama.cpp with the real small model, and stand-ins that take the flags of
//! vLLM and transformers and no others.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::{Value, json};
use srchat_operator::host::engine::{Arg, Engine, Quantization, Spec, launch};
use srchat_tests::cache;
use srchat_tests::eventually::eventually;
use srchat_tests::model::{self, Engines, SmallModel};
use srchat_tests::process::{Process, Workplace};

/// Loading half a gigabyte while other tests compile takes a while.
const LOADED: Duration = Duration::from_secs(120);
const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

async fn engines() -> Engines {
    tokio::task::spawn_blocking(model::engines)
        .await
        .unwrap()
        .unwrap()
}

async fn small_model() -> SmallModel {
    tokio::task::spawn_blocking(model::small_model)
        .await
        .unwrap()
        .unwrap()
}

/// A port that is free now; the engine may lose the race for it, and then the test says so.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn spec(engine: Engine) -> Spec {
    Spec {
        engine,
        model: "acme/tiny".to_owned(),
        revision: SHA.to_owned(),
        served_name: "acme/tiny".to_owned(),
        context: 4096,
        quantization: Quantization::None,
        gpus: 1,
        vision: false,
        gguf: None,
        projector: None,
        slots: 1,
        trust_remote_code: false,
        extra_args: Vec::new(),
    }
}

/// The command line that the operator builds, with port and paths filled in as a host does.
fn command(program: &Path, spec: &Spec, port: u16, files: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let launch = launch(spec).unwrap();
    command.envs(launch.env);
    for arg in launch.args {
        match arg {
            Arg::Text(text) => command.arg(text),
            Arg::Port => command.arg(port.to_string()),
            Arg::File(path) => command.arg(files.join(path)),
        };
    }
    command
}

/// The folder of a model in a Hugging Face cache, as the host fills it.
fn hub_cache(workplace: &Path) -> PathBuf {
    let home = workplace.join("hf");
    let snapshot = home.join("hub/models--acme--tiny/snapshots").join(SHA);
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(snapshot.join("config.json"), "{}").unwrap();
    fs::write(snapshot.join("model.safetensors"), [0; 16]).unwrap();
    home
}

fn offline(mut command: Command, home: &Path) -> Command {
    command.env("HF_HOME", home).env("HF_HUB_OFFLINE", "1");
    command
}

async fn get(url: String) -> Result<(u16, Value), String> {
    let answer = reqwest::get(url).await.map_err(|error| error.to_string())?;
    let status = answer.status().as_u16();
    Ok((status, answer.json().await.unwrap_or_default()))
}

async fn healthy(process: &mut Process, port: u16) {
    eventually("the engine is healthy", LOADED, || {
        if let Some(status) = process.ended() {
            panic!("it ended with {status}: {}", process.tail());
        }
        async move {
            match get(format!("http://127.0.0.1:{port}/health")).await {
                Ok((200, _)) => Ok(()),
                Ok((status, _)) => Err(status.to_string()),
                Err(error) => Err(error),
            }
        }
    })
    .await;
}

async fn post(port: u16, path: &str, body: &Value) -> (u16, Value) {
    let answer = reqwest::Client::new()
        .post(format!("http://127.0.0.1:{port}{path}"))
        .json(body)
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// The events of a streamed answer, without `data: `; and how many pieces of the body they came in.
async fn stream(port: u16, body: &Value) -> (Vec<String>, usize) {
    let url = format!("http://127.0.0.1:{port}/v1/chat/completions");
    let answer = reqwest::Client::new()
        .post(url)
        .json(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert!(
        answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/event-stream")
    );
    let mut pieces = answer.bytes_stream();
    let (mut text, mut count) = (String::new(), 0);
    while let Some(piece) = pieces.next().await {
        text.push_str(&String::from_utf8_lossy(&piece.unwrap()));
        count += 1;
    }
    (
        text.lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(str::to_owned)
            .collect(),
        count,
    )
}

fn said(events: &[String]) -> String {
    let chunk = |event: &String| serde_json::from_str::<Value>(event).ok();
    let words = events.iter().filter_map(chunk);
    words
        .filter_map(|chunk| {
            chunk["choices"][0]["delta"]["content"]
                .as_str()
                .map(str::to_owned)
        })
        .collect()
}

#[tokio::test]
async fn the_real_model_answers_in_a_stream_through_the_operators_command_line() {
    let (engines, model) = (engines().await, small_model().await);
    let workplace = Workplace::new("engine").unwrap();
    let port = port();
    let spec = Spec {
        gguf: Some(model::FILE.to_owned()),
        context: 1024,
        slots: 2,
        served_name: "coder".to_owned(),
        ..spec(Engine::LlamaCpp)
    };
    let files = model.file.parent().unwrap();
    let began = Instant::now();
    let mut process = Process::start(
        "llama-server",
        command(&engines.llama_cpp.join("llama-server"), &spec, port, files),
        workplace.path(),
    )
    .unwrap();
    healthy(&mut process, port).await;
    let loaded = began.elapsed();

    let (status, models) = get(format!("http://127.0.0.1:{port}/v1/models"))
        .await
        .unwrap();
    assert_eq!(
        (status, models["data"][0]["id"].as_str()),
        (200, Some("coder"))
    );
    let question = json!({"role": "user", "content": "What is the capital of France? Answer in one sentence."});
    let body = json!({
        "model": "coder", "messages": [question], "stream": true, "stream_options": {"include_usage": true},
        "max_tokens": 40, "temperature": 0
    });
    let began = Instant::now();
    let (events, pieces) = stream(port, &body).await;
    let answered = began.elapsed();
    assert!(said(&events).contains("Paris"), "{}", said(&events));
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert!(pieces > 3, "it came in {pieces} pieces");
    let usage: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert!(
        usage["usage"]["completion_tokens"].as_u64().unwrap() > 3 && usage["choices"] == json!([]),
        "{usage}"
    );

    let log = process.tail() + &fs::read_to_string(process.log()).unwrap();
    assert!(log.contains("srchat-engine started ") && log.contains("srchat-engine ready "));
    assert!(
        !log.contains("capital of France"),
        "the question is in the engine's log"
    );
    let (slots, _) = get(format!("http://127.0.0.1:{port}/slots")).await.unwrap();
    assert!(slots >= 400, "slots show prompts");
    cache::say(&format!(
        "model loaded in {loaded:?}; answered in {answered:?}; {}",
        usage["timings"]
    ));
    process.stop(Duration::from_secs(10));
}

#[tokio::test]
async fn llama_server_refuses_what_the_operator_does_not_pass() {
    let engines = engines().await;
    let program = engines.llama_cpp.join("llama-server");
    let refused = |args: &[&str], env: &[(&str, &str)]| {
        let output = Command::new(&program)
            .args(args)
            .envs(env.iter().copied())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, text) = refused(&["--api-key", "x"], &[]);
    assert!(
        code == Some(1) && text.contains("invalid argument: --api-key"),
        "{text}"
    );
    let (code, text) = refused(&["-m"], &[]);
    assert!(code == Some(1) && text.contains("expected value"), "{text}");
    let (code, text) = refused(&["-m", "/nowhere.gguf", "--port", "1"], &[]);
    assert!(code == Some(1) && text.contains("failed to open"), "{text}");
    let (code, text) = refused(&["-m", "/nowhere.gguf"], &[("LLAMA_ARG_HOST", "0.0.0.0")]);
    assert!(code == Some(1) && text.contains("LLAMA_ARG_HOST"), "{text}");
    let (code, text) = refused(&["--version"], &[]);
    assert!(code == Some(0) && text.contains("version:"), "{text}");
}

#[tokio::test]
async fn the_stand_in_for_vllm_takes_the_operators_command_line_and_streams() {
    let engines = engines().await;
    let workplace = Workplace::new("vllm").unwrap();
    let home = hub_cache(workplace.path());
    let port = port();
    let spec = Spec {
        quantization: Quantization::Fp8,
        gpus: 2,
        vision: true,
        trust_remote_code: true,
        ..spec(Engine::Vllm)
    };
    let command = offline(
        command(&engines.vllm.join("vllm"), &spec, port, &home),
        &home,
    );
    let mut process = Process::start("vllm", command, workplace.path()).unwrap();
    healthy(&mut process, port).await;

    let (_, models) = get(format!("http://127.0.0.1:{port}/v1/models"))
        .await
        .unwrap();
    assert_eq!(
        (
            models["data"][0]["id"].as_str(),
            models["data"][0]["max_model_len"].as_u64()
        ),
        (Some("acme/tiny"), Some(4096))
    );
    let mut body = json!({"model": "acme/tiny", "messages": [{"role": "user", "content": "hello"}], "stream": true, "stream_options": {"include_usage": true}});
    let (events, _) = stream(port, &body).await;
    assert_eq!(
        (said(&events).as_str(), events.last().map(String::as_str)),
        ("I am a stand-in and heard you well.", Some("[DONE]"))
    );
    body["stream"] = json!(false);
    let (status, answer) = post(port, "/v1/chat/completions", &body).await;
    assert_eq!(
        (status, answer["choices"][0]["finish_reason"].as_str()),
        (200, Some("stop"))
    );
    body["model"] = json!("another");
    assert_eq!(post(port, "/v1/chat/completions", &body).await.0, 404);
    process.stop(Duration::from_secs(10));
}

#[tokio::test]
async fn the_stand_in_for_transformers_is_pinned_to_one_model_and_revision() {
    let engines = engines().await;
    let workplace = Workplace::new("transformers").unwrap();
    let home = hub_cache(workplace.path());
    let port = port();
    let spec = Spec {
        quantization: Quantization::Int4,
        ..spec(Engine::Transformers)
    };
    let command = offline(
        command(
            &engines.transformers.join("transformers"),
            &spec,
            port,
            &home,
        ),
        &home,
    );
    let mut process = Process::start("transformers", command, workplace.path()).unwrap();
    healthy(&mut process, port).await;
    let body = |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2});
    let (status, answer) = post(
        port,
        "/v1/chat/completions",
        &body(&format!("acme/tiny@{SHA}")),
    )
    .await;
    assert_eq!(
        (status, answer["choices"][0]["finish_reason"].as_str()),
        (200, Some("length"))
    );
    assert_eq!(
        post(port, "/v1/chat/completions", &body("acme/tiny"))
            .await
            .0,
        400
    );
    process.stop(Duration::from_secs(10));
}

fn run(program: &Path, args: &[&str], env: &BTreeMap<&str, &str>) -> Output {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.args(args).envs(env).output().unwrap()
}

#[tokio::test]
async fn the_stand_ins_refuse_flags_that_the_real_programs_do_not_have() {
    let engines = engines().await;
    for (program, flags) in [
        (
            engines.vllm.join("vllm"),
            vec![
                "--no-slots",
                "--max-model-length=1",
                "--port",
                "--disable-fastapi-docs=yes",
            ],
        ),
        (
            engines.transformers.join("transformers"),
            vec![
                "--revision",
                "--max-model-len=1",
                "--port",
                "--trust-remote-code=yes",
            ],
        ),
    ] {
        for flag in flags {
            let output = run(&program, &["serve", "acme/tiny", flag], &BTreeMap::new());
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                output.status.code() == Some(2) && text.contains("error"),
                "{flag}: {text}"
            );
        }
    }
}

#[tokio::test]
async fn the_stand_ins_want_to_be_offline_with_the_weights_in_place_and_no_secret_around() {
    let engines = engines().await;
    let workplace = Workplace::new("offline").unwrap();
    let home = hub_cache(workplace.path());
    let home = home.to_str().unwrap();
    let with = |more: &[(&'static str, &'static str)], model: &str| {
        let mut env = BTreeMap::from([("HF_HOME", home)]);
        env.extend(more.iter().copied());
        let output = run(
            &engines.vllm.join("vllm"),
            &["serve", model, "--revision", SHA],
            &env,
        );
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(with(&[], "acme/tiny").contains("HF_HUB_OFFLINE is not 1"));
    assert!(
        with(
            &[("HF_HUB_OFFLINE", "1"), ("HF_TOKEN", "hf_x")],
            "acme/tiny"
        )
        .contains("HF_TOKEN must not reach the engine")
    );
    assert!(
        with(
            &[("HF_HUB_OFFLINE", "1"), ("RUNPOD_API_KEY", "x")],
            "acme/tiny"
        )
        .contains("RUNPOD_API_KEY must not")
    );
    assert!(
        with(&[("HF_HUB_OFFLINE", "1")], "acme/absent")
            .contains("couldn't find them in the cached files")
    );
}
