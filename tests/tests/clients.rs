//! Clients that nobody here wrote, unmodified: each starts from the Secret that a session publishes and asks a real model through a
//! real gateway. One rig and one session serve all of them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::{LazyLock, Mutex, OnceLock};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use srchat_crds::ChatSession;
use srchat_crds::conditions::Type;
use srchat_tests::clients::python_clients;
use srchat_tests::eventually::eventually;
use srchat_tests::rig::{Options, Rig};
use srchat_tests::skipped;
use tokio::runtime::Runtime;

/// From nothing to a model that answers, on a busy machine.
const START: Duration = Duration::from_secs(240);

/// The runtime that the rig lives on.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// Set up by the first client that needs it, taken down after the last.
static STAGE: OnceLock<Stage> = OnceLock::new();
static RIG: Mutex<Option<Rig>> = Mutex::new(None);

/// What the Secret holds, as a client's environment has it.
struct Stage {
    env: BTreeMap<String, String>,
    ca: PathBuf,
    folder: PathBuf,
    site: PathBuf,
}

impl Stage {
    fn get() -> &'static Self {
        STAGE.get_or_init(|| RUNTIME.block_on(Self::set()))
    }

    async fn set() -> Self {
        let site = tokio::task::spawn_blocking(python_clients);
        let rig = Rig::start(Options::default()).await.unwrap();
        let client = rig.cluster().client().await.unwrap();
        let session = json!({
            "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession", "metadata": {"name": "clients"},
            "spec": {"model": rig.model.id, "runtime": {"contextLength": 2048}},
        });
        let sessions: Api<ChatSession> = Api::namespaced(client.clone(), "default");
        let params = PatchParams::apply("clients").force();
        sessions
            .patch("clients", &params, &Patch::Apply(&session))
            .await
            .unwrap();
        eventually("the session is ready", START, || async {
            let session = sessions.get("clients").await.map_err(|e| e.to_string())?;
            match session.condition(Type::Ready) {
                Some(ready) if ready.reason == "Serving" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let secrets: Api<Secret> = Api::namespaced(client, "default");
        let published = secrets.get("clients-chat").await.unwrap().data.unwrap();
        let mut env: BTreeMap<String, String> = published
            .into_iter()
            .map(|(name, value)| (name, String::from_utf8(value.0).unwrap()))
            .collect();
        let ca = rig.folder().join("ca.crt");
        fs::write(&ca, env.remove("ca.crt").unwrap()).unwrap();
        let stage = Self {
            env,
            ca,
            folder: rig.folder().to_owned(),
            site: site.await.unwrap().unwrap(),
        };
        *RIG.lock().unwrap() = Some(rig);
        stage
    }

    /// A program with the Secret in its environment, as `envFrom` gives it to a container, and nothing else of ours.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.folder)
            .env("SSL_CERT_FILE", &self.ca)
            .env("SRCHAT_CA", &self.ca)
            .envs(&self.env);
        command
    }

    fn python(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("python3");
        command
            .args(arguments)
            .env("PYTHONPATH", &self.site)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            // What these packages would tell their makers, and fetch from them.
            .env("LANGSMITH_TRACING", "false")
            .env("LLM_USER_PATH", self.folder.join("llm"));
        command
    }

    fn curl(&self) -> Command {
        let mut command = self.command("curl");
        command
            .args(["--silent", "--show-error", "--cacert"])
            .arg(&self.ca)
            .args(["--oauth2-bearer", &self.env["OPENAI_API_KEY"]]);
        command
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.env["OPENAI_BASE_URL"])
    }

    /// What lies beside `/v1`: files, status, logs.
    fn beside(&self, path: &str) -> String {
        let base = self.env["OPENAI_BASE_URL"].strip_suffix("/v1").unwrap();
        format!("{base}/{path}")
    }
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "{}: {}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    )
}

fn ran(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// One script of the folder `clients`.
fn script(name: &'static str) -> impl FnOnce() -> Result<(), Failed> + Send + 'static {
    move || {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("clients")
            .join(name);
        let stage = Stage::get();
        let printed = ran(stage.python(&[path.to_str().unwrap()]));
        assert_eq!(printed.trim(), "ok");
        Ok(())
    }
}

/// curl, as the README shows it.
fn curl() -> Result<(), Failed> {
    let stage = Stage::get();
    let json = |command: Command| serde_json::from_str::<Value>(&ran(command)).unwrap();
    let mut list = stage.curl();
    list.arg(stage.url("models"));
    let model = json(list)["data"][0]["id"].as_str().unwrap().to_owned();

    let asking = |stream: bool| {
        let question = "What is the capital of France? Answer with one word.";
        let body = json!({"model": model, "stream": stream, "max_tokens": 16, "temperature": 0,
            "messages": [{"role": "user", "content": question}]});
        let mut ask = stage.curl();
        ask.args(["--no-buffer", "--json", &body.to_string()]);
        ask.arg(stage.url("chat/completions"));
        ask
    };
    let answer = json(asking(false));
    let text = answer["choices"][0]["message"]["content"].as_str();
    assert!(text.unwrap().contains("Paris"), "{answer}");
    let events = ran(asking(true));
    assert!(events.starts_with("data: {") && events.ends_with("data: [DONE]\n\n"));

    let file = stage.folder.join("a file.bin");
    let content = vec![7; 300_000];
    fs::write(&file, &content).unwrap();
    let sum = hex::encode(Sha256::digest(&content));
    let mut put = stage.curl();
    put.arg("--upload-file").arg(&file);
    put.args(["--header", &format!("x-content-sha256: {sum}")]);
    put.arg(stage.beside("files/a%20folder/a%20file.bin"));
    assert_eq!(json(put)["sha256"], sum);
    let back = stage.folder.join("back.bin");
    let mut get = stage.curl();
    get.arg("--output").arg(&back);
    get.arg(stage.beside("files/a%20folder/a%20file.bin"));
    ran(get);
    assert_eq!(fs::read(&back).unwrap(), content);

    let mut status = stage.curl();
    status.args(["--no-buffer", "--max-time", "60"]);
    let mut status = status
        .arg(stage.beside("status"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut lines = std::io::BufReader::new(status.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
    status.kill().unwrap();
    status.wait().unwrap();
    let event: Value = serde_json::from_str(line.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(event["stage"], "Serving");

    let mut wrong = stage.command("curl");
    wrong.args(["--silent", "--write-out", "%{http_code}", "--cacert"]);
    wrong
        .arg(&stage.ca)
        .args(["--oauth2-bearer", "srchat_wrong"]);
    wrong.arg(stage.url("models"));
    assert!(ran(wrong).ends_with("401"));
    let mut untrusting = stage.command("curl");
    untrusting.args(["--silent", &stage.url("models")]);
    untrusting.env_remove("SSL_CERT_FILE");
    let refused = untrusting.output().unwrap();
    assert!(!refused.status.success(), "the CA is the session's own");
    Ok(())
}

/// Simon Willison's `llm`, told of the endpoint in its file of models as its documentation says.
fn llm() -> Result<(), Failed> {
    let stage = Stage::get();
    let folder = stage.folder.join("llm");
    fs::create_dir_all(&folder).unwrap();
    let base = &stage.env["OPENAI_BASE_URL"];
    let models = format!(
        "- model_id: mine\n  model_name: any\n  api_base: {base}\n  api_key_name: openai\n"
    );
    let mut file = fs::File::create(folder.join("extra-openai-models.yaml")).unwrap();
    file.write_all(models.as_bytes()).unwrap();
    let question = "What is the capital of France? Answer with one word.";
    for more in [&[][..], &["--no-stream"]] {
        let mut ask = stage.python(&["-m", "llm", "--model", "mine", "--no-log"]);
        ask.args([
            "--option",
            "temperature",
            "0",
            "--option",
            "max_tokens",
            "16",
        ]);
        let answer = ran({
            ask.args(more).arg(question);
            ask
        });
        assert!(answer.contains("Paris"), "{answer}");
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Two cores answer one question at a time; more clients would only wait for each other.
    arguments.test_threads.get_or_insert(2);
    let mut trials = vec![Trial::test("curl", curl)];
    let scripts = [
        ("openai_sync", "openai_sync.py"),
        ("openai_async", "openai_async.py"),
        ("openai_streaming", "openai_streaming.py"),
        ("openai_images", "openai_images.py"),
        ("openai_tools", "openai_tools.py"),
        ("openai_structured_output", "openai_structured.py"),
        ("langchain", "langchain_chat.py"),
        ("llama_index", "llamaindex_like.py"),
    ];
    let python = Command::new("python3")
        .args(["-c", "import sys; sys.exit(sys.version_info < (3, 10))"])
        .status();
    if python.is_ok_and(|status| status.success()) {
        trials.extend(scripts.map(|(name, file)| Trial::test(name, script(file))));
        trials.push(Trial::test("llm", llm));
    } else if !arguments.list {
        skipped::because("the Python clients need Python 3.10 or newer");
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(rig) = RIG.lock().unwrap().take() {
        RUNTIME.block_on(rig.stop());
    }
    conclusion.exit_code()
}
