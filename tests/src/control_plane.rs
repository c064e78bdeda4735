//! A control plane: real etcd, kube-apiserver and kube-controller-manager, with RBAC and an audit log. On loopback and without
//! nodes, or at an address where nodes can join. Nothing of the caller's own cluster configuration is ever read.

mod certificates;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use serde_json::json;
use tokio::sync::OnceCell;

use crate::cluster::{self, Cluster, write_private};
use crate::eventually::{NotYet, within};
use crate::explain::causes;
use crate::process::{self, Process, Workplace};
use crate::tools::{self, ControlPlanePrograms};
use certificates::Certificates;

/// An API server answers about three seconds after its start on two idle cores; here it may share them with
/// compilers.
const START: Duration = Duration::from_secs(120);

/// An API server that has lost its etcd lingers for minutes over its graceful end, so it is ended first, and
/// killed when it takes longer than this.
const GRACE: Duration = Duration::from_secs(3);

/// A free port can be taken by somebody else between our finding it and the API server's binding it.
const PORTS_TRIED: usize = 5;

/// The controllers that the sessions' life depends on. Without nodes nothing else would find work.
const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,serviceaccount-controller,\
                           root-ca-certificate-publisher-controller,clusterrole-aggregation-controller,\
                           validatingadmissionpolicy-status-controller";

/// Those that bring pods to nodes, keep them there, and find them for Services.
const WITH_NODES: &str = ",deployment-controller,replicaset-controller,job-controller,endpointslice-controller,\
                          disruption-controller,node-lifecycle-controller,pod-garbage-collector-controller,\
                          ttl-after-finished-controller";

/// The addresses of Services, and the first of them, which is the API server's.
const SERVICES: (&str, Ipv4Addr) = ("10.0.0.0/24", Ipv4Addr::new(10, 0, 0, 1));

/// Every request is recorded with its user, verb and object, and never with its body: bodies hold Secrets.
const AUDIT_POLICY: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
"rules": [{"level": "Metadata"}]}"#;

/// Why there is no control plane.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is not there.
    #[error("could not get the programs of a control plane")]
    Tools(#[from] tools::Error),
    /// A program does not start.
    #[error(transparent)]
    Start(#[from] process::Error),
    /// A file could not be written.
    #[error("could not write the control plane's files")]
    Files(#[from] io::Error),
    /// A certificate could not be made.
    #[error("could not make the control plane's certificates")]
    Certificates(#[from] rcgen::Error),
    /// A part ended while it was starting.
    #[error("{name} ended while it was starting:\n{log}")]
    Ended {
        /// Which.
        name: String,
        /// The end of its output.
        log: String,
    },
    /// It did not become ready.
    #[error(transparent)]
    NotReady(#[from] NotYet),
    /// The new cluster cannot be used.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
}

/// Who will be in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nodes {
    /// Nobody: it holds objects, and is reached by loopback.
    None,
    /// Nodes, which reach it at this address of ours, and which it reaches.
    At(Ipv4Addr),
}

impl Nodes {
    fn address(self) -> Ipv4Addr {
        match self {
            Nodes::None => Ipv4Addr::LOCALHOST,
            Nodes::At(address) => address,
        }
    }
}

/// A running control plane. Dropping it ends it, the API server first.
#[derive(Debug)]
pub struct ControlPlane {
    // In the order in which they end; the files go last.
    api_server: Process,
    controller_manager: Process,
    etcd: Process,
    url: String,
    nodes: Nodes,
    certificates: Certificates,
    cluster: Cluster,
    programs: ControlPlanePrograms,
    place: Workplace,
}

impl ControlPlane {
    /// The one that all tests of this process share. It ends with the process.
    ///
    /// # Panics
    /// When it does not start: then no test that wants it can say anything.
    pub async fn shared() -> &'static ControlPlane {
        static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
        match SHARED.get_or_try_init(ControlPlane::start).await {
            Ok(control_plane) => control_plane,
            Err(error) => panic!("no control plane: {}", causes(&error)),
        }
    }

    /// Starts one of its own. The first time on a machine this builds the programs, which takes minutes.
    ///
    /// # Errors
    /// When a part cannot be had or does not become ready.
    pub async fn start() -> Result<ControlPlane, Error> {
        ControlPlane::start_with(Nodes::None).await
    }

    /// The same where nodes can join, at an address of ours that they can reach.
    ///
    /// # Errors
    /// When a part cannot be had or does not become ready, or the address is not ours.
    pub async fn start_for_nodes(address: Ipv4Addr) -> Result<ControlPlane, Error> {
        // Whatever is sent to an address that is on no interface of ours would go to somebody else.
        drop(TcpListener::bind((address, 0))?);
        ControlPlane::start_with(Nodes::At(address)).await
    }

    async fn start_with(nodes: Nodes) -> Result<ControlPlane, Error> {
        let programs = tokio::task::spawn_blocking(ControlPlanePrograms::find)
            .await
            .map_err(|_| io::Error::other("the build was cancelled"))??;
        let place = Workplace::new("control-plane")?;
        let path = place.path();
        let certificates = Certificates::make(&[Ipv4Addr::LOCALHOST, nodes.address(), SERVICES.1])?;
        certificates.write(path)?;
        fs::write(path.join("audit-policy.json"), AUDIT_POLICY)?;
        let admin = certificates.client("srchat-rig-admin", Some("system:masters"))?;
        // The API server is its kubelets' client, and trusted there as the administrator is here.
        admin.write(path, "admin")?;

        let etcd = Process::start("etcd", etcd(&programs, path), path)?;
        let (api_server, url) = start_api_server(&programs, path, nodes, &certificates).await?;
        let ca = &certificates.ca;
        write_private(
            &path.join("admin.kubeconfig"),
            &certificate_kubeconfig(&url, ca, &admin),
        )?;
        let manager = certificates.client("system:kube-controller-manager", None)?;
        write_private(
            &path.join("controller-manager.kubeconfig"),
            &certificate_kubeconfig(&url, ca, &manager),
        )?;
        let controller_manager = Process::start(
            "kube-controller-manager",
            controller_manager(&programs, path, nodes),
            path,
        )?;

        let cluster = Cluster::new(
            path.join("admin.kubeconfig"),
            programs.kubectl.clone(),
            path.to_owned(),
        );
        let control_plane = ControlPlane {
            api_server,
            controller_manager,
            etcd,
            url,
            nodes,
            certificates,
            cluster,
            programs,
            place,
        };
        control_plane.namespaces_work().await?;
        Ok(control_plane)
    }

    /// The API server's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the API server was asked, one JSON event a line, without bodies.
    pub fn audit_log(&self) -> PathBuf {
        self.place.path().join("audit.log")
    }

    /// The folder with the logs of its parts.
    pub fn logs(&self) -> &Path {
        self.place.path()
    }

    /// Kills the API server, as a crash would, and starts it again at the same address with the same data.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn restart_api_server(&mut self) -> Result<(), Error> {
        self.api_server.kill();
        let port = self
            .url
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .unwrap_or_default();
        let path = self.place.path();
        self.api_server = Process::start(
            "kube-apiserver",
            api_server(&self.programs, path, self.nodes, port),
            path,
        )?;
        ready(&mut self.api_server, &self.url, &self.certificates.ca).await
    }

    /// Kills the API server and leaves it so, until [`ControlPlane::restart_api_server`].
    pub fn kill_api_server(&mut self) {
        self.api_server.kill();
    }

    /// A kubeconfig with a certificate of this user.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn kubeconfig_of_user(&self, user: &str, group: Option<&str>) -> Result<PathBuf, Error> {
        let pair = self.certificates.client(user, group)?;
        let path = self
            .place
            .path()
            .join(format!("{}.kubeconfig", user.replace(':', "-")));
        let kubeconfig = certificate_kubeconfig(&self.url, &self.certificates.ca, &pair);
        write_private(&path, &kubeconfig)?;
        Ok(path)
    }

    /// Writes `NAME.crt` and `NAME.key`, for a server at an address, beside the authority's `ca.crt`; tells the folder.
    ///
    /// # Errors
    /// When they cannot be made or written.
    pub fn certificate_of_server(&self, name: &str, address: Ipv4Addr) -> Result<&Path, Error> {
        let pair = self.certificates.server(name, address)?;
        pair.write(self.place.path(), name)?;
        Ok(self.place.path())
    }

    /// Its processes.
    pub fn processes(&mut self) -> [&mut Process; 3] {
        [
            &mut self.api_server,
            &mut self.controller_manager,
            &mut self.etcd,
        ]
    }

    /// The controller manager is at work when the first namespace has its service account.
    async fn namespaces_work(&self) -> Result<(), Error> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, "default");
        within(START, "the first service account", || {
            accounts.get("default")
        })
        .await?;
        Ok(())
    }
}

/// A control plane is a cluster, with the power to end it.
impl Deref for ControlPlane {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.api_server.stop(GRACE);
        self.controller_manager.kill();
        self.etcd.kill();
    }
}

/// Sockets instead of ports: nobody else can be there, and nobody else may read.
fn etcd_socket(path: &Path) -> String {
    format!("unix://{}", path.join("etcd.sock").display())
}

fn etcd(programs: &ControlPlanePrograms, path: &Path) -> Command {
    let mut command = Command::new(&programs.etcd);
    command
        .arg(format!("--data-dir={}", path.join("etcd").display()))
        .arg(format!("--listen-client-urls={}", etcd_socket(path)))
        .arg(format!(
            "--listen-peer-urls=unix://{}",
            path.join("peers.sock").display()
        ))
        // What is advertised must look like a host and a port; it is the only member, and nobody reads it.
        .args([
            "--advertise-client-urls=unix://etcd:0",
            "--initial-advertise-peer-urls=unix://peers:0",
        ])
        .args([
            "--initial-cluster=default=unix://peers:0",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]);
    command
}

async fn start_api_server(
    programs: &ControlPlanePrograms,
    path: &Path,
    nodes: Nodes,
    certificates: &Certificates,
) -> Result<(Process, String), Error> {
    let mut tried = 0;
    loop {
        tried += 1;
        let port = free_port(nodes.address())?;
        let url = format!("https://{}:{port}", nodes.address());
        let command = api_server(programs, path, nodes, port);
        let mut process = Process::start("kube-apiserver", command, path)?;
        match ready(&mut process, &url, &certificates.ca).await {
            Ok(()) => return Ok((process, url)),
            Err(Error::Ended { log, .. })
                if tried < PORTS_TRIED && log.contains("address already in use") => {}
            Err(error) => return Err(error),
        }
    }
}

fn api_server(programs: &ControlPlanePrograms, path: &Path, nodes: Nodes, port: u16) -> Command {
    let file = |name: &str| path.join(name).display().to_string();
    let mut command = Command::new(&programs.kube_apiserver);
    command
        .arg(format!("--etcd-servers={}", etcd_socket(path)))
        .arg(format!("--bind-address={}", nodes.address()))
        .arg(format!("--advertise-address={}", nodes.address()))
        .arg(format!("--secure-port={port}"))
        .arg(format!("--service-cluster-ip-range={}", SERVICES.0))
        .args(["--allow-privileged=true", "--profiling=false"])
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .arg(format!("--client-ca-file={}", file("ca.crt")))
        .arg(format!("--tls-cert-file={}", file("api-server.crt")))
        .arg(format!("--tls-private-key-file={}", file("api-server.key")))
        .arg(format!(
            "--service-account-key-file={}",
            file("service-accounts.pub")
        ))
        .arg(format!(
            "--service-account-signing-key-file={}",
            file("service-accounts.key")
        ))
        .arg(format!("--audit-policy-file={}", file("audit-policy.json")))
        .arg(format!("--audit-log-path={}", file("audit.log")))
        .arg(format!("--cert-dir={}", path.display()));
    match nodes {
        // There is nobody in the cluster who would look for the API server by its Service.
        Nodes::None => command.args([
            "--endpoint-reconciler-type=none",
            "--authorization-mode=RBAC",
        ]),
        Nodes::At(_) => command
            .args([
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
            ])
            .arg("--kubelet-preferred-address-types=InternalIP")
            .arg(format!(
                "--kubelet-certificate-authority={}",
                file("ca.crt")
            ))
            .arg(format!(
                "--kubelet-client-certificate={}",
                file("admin.crt")
            ))
            .arg(format!("--kubelet-client-key={}", file("admin.key"))),
    };
    command
}

fn controller_manager(programs: &ControlPlanePrograms, path: &Path, nodes: Nodes) -> Command {
    let more = match nodes {
        Nodes::None => "",
        Nodes::At(_) => WITH_NODES,
    };
    let file = |name: &str| path.join(name).display().to_string();
    let mut command = Command::new(&programs.kube_controller_manager);
    command
        .arg(format!(
            "--kubeconfig={}",
            file("controller-manager.kubeconfig")
        ))
        .arg(format!("--root-ca-file={}", file("ca.crt")))
        .arg(format!(
            "--service-account-private-key-file={}",
            file("service-accounts.key")
        ))
        .arg(format!("--controllers={CONTROLLERS}{more}"))
        .args([
            "--use-service-account-credentials=true",
            "--leader-elect=false",
        ])
        // Metrics and probes of a part that we watch by what it does.
        .args(["--secure-port=0", "--profiling=false"]);
    command
}

/// Waits until the API server says that it is ready, or is gone.
async fn ready(process: &mut Process, url: &str, ca: &str) -> Result<(), Error> {
    // A part that has ended will never answer: the look says `Ok(false)` then, so that nobody waits longer.
    let certificate = reqwest::Certificate::from_pem(ca.as_bytes()).map_err(io::Error::other)?;
    let http = reqwest::Client::builder()
        .tls_certs_only([certificate])
        .no_proxy()
        // A probe that takes longer is a probe that failed.
        .timeout(Duration::from_secs(2))
        .build()
        .map_err(io::Error::other)?;
    let url = format!("{url}/readyz");
    let came_up = within(START, "the API server to be ready", || {
        let over = process.ended().is_some();
        let asked = http.get(&url);
        async move {
            if over {
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
    })
    .await?;
    if came_up {
        Ok(())
    } else {
        Err(Error::Ended {
            name: process.name().to_owned(),
            log: process.tail(),
        })
    }
}

/// A port of an address of ours that was free a moment ago.
fn free_port(address: Ipv4Addr) -> io::Result<u16> {
    Ok(TcpListener::bind((address, 0))?.local_addr()?.port())
}

fn certificate_kubeconfig(url: &str, ca: &str, pair: &certificates::Pair) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    let user = json!({
        "client-certificate-data": STANDARD.encode(&pair.certificate),
        "client-key-data": STANDARD.encode(&pair.key),
    });
    kubeconfig(url, ca, &user)
}

/// JSON is YAML enough for every client.
fn kubeconfig(url: &str, ca: &str, user: &serde_json::Value) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    let ca = STANDARD.encode(ca);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "rig", "cluster": {"server": url, "certificate-authority-data": ca}}],
        "users": [{"name": "rig", "user": user}],
        "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": "rig", "namespace": "default"}}],
        "current-context": "rig",
    })
    .to_string()
}
