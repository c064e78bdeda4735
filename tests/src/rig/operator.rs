//! Controller and gateway as two processes outside of the cluster, each with its own service account's token.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::eventually::within;
use crate::explain::causes;
use crate::operator_binaries::OperatorBinaries;
use crate::process::Process;

use super::Error;

/// A process of ours is ready within a second; here it may share two cores with compilers.
const READY: Duration = Duration::from_secs(60);

/// A probe that takes longer is a probe that failed.
const PROBE: Duration = Duration::from_secs(2);

/// How long a process may take over its graceful end.
const GRACE: Duration = Duration::from_secs(5);

/// Our namespace, as the rendered manifests have it.
pub(super) const SYSTEM: &str = "srchat-system";

/// What the operator is told about the world around it.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The provider's API.
    pub runpod_url: String,
    /// The Hub.
    pub hub_url: String,
    /// The only user that a pod's sshd admits, where it cannot have its own.
    pub host_user: Option<String>,
}

/// The two processes.
#[derive(Debug)]
pub struct Operator {
    controller: Part,
    gateway: Part,
    gateway_url: String,
}

impl Operator {
    /// Starts both and waits until both are ready.
    pub(super) async fn start(
        cluster: &Cluster,
        surroundings: &Surroundings,
        folder: &Path,
    ) -> Result<Operator, Error> {
        let binaries = OperatorBinaries::build().await?;
        let gateway_address = format!("127.0.0.1:{}", free_port()?);
        let gateway_url = format!("https://{gateway_address}");

        let mut controller = Start::new("controller", "srchat-controller", cluster, folder).await?;
        controller.flag("gateway-url", &gateway_url);
        controller.flag("runpod-url", &surroundings.runpod_url);
        controller.flag("hub-url", &surroundings.hub_url);
        if let Some(user) = &surroundings.host_user {
            controller.flag("host-user", user);
        }
        let mut gateway = Start::new("gateway", "srchat-gateway", cluster, folder).await?;
        gateway.flag("listen", &gateway_address);

        let mut operator = Operator {
            controller: controller.part(&binaries.operator)?,
            gateway: gateway.part(&binaries.operator)?,
            gateway_url,
        };
        operator.controller.ready().await?;
        operator.gateway.ready().await?;
        Ok(operator)
    }

    /// The gateway's public base URL.
    pub fn gateway_url(&self) -> &str {
        &self.gateway_url
    }

    /// The controller.
    pub fn controller(&mut self) -> &mut Part {
        &mut self.controller
    }

    /// The gateway.
    pub fn gateway(&mut self) -> &mut Part {
        &mut self.gateway
    }

    pub(super) fn processes(&mut self) -> [&mut Process; 2] {
        [&mut self.controller.process, &mut self.gateway.process]
    }

    /// Ends both, politely first. Blocks for a few seconds at most.
    pub(super) fn stop(&mut self) {
        self.controller.process.stop(GRACE);
        self.gateway.process.stop(GRACE);
    }
}

/// One of the two, which can be killed and started again as it was.
#[derive(Debug)]
pub struct Part {
    process: Process,
    start: Start,
    program: PathBuf,
}

impl Part {
    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts this program instead from now on: another build of the same one.
    pub fn build(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// Starts it again with the same flags, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(&mut self) -> Result<(), Error> {
        self.process.kill();
        self.process = self.start.process(&self.program)?;
        self.ready().await
    }

    /// What it counts, as Prometheus reads it.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> Result<String, reqwest::Error> {
        let url = format!("http://{}/metrics", self.start.metrics);
        let answer = http()?.get(url).send().await?;
        answer.error_for_status()?.text().await
    }

    async fn ready(&mut self) -> Result<(), Error> {
        let url = format!("http://{}/readyz", self.start.metrics);
        let http = http().map_err(std::io::Error::other)?;
        let process = &mut self.process;
        let came_up = within(
            READY,
            &format!("the {} to be ready", self.start.name),
            || {
                let over = process.ended();
                let asked = http.get(&url);
                async move {
                    if over.is_some() {
                        return Ok(false);
                    }
                    match asked.send().await {
                        Ok(answer) if answer.status().is_success() => Ok(true),
                        Ok(answer) => Err(format!(
                            "{}: {}",
                            answer.status(),
                            answer.text().await.unwrap_or_default()
                        )),
                        Err(error) => Err(causes(&error)),
                    }
                }
            },
        )
        .await?;
        if came_up {
            Ok(())
        } else {
            Err(Error::Ended {
                name: self.start.name,
                log: self.process.tail(),
            })
        }
    }
}

/// How one of the two is started.
#[derive(Debug)]
struct Start {
    name: &'static str,
    flags: Vec<String>,
    metrics: String,
    kubeconfig: PathBuf,
    folder: PathBuf,
}

impl Start {
    async fn new(
        name: &'static str,
        account: &str,
        cluster: &Cluster,
        folder: &Path,
    ) -> Result<Start, Error> {
        let kubeconfig = cluster.kubeconfig_of(SYSTEM, account).await?;
        let metrics = format!("127.0.0.1:{}", free_port()?);
        let mut start = Start {
            name,
            flags: Vec::new(),
            metrics,
            kubeconfig,
            folder: folder.to_owned(),
        };
        start
            .flags
            .push("--log=info,srchat_operator=debug".to_owned());
        start.flags.push(name.to_owned());
        start.flag("metrics-listen", &start.metrics.clone());
        Ok(start)
    }

    fn flag(&mut self, name: &str, value: &str) {
        self.flags.push(format!("--{name}={value}"));
    }

    fn part(self, program: &Path) -> Result<Part, Error> {
        Ok(Part {
            process: self.process(program)?,
            start: self,
            program: program.to_owned(),
        })
    }

    fn process(&self, program: &Path) -> Result<Process, Error> {
        let mut command = Command::new(program);
        command
            .args(&self.flags)
            .env("KUBECONFIG", &self.kubeconfig);
        Ok(Process::start(self.name, command, &self.folder)?)
    }
}

/// A client for probes.
fn http() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().no_proxy().timeout(PROBE).build()
}

/// A port of loopback that was free a moment ago.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}
