//! The rig, the session that serves, and how a command is run and looked at.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use kube::{Api, Client};
use srchat_crds::ChatSession;
use srchat_crds::conditions::Type;
use srchat_tests::eventually::eventually;
use srchat_tests::process::without_the_callers_settings;
use srchat_tests::rig::{Options, Rig};
use srchat_tests::runpod::Simulator;
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, RwLock};

/// A stage of a start, or of an end with its two proofs ten seconds apart, on a busy machine.
pub const STEP: Duration = Duration::from_secs(240);
/// The session that serves, the only one of its namespace.
pub const NAME: &str = "qwen";
/// The model of the README and of `crds/examples/basic.yaml`, here with the weights of a stand-in.
pub const WORLDS: &str = "Qwen/Qwen3-8B";
/// The namespace of the session that serves.
pub const NAMESPACE: &str = "surface";

/// All trials and the rig live on it, so that the rig does not end with the trial that started it.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().build().unwrap()
});

static STAGE: RwLock<Option<&'static Stage>> = RwLock::const_new(None);
static SERVES: OnceCell<()> = OnceCell::const_new();

/// Runs a trial to its end; a panic in it is the trial's failure.
pub fn on_runtime(trial: impl Future<Output = ()>) -> Result<(), libtest_mimic::Failed> {
    RUNTIME.block_on(trial);
    Ok(())
}

/// Ends the rig, which leaves nothing.
pub async fn strike() {
    if let Some(stage) = STAGE.write().await.take()
        && let Some(rig) = stage.rig.write().await.take()
    {
        rig.stop().await;
    }
}

/// The rig, and what a command needs of it.
pub struct Stage {
    rig: RwLock<Option<Rig>>,
    /// An administrator's client.
    pub client: Client,
    /// An administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The `srchat` under test.
    pub srchat: PathBuf,
    /// What `spec.model` is for the small model.
    pub model: String,
    /// The simulator's address and key.
    pub runpod: (String, String),
    kubectl: PathBuf,
    home: tempfile::TempDir,
}

/// The rig alone, for what needs no session that serves.
pub async fn stage() -> &'static Stage {
    if let Some(stage) = *STAGE.read().await {
        return stage;
    }
    let mut place = STAGE.write().await;
    if let Some(stage) = *place {
        return stage;
    }
    // Trials share its account, which is therefore exempt from the rate limit.
    let options = Options {
        limits: None,
        ..Options::default()
    };
    let rig = Rig::start(options).await.unwrap();
    rig.stand_in(WORLDS).unwrap();
    let simulator = rig.simulator.as_ref().unwrap();
    let stage = Stage {
        client: rig.cluster().client().await.unwrap(),
        kubeconfig: rig.cluster().kubeconfig().to_owned(),
        srchat: rig.binaries.cli.clone(),
        model: rig.model.id.clone(),
        runpod: (simulator.url().to_owned(), simulator.key().to_owned()),
        kubectl: rig.cluster().kubectl_program().to_owned(),
        home: tempfile::tempdir().unwrap(),
        rig: RwLock::new(Some(rig)),
    };
    // One for the life of this process; what it holds is ended by `strike`.
    let stage: &'static Stage = Box::leak(Box::new(stage));
    *place = Some(stage);
    stage
}

/// The rig with the session that serves.
pub async fn serving() -> &'static Stage {
    let stage = stage().await;
    SERVES
        .get_or_init(|| async {
            stage.kubectl(&["create", "namespace", NAMESPACE]).done();
            let session = format!(
                "{{apiVersion: srchat.dev/v1alpha1, kind: ChatSession, metadata: {{name: {NAME}, namespace: {NAMESPACE}}}, \
                 spec: {{model: '{}', runtime: {{contextLength: 2048}}}}}}",
                stage.model
            );
            stage.apply(&session);
            stage.until(NAMESPACE, NAME, Type::Ready, "Serving").await;
        })
        .await;
    stage
}

impl Stage {
    /// Where kubectl is.
    pub fn kubectl_program(&self) -> &PathBuf {
        &self.kubectl
    }

    /// Looks at the simulator.
    pub async fn simulator<T>(&self, look: impl FnOnce(&Simulator) -> T) -> T {
        let rig = self.rig.read().await;
        look(rig.as_ref().unwrap().simulator.as_ref().unwrap())
    }

    /// `srchat`, in the namespace of the session that serves.
    pub fn srchat(&self, arguments: &[&str]) -> Command {
        self.srchat_in(NAMESPACE, arguments)
    }

    /// `srchat`, in a namespace.
    pub fn srchat_in(&self, namespace: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.srchat);
        without_the_callers_settings(&mut command);
        command
            .args(arguments)
            .args(["--namespace", namespace])
            .env("KUBECONFIG", &self.kubeconfig)
            .env("RUNPOD_API_URL", &self.runpod.0)
            .env("HOME", self.home.path())
            .env("XDG_DATA_HOME", self.home.path())
            .env("LC_ALL", "C.UTF-8")
            .env_remove("NO_COLOR")
            .stdin(Stdio::null());
        command
    }

    /// Runs kubectl as an administrator.
    pub fn kubectl(&self, arguments: &[&str]) -> Ran {
        self.kubectl_command(arguments).ran()
    }

    /// kubectl as an administrator, to be run.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        without_the_callers_settings(&mut command);
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", self.home.path().join("kubectl"))
            .stdin(Stdio::null());
        command
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("manifest.yaml");
        std::fs::write(&file, manifest).unwrap();
        self.kubectl(&["apply", "-f", file.to_str().unwrap()])
            .done();
    }

    /// A namespace of one trial's own.
    pub fn namespace(&self, name: &str) -> String {
        self.kubectl(&["create", "namespace", name]).done();
        name.to_owned()
    }

    /// The sessions of a namespace.
    pub fn sessions(&self, namespace: &str) -> Api<ChatSession> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Waits until a condition has this reason, and tells the session.
    pub async fn until(
        &self,
        namespace: &str,
        name: &str,
        condition: Type,
        reason: &str,
    ) -> ChatSession {
        let what = format!("{namespace}/{name} to have {condition}={reason}");
        eventually(&what, STEP, || async {
            let sessions = self.sessions(namespace);
            let session = sessions.get(name).await.map_err(|e| e.to_string())?;
            match session.condition(condition) {
                Some(found) if found.reason == reason => Ok(session),
                _ => Err(states(&session)),
            }
        })
        .await
    }

    /// Waits until a session is gone, which the controller allows only when its pods are.
    pub async fn gone(&self, namespace: &str, name: &str) {
        let what = format!("{namespace}/{name} to be gone");
        eventually(&what, STEP, || async {
            match self.sessions(namespace).get_opt(name).await {
                Ok(None) => Ok(()),
                Ok(Some(session)) => Err(states(&session)),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }
}

fn states(session: &ChatSession) -> String {
    let status = session.status.clone().unwrap_or_default();
    let all = status
        .conditions
        .iter()
        .map(|c| format!("{}={} ({})", c.type_, c.reason, c.message));
    all.collect::<Vec<_>>().join("; ")
}

/// Running a command to its end and keeping what it said.
pub trait Run {
    /// Runs it. Blocks.
    fn ran(&mut self) -> Ran;
}

impl Run for Command {
    fn ran(&mut self) -> Ran {
        let shown = format!("{:?} {:?}", self.get_program(), self.get_args());
        // The runtime's other tasks go on meanwhile.
        let output = tokio::task::block_in_place(|| self.output()).unwrap();
        Ran::new(shown, &output)
    }
}

/// What a command came to.
pub struct Ran {
    shown: String,
    /// Its exit code; 128 and the signal for one that was killed.
    pub code: i32,
    /// What it wrote to stdout.
    pub out: String,
    /// What it wrote to stderr.
    pub err: String,
}

impl fmt::Debug for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            shown,
            code,
            out,
            err,
        } = self;
        write!(
            f,
            "{shown}\nended with {code}, said\n{out}\nand complained\n{err}"
        )
    }
}

impl Ran {
    pub fn new(shown: String, output: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        let signal = output.status.signal().map(|signal| 128 + signal);
        Self {
            shown,
            code: output.status.code().or(signal).unwrap(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts success and gives stdout.
    #[track_caller]
    pub fn done(self) -> String {
        assert_eq!(self.code, 0, "{self:#?}");
        self.out
    }

    /// Asserts success and reads stdout as JSON.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let out = self.done();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// Asserts that it failed with this code, in one sentence that contains `sentence` and a hint that contains `hint`, with
    /// nothing on stdout.
    #[track_caller]
    pub fn fails(self, code: i32, sentence: &str, hint: &str) {
        assert_eq!(self.code, code, "{self:#?}");
        let said = |start: &str| {
            let lines = self.err.lines().filter_map(|line| line.strip_prefix(start));
            lines.collect::<Vec<_>>().join("\n")
        };
        let (error, hinted) = (said("error: "), said("hint: "));
        assert!(error.contains(sentence), "{sentence:?} is not in {self:#?}");
        assert!(
            hinted.contains(hint),
            "{hint:?} is not in the hint of {self:#?}"
        );
        assert!(!self.err.contains("panicked"), "{self:#?}");
        assert_eq!(self.out, "", "{self:#?}");
    }
}

/// The repository that the tests stand in.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
