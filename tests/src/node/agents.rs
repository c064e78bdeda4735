//! How each program of a node is told what to do.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::control_plane::ControlPlane;
use crate::tools::NodePrograms;

use super::Error;
use super::confined::{ADDRESS, Confined, LOOPBACK};
use super::programs::SANDBOX;

/// The node's name.
pub const NAME: &str = "rig";
/// The addresses of its pods.
const PODS: &str = "10.91.0.0/24";
/// What names in the cluster end with.
const DOMAIN: &str = "cluster.local";
/// The ports at which srchat's own pods listen: gateway, probes and metrics.
const OWN_PORTS: [u16; 2] = [8443, 9090];
/// Where containerd listens by default.
const RUNTIME: &str = "unix:///run/containerd/containerd.sock";
/// The CNI plugin of ours.
const PLUGIN: &str = "rig-loopback";
const PLUGIN_SOURCE: &str = include_str!("loopback.py");

/// Writes what containerd reads.
pub(super) fn write_runtime(folder: &Path, plugins: &Path) -> io::Result<()> {
    let networks = folder.join("networks");
    let own = folder.join("plugins");
    fs::create_dir(&networks)?;
    fs::create_dir(&own)?;
    let plugin = own.join(PLUGIN);
    fs::write(
        &plugin,
        format!("#!/usr/bin/env -S python3 -I\n{PLUGIN_SOURCE}"),
    )?;
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755))?;
    // Each pod has a link of its own to the node, so that every packet is routed, and kube-proxy's rules see it.
    let network = json!({
        "cniVersion": "1.0.0",
        "name": "rig",
        "plugins": [
            {"type": "ptp", "ipMasq": false, "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": PODS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": folder.join("addresses"),
            }},
            {"type": PLUGIN, "loopback": LOOPBACK, "ownPorts": OWN_PORTS},
        ],
    });
    fs::write(networks.join("rig.conflist"), network.to_string())?;
    let quoted = |path: &Path| Value::from(path.display().to_string());
    // It may be forbidden to be less likely to be killed for want of memory than it was; profiles of AppArmor are the machine's.
    let config = format!(
        "version = 3\n\
         [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = '{SANDBOX}'\n\
         [plugins.'io.containerd.cri.v1.runtime']\nrestrict_oom_score_adj = true\ndisable_apparmor = true\n\
         [plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = [{}, {}]\nconf_dir = {}\n",
        quoted(plugins),
        quoted(&own),
        quoted(&networks)
    );
    fs::write(folder.join("containerd.toml"), config)
}

/// It finds its shim and runc on PATH.
pub(super) fn containerd(programs: &NodePrograms, folder: &Path) -> Command {
    let mut command = Command::new(programs.containerd.join("containerd"));
    command
        .arg("--config")
        .arg(folder.join("containerd.toml"))
        .env("PATH", path(programs));
    command
}

fn path(programs: &NodePrograms) -> String {
    const SYSTEM: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    format!("{}:{SYSTEM}", programs.containerd.display())
}

/// Everything that talks to the API server.
pub(super) struct Agents {
    folder: PathBuf,
    kubelet: PathBuf,
    scheduler: PathBuf,
}

impl Agents {
    /// Writes what they read.
    pub(super) fn write(
        control_plane: &ControlPlane,
        confined: &Confined,
        folder: &Path,
    ) -> Result<Self, Error> {
        let certificates = control_plane.certificate_of_server("kubelet", ADDRESS)?;
        let names = folder.join("resolv.conf");
        fs::write(&names, format!("nameserver {ADDRESS}\n"))?;
        let kubelet = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": ADDRESS,
            "containerRuntimeEndpoint": RUNTIME,
            "clusterDomain": DOMAIN,
            "clusterDNS": [ADDRESS],
            "resolvConf": names,
            "tlsCertFile": certificates.join("kubelet.crt"),
            "tlsPrivateKeyFile": certificates.join("kubelet.key"),
            "authentication": {
                "anonymous": {"enabled": false},
                "x509": {"clientCAFile": certificates.join("ca.crt")},
            },
            // The machine's control groups are not the node's, be they of version 1 or 2, but for the one that it was given.
            "failCgroupV1": false,
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": false,
            "enforceNodeAllocatable": [],
            "cgroupRoot": format!("/{}", confined.group),
            "failSwapOn": false,
            "oomScoreAdj": 0,
            // Neither is its disk: however full it is, the node has pods to run and images to keep.
            "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%",
                "imagefs.inodesFree": "0%", "memory.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            // Soon, so that nobody waits for a look.
            "syncFrequency": "10s",
            "nodeStatusUpdateFrequency": "5s",
        });
        fs::write(folder.join("kubelet.json"), kubelet.to_string())?;

        let proxy = control_plane.kubeconfig_of_user("system:kube-proxy", None)?;
        let proxy = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": proxy},
            "bindAddress": ADDRESS,
            "hostnameOverride": NAME,
            "mode": "iptables",
            "clusterCIDR": PODS,
            // The machine's own limits stay as they are.
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "oomScoreAdj": 0,
        });
        fs::write(folder.join("kube-proxy.json"), proxy.to_string())?;

        let dns = control_plane.kubeconfig_of_user("rig-dns", None)?;
        control_plane.kubectl_with(
            &[
                "create",
                "clusterrolebinding",
                "rig-dns",
                "--clusterrole=view",
                "--user=rig-dns",
            ],
            "",
        )?;
        fs::write(
            folder.join("Corefile"),
            format!(
                ".:53 {{\n  bind {ADDRESS}\n  errors\n  kubernetes {DOMAIN} {{\n    kubeconfig {}\n  }}\n}}\n",
                dns.display()
            ),
        )?;
        Ok(Self {
            folder: folder.to_owned(),
            kubelet: control_plane
                .kubeconfig_of_user(&format!("system:node:{NAME}"), Some("system:nodes"))?,
            scheduler: control_plane.kubeconfig_of_user("system:kube-scheduler", None)?,
        })
    }

    pub(super) fn kubelet(&self, programs: &NodePrograms) -> Command {
        let mut command = Command::new(&programs.kubelet);
        command
            .arg(flag("config", &self.folder.join("kubelet.json")))
            .arg(flag("kubeconfig", &self.kubelet))
            .arg(format!("--hostname-override={NAME}"))
            .arg(format!("--node-ip={ADDRESS}"))
            .env("PATH", path(programs));
        command
    }

    pub(super) fn kube_proxy(&self, programs: &NodePrograms) -> Command {
        let mut command = Command::new(&programs.kube_proxy);
        command
            .arg(flag("config", &self.folder.join("kube-proxy.json")))
            .env("PATH", path(programs));
        command
    }

    pub(super) fn scheduler(&self, programs: &NodePrograms) -> Command {
        let mut command = Command::new(&programs.kube_scheduler);
        command
            .arg(flag("kubeconfig", &self.scheduler))
            .args(["--leader-elect=false", "--secure-port=0"]);
        command
    }

    pub(super) fn coredns(&self, programs: &NodePrograms) -> Command {
        let mut command = Command::new(&programs.coredns);
        command.arg("-conf").arg(self.folder.join("Corefile"));
        command
    }
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}
