//! README.md, command by command and in its order, as a reader would type them.

mod commands;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};

use kube::Api;
use srchat_crds::ChatSession;
use srchat_crds::conditions::Type;
use srchat_tests::control_plane::ControlPlane;
use srchat_tests::terminal::Terminal;
use srchat_tests::tools;

use super::stage::{Ran, Run as _, Stage, WORLDS, repository, stage};
pub use commands::the_readmes_commands_are_found_wherever_they_stand;
use commands::{Command, commands};

/// The session that the README is about.
const NAME: &str = "qwen";
const NAMESPACE: &str = "readme";

/// What a command needs that is not simply run to its end.
enum Care {
    /// It goes on until it is stopped: it is once it has shown this.
    Shows(&'static str),
    /// It asks somebody at a terminal: what is shown, and what is typed then.
    Asks(&'static [(&'static str, &'static str)]),
    /// It cannot be run here, or another test runs it.
    Elsewhere(&'static str),
}

/// Every command that needs care. One that the README has no longer must go from here too.
const CARE: &[(&str, Care)] = &[
    (
        "cargo demo",
        Care::Elsewhere("the tests of `demo` run it, in a terminal too"),
    ),
    ("cargo test", Care::Elsewhere("it is what runs this")),
    (
        "cargo demo -- --check --ask \"What is the capital of France?\"",
        Care::Elsewhere("the tests of `demo` run it"),
    ),
    (
        "cargo demo -- --serve",
        Care::Elsewhere("the tests of `demo` run it"),
    ),
    (
        "cargo run -p srchat-tests --bin runpod-sim -- --reach 127.0.0.1:HUB",
        Care::Elsewhere("the tests of `demo` run it"),
    ),
    (
        "cargo image",
        Care::Elsewhere("the tests of `image` look at what it writes"),
    ),
    (
        "kind load image-archive target/srchat-operator.tar",
        Care::Elsewhere("it needs kind; the tests of `node` import it into containerd"),
    ),
    (
        "cargo install --locked --path cli",
        Care::Elsewhere("it compiles for minutes what is tested here"),
    ),
    (
        "skopeo copy oci-archive:target/srchat-operator.tar docker://REGISTRY/srchat-operator:0.1.0",
        Care::Elsewhere("it needs a registry"),
    ),
    (
        "helm rollback srchat 1 -n srchat-system",
        Care::Elsewhere("it needs a node: the tests of `node` run it"),
    ),
    (
        "helm uninstall srchat -n srchat-system",
        Care::Elsewhere("its hook needs a node: the tests of `node` run it"),
    ),
    (
        "helm uninstall srchat -n srchat-system --timeout 20m",
        Care::Elsewhere("its hook needs a node: the tests of `node` run it"),
    ),
    (
        "srchat receipt",
        Care::Elsewhere("it comes later, as that sentence says"),
    ),
    ("kubectl get chat -w", Care::Shows(NAME)),
    (
        "srchat proxy qwen --port 8080",
        Care::Shows("export OPENAI_API_KEY="),
    ),
    (
        "srchat run Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF:Q4_K_M",
        Care::Asks(&[
            ("an hour, never above $1.00? [Y/n]", "n\r"),
            ("Nothing was rented.", ""),
        ]),
    ),
];

pub async fn every_command_works_as_it_stands() {
    let stage = stage().await;
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let reader = Reader::new(stage).await;
    let mut unmet: BTreeSet<&str> = CARE.iter().map(|(command, _)| *command).collect();
    assert_eq!(unmet.len(), CARE.len(), "one command, one line");
    let mut untrue = Vec::new();
    for command in commands(&readme) {
        let care = CARE.iter().find(|(text, _)| command.bare() == *text);
        match care {
            Some((text, care)) => {
                unmet.remove(text);
                reader.with_care(&command, care).await;
            }
            None if command.is_usage() => reader.asks_for_help(&command),
            None => {
                reader.prepare(&command).await;
                let ran = reader.types(command.bare());
                if ran.code != 0 {
                    untrue.push(ran);
                }
            }
        }
    }
    assert!(untrue.is_empty(), "{untrue:#?}");
    assert!(unmet.is_empty(), "the README has no {unmet:?} any more");
    let gone = [
        "-n",
        NAMESPACE,
        "delete",
        "chat",
        NAME,
        "--wait=false",
        "--ignore-not-found",
    ];
    stage.kubectl(&gone).done();
}

/// Somebody who reads the README at a shell, in a folder with files of their own.
struct Reader {
    stage: &'static Stage,
    /// A cluster without srchat, for Helm to install it on.
    bare: ControlPlane,
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
    path: String,
}

impl Reader {
    async fn new(stage: &'static Stage) -> Self {
        stage.namespace(NAMESPACE);
        let bare = ControlPlane::start().await.unwrap();
        let helm = tokio::task::spawn_blocking(tools::helm)
            .await
            .unwrap()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        fs::copy(&stage.kubeconfig, &kubeconfig).unwrap();
        let here = [
            "config",
            "set-context",
            "--current",
            "--namespace",
            NAMESPACE,
            "--kubeconfig",
        ];
        stage
            .kubectl(&[&here[..], &[kubeconfig.to_str().unwrap()]].concat())
            .done();
        let programs = [&helm, &stage.srchat, stage.kubectl_program()];
        let folders = programs.map(|program| program.parent().unwrap().display().to_string());
        let rest = std::env::var("PATH").unwrap();
        let reader = Self {
            stage,
            bare,
            folder,
            kubeconfig,
            path: format!("{}:{rest}", folders.join(":")),
        };
        reader.brings_files();
        reader
    }

    /// What the README's reader has lying about.
    fn brings_files(&self) {
        let work = self.work();
        fs::create_dir_all(work.join("docs")).unwrap();
        for name in ["notes.txt", "docs/one.txt", "table.csv"] {
            fs::write(work.join(name), "mine\n").unwrap();
        }
        for name in ["crds", "charts"] {
            std::os::unix::fs::symlink(
                repository().join(name).canonicalize().unwrap(),
                work.join(name),
            )
            .unwrap();
        }
        let commit = "git init -q && git add notes.txt && git -c user.name=a -c user.email=a@b commit -qm a && echo more >> notes.txt";
        self.types(commit).done();
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    fn sessions(&self) -> Api<ChatSession> {
        self.stage.sessions(NAMESPACE)
    }

    /// Whatever a command is about is there, as it is where the README comes to it.
    async fn prepare(&self, command: &Command) {
        let text = command.bare();
        if !text.contains(NAME) || text.starts_with("kubectl apply") {
            return;
        }
        let found = self.sessions().get_opt(NAME).await.unwrap();
        let living = found.filter(|session| session.metadata.deletion_timestamp.is_none());
        // Both of them are for a session that does not serve.
        let turns_on_and_off = text.starts_with("srchat resume") || text.contains("--replicas=0");
        match living {
            None => {
                self.stage.gone(NAMESPACE, NAME).await;
                self.types("kubectl apply -f crds/examples/basic.yaml")
                    .done();
            }
            Some(session) if session.spec.replicas == 0 && !turns_on_and_off => {
                self.types("srchat resume qwen").done();
            }
            Some(_) => {}
        }
        if !turns_on_and_off {
            self.stage
                .until(NAMESPACE, NAME, Type::Ready, "Serving")
                .await;
        }
    }

    /// A command with what stands for something in it filled in.
    fn filled(&self, text: &str) -> String {
        let mut text = text.replace("MODEL", WORLDS).replace(" NAME", " qwen");
        // Somebody else may have that port here.
        text = text.replace("--port 8080", "--port 0");
        if text.contains("3f9c") {
            let list = self.shell("srchat history ls -o json").ran().json();
            let newest = list.as_array().unwrap().last().unwrap();
            let id = newest["id"].as_str().unwrap();
            text = text.replace("3f9c", &id[..4.max(id.len() / 2)]);
        }
        text
    }

    /// A shell that goes on where the last one was.
    fn shell(&self, line: &str) -> Process {
        let kubeconfig = match line.starts_with("helm ") {
            true => self.bare.kubeconfig(),
            false => &self.kubeconfig,
        };
        // Nothing of it needs a node, and there is none whose hooks could run.
        let variables = self.folder.path().join("variables");
        let script = format!(
            "set -a -o pipefail\n[ ! -e {0} ] || . {0}\n{line}\ncode=$?\nexport -p | grep -E ' (OPENAI_|FILES)' >{0}\nexit $code",
            variables.display()
        );
        let mut shell = Process::new("bash");
        let like = self.stage.srchat(&[]);
        for (name, value) in like.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        for home in [
            "HELM_CACHE_HOME",
            "HELM_CONFIG_HOME",
            "HELM_DATA_HOME",
            "XDG_DATA_HOME",
            "HOME",
        ] {
            shell.env(home, self.folder.path());
        }
        shell
            .args(["-c", &script])
            .env("PATH", &self.path)
            .env("KUBECONFIG", kubeconfig)
            .env("RUNPOD_API_KEY", &self.stage.runpod.1)
            .current_dir(self.work())
            .stdin(Stdio::null());
        shell
    }

    /// Types a command and waits for its end.
    fn types(&self, text: &str) -> Ran {
        self.shell(&self.filled(text)).ran()
    }

    /// `srchat ls`, `srchat attach [NAME]`: a command of that name, which takes that much.
    fn asks_for_help(&self, command: &Command) {
        let words: Vec<&str> = command.text.split(' ').take(2).collect();
        let help = self.types(&format!("{} --help", words.join(" "))).done();
        for word in command.text.split(' ').skip(2) {
            for choice in word.trim_matches(['[', ']']).split('|') {
                assert!(
                    help.contains(choice),
                    "{command:?} is not what it says of itself:\n{help}"
                );
            }
        }
    }

    async fn with_care(&self, command: &Command, care: &Care) {
        match care {
            Care::Elsewhere(reason) => assert!(!reason.is_empty()),
            Care::Shows(text) => {
                self.prepare(command).await;
                let mut shell = self.shell(&format!("exec {}", self.filled(command.bare())));
                let mut child = shell
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                let out = BufReader::new(child.stdout.take().unwrap());
                let shown = tokio::task::block_in_place(|| {
                    let mut lines = out.lines().map_while(Result::ok);
                    lines.any(|line| line.contains(text))
                });
                child.kill().unwrap();
                child.wait().unwrap();
                assert!(shown, "{command:?} did not show {text:?}");
            }
            Care::Asks(turns) => {
                self.prepare(command).await;
                let shell = self.shell(&self.filled(command.bare()));
                let mut terminal = Terminal::run(&shell, (40, 120)).unwrap();
                for (shown, typed) in *turns {
                    terminal.shows(shown).await;
                    terminal.press(typed);
                }
                assert_eq!(terminal.ends().await.code(), Some(0));
            }
        }
    }
}
