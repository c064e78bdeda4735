//! The operator's command line: clap types only, every flag with its environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use reqwest::Url;

/// Rents private chats with open models, and proves that they are gone.
#[derive(Clone, Debug, Parser)]
#[command(name = "srchat-operator", version, about)]
pub struct Arguments {
    /// What to write to standard error.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
    /// Which of the processes to be.
    #[command(subcommand)]
    pub command: Command,
}

/// How to log.
#[derive(Clone, Debug, Args)]
pub struct TelemetryArgs {
    /// Form of the log lines on standard error.
    #[arg(long, env = "SRCHAT_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, global = true)]
    pub log_format: LogFormat,
    /// Which log lines to write, in the syntax of tracing's EnvFilter.
    #[arg(long, env = "SRCHAT_LOG", default_value = "info", global = true)]
    pub log: String,
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// The processes.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Rents, deploys, watches and ends; holds the provider's key.
    Controller(Box<ControllerArgs>),
    /// Faces users: OpenAI-compatible HTTPS in front of the sessions' hosts.
    Gateway(GatewayArgs),
    /// Looks for pods that nobody owns, once.
    Sweep(SweepArgs),
    /// Refuses while there is something that only the controller can end, or ends it. The chart runs it before it is uninstalled.
    Uninstall(UninstallArgs),
}

/// Where our own objects live.
#[derive(Clone, Debug, Args)]
pub struct Namespaces {
    /// Namespace of the controller's own Secrets: ledgers, installation, provider key.
    #[arg(long, env = "SRCHAT_NAMESPACE", default_value = "srchat-system")]
    pub namespace: String,
    /// Namespace of the routes and of the gateways' certificate.
    #[arg(
        long,
        env = "SRCHAT_SESSIONS_NAMESPACE",
        default_value = "srchat-sessions"
    )]
    pub sessions_namespace: String,
}

/// Flags of `controller`.
#[derive(Clone, Debug, Args)]
pub struct ControllerArgs {
    /// Where our own objects live.
    #[command(flatten)]
    pub namespaces: Namespaces,
    /// Public base URL of the gateways; the endpoints that are published begin with it.
    /// Without it `https://srchat-gateway.<namespace>.svc`.
    #[arg(long, env = "SRCHAT_GATEWAY_URL")]
    pub gateway_url: Option<Url>,
    /// PEM of what clients of the gateways should trust, where their certificate is not the installation's own; empty where that
    /// is what clients trust anyway.
    #[arg(long, env = "SRCHAT_GATEWAY_CA")]
    pub gateway_ca: Option<String>,
    /// Base URL of RunPod's REST API.
    #[arg(
        long,
        env = "RUNPOD_API_URL",
        default_value = "https://api.runpod.io/v2"
    )]
    pub runpod_url: Url,
    /// Base URL of the model hub.
    #[arg(long, env = "HF_ENDPOINT", default_value = "https://huggingface.co")]
    pub hub_url: Url,
    /// Base URL under which a pod's watchdog reaches the provider; without it the value of --runpod-url.
    #[arg(long, env = "SRCHAT_API_FOR_HOSTS")]
    pub api_for_hosts: Option<Url>,
    /// Address of `/metrics`, `/healthz` and `/readyz`.
    #[arg(long, env = "SRCHAT_METRICS_LISTEN", default_value = "0.0.0.0:9090")]
    pub metrics_listen: SocketAddr,
    /// Our root on a pod's disk. `{attempt}` in it stands for `<uid>-<attempt>`, for hosts that share a disk.
    #[arg(long, env = "SRCHAT_HOST_ROOT", default_value = "/srchat")]
    pub host_root: PathBuf,
    /// Our root in a pod's memory; `{attempt}` as above.
    #[arg(long, env = "SRCHAT_HOST_MEMORY", default_value = "/dev/shm/srchat")]
    pub host_memory: PathBuf,
    /// The one account that hosts have, where they cannot have ours. Without it root for the controller, srchat-gw for gateways.
    #[arg(long, env = "SRCHAT_HOST_USER")]
    pub host_user: Option<String>,
}

impl ControllerArgs {
    /// The gateways' base URL, without a slash at its end.
    pub fn gateway_base(&self) -> String {
        match &self.gateway_url {
            Some(url) => url.as_str().trim_end_matches('/').to_owned(),
            None => format!("https://srchat-gateway.{}.svc", self.namespaces.namespace),
        }
    }

    /// What `SRCHAT_API` says on a host, without a slash at its end.
    pub fn api_for_hosts(&self) -> &str {
        self.api_for_hosts
            .as_ref()
            .unwrap_or(&self.runpod_url)
            .as_str()
            .trim_end_matches('/')
    }
}

/// Flags of `gateway`.
#[derive(Clone, Debug, Args)]
pub struct GatewayArgs {
    /// Address of the HTTPS endpoint.
    #[arg(long, env = "SRCHAT_LISTEN", default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,
    /// Address of `/metrics`, `/healthz` and `/readyz`.
    #[arg(long, env = "SRCHAT_METRICS_LISTEN", default_value = "0.0.0.0:9090")]
    pub metrics_listen: SocketAddr,
    /// Namespace of the routes and of the gateways' certificate.
    #[arg(
        long,
        env = "SRCHAT_SESSIONS_NAMESPACE",
        default_value = "srchat-sessions"
    )]
    pub sessions_namespace: String,
    /// Secret with the gateways' certificate, of type kubernetes.io/tls. Without it the one that the controller makes.
    #[arg(
        long,
        env = "SRCHAT_TLS_SECRET",
        default_value = crate::installation::store::LEAF_SECRET
    )]
    pub tls_secret: String,
    /// Admit Kubernetes tokens of the audience `srchat` besides the sessions' own: whoever may `create chatsessions/chat` (or
    /// `/files`) in a session's namespace may use it.
    #[arg(long, env = "SRCHAT_KUBERNETES_TOKENS")]
    pub kubernetes_tokens: bool,
    /// How long the answers in hand get once the process is asked to end, in seconds. Kubernetes must not kill it before.
    #[arg(long, env = "SRCHAT_DRAIN_SECONDS", default_value_t = crate::gateway::DRAIN_SECONDS)]
    pub drain_seconds: u64,
}

/// Flags of `sweep`.
#[derive(Clone, Debug, Args)]
pub struct SweepArgs {
    /// Where our own objects live.
    #[command(flatten)]
    pub namespaces: Namespaces,
    /// Base URL of RunPod's REST API.
    #[arg(
        long,
        env = "RUNPOD_API_URL",
        default_value = "https://api.runpod.io/v2"
    )]
    pub runpod_url: Url,
    /// Sweep once and leave; the only way there is, spelled out for scripts.
    #[arg(long, required = true)]
    pub once: bool,
    /// Say what would be terminated and terminate nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Sweep for an installation whose Secret is lost; needs --confirm.
    #[arg(long, env = "SRCHAT_INSTALLATION_ID", requires = "confirm")]
    pub installation: Option<String>,
    /// Terminate pods by the installation's name alone, since its key is lost.
    #[arg(long)]
    pub confirm: bool,
}

/// Flags of `uninstall`.
#[derive(Clone, Debug, Args)]
pub struct UninstallArgs {
    /// Namespace of the ledgers.
    #[arg(long, env = "SRCHAT_NAMESPACE", default_value = "srchat-system")]
    pub namespace: String,
    /// Delete all sessions and wait until the controller has ended them, instead of refusing.
    #[arg(long)]
    pub drain: bool,
    /// How long to wait for their end, in seconds.
    #[arg(long, default_value_t = 900)]
    pub timeout_seconds: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory as _;

    use super::*;

    fn controller(line: &[&str]) -> ControllerArgs {
        match Arguments::try_parse_from(line).unwrap().command {
            Command::Controller(args) => *args,
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_base_urls_have_no_slash_at_the_end() {
        let args = controller(&[
            "x",
            "controller",
            "--gateway-url",
            "https://chat.example/",
            "--runpod-url",
            "http://127.0.0.1:1/v2/",
        ]);
        assert_eq!(args.gateway_base(), "https://chat.example");
        assert_eq!(args.api_for_hosts(), "http://127.0.0.1:1/v2");
    }

    #[test]
    fn the_gateway_is_the_service_in_the_cluster_unless_said_otherwise() {
        let args = controller(&["x", "controller", "--namespace", "mine"]);
        assert_eq!(args.gateway_base(), "https://srchat-gateway.mine.svc");
    }

    #[test]
    fn a_lost_installation_is_swept_only_when_confirmed() {
        let line = ["x", "sweep", "--once", "--installation", "abc"];
        assert!(Arguments::try_parse_from(line).is_err());
        assert!(Arguments::try_parse_from(line.into_iter().chain(["--confirm"])).is_ok());
    }
}
