//! A cluster as its administrator sees it: the rig's own control plane, or one that somebody hands in.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, NamedAuthInfo};
use kube::{Api, Client};

use crate::process;

/// How long a token of a service account is good for: longer than any demo is left running.
const TOKEN_SECONDS: i64 = 7 * 24 * 3600;

/// Why something at the cluster did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kubeconfig could not be read or used.
    #[error("could not use the kubeconfig")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// The API server refused.
    #[error("the API server refused")]
    Api(#[from] kube::Error),
    /// A file could not be written, or kubectl not be run.
    #[error("could not write a kubeconfig or run kubectl")]
    Files(#[from] io::Error),
    /// kubectl failed.
    #[error("kubectl {arguments} failed: {said}")]
    Kubectl {
        /// What it was asked.
        arguments: String,
        /// What it said.
        said: String,
    },
}

/// A cluster, and a private folder for what its clients write.
#[derive(Debug, Clone)]
pub struct Cluster {
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    folder: PathBuf,
}

impl Cluster {
    /// The cluster that a kubeconfig points to.
    pub fn new(kubeconfig: PathBuf, kubectl: PathBuf, folder: PathBuf) -> Cluster {
        Cluster {
            kubeconfig,
            kubectl,
            folder,
        }
    }

    /// The kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// An administrator's client. One for each test: a client lives on the runtime that made it.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub async fn client(&self) -> Result<Client, Error> {
        client(&self.kubeconfig).await
    }

    /// Where kubectl is.
    pub fn kubectl_program(&self) -> &Path {
        &self.kubectl
    }

    /// kubectl as an administrator; arguments and stdin are the caller's.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        process::without_the_callers_settings(&mut command);
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", self.folder.join("kubectl"));
        command
    }

    /// Applies the rendered files whole, as the README says. Blocks.
    ///
    /// # Errors
    /// What kubectl says when it fails.
    pub fn apply_rendered(&self) -> Result<(), Error> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/rendered");
        for file in ["stays.yaml", "operator.yaml"] {
            let file = format!("{folder}/{file}");
            self.kubectl_with(&["apply", "--server-side", "--filename", &file], "")?;
        }
        Ok(())
    }

    /// Runs kubectl with `input` on stdin and returns what it says. Blocks.
    ///
    /// # Errors
    /// What it says when it fails.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String, Error> {
        let mut command = self.kubectl();
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut stdin = child
            .stdin
            .take()
            .ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
        let input = input.to_owned();
        // On a thread of its own, since kubectl may fill its stdout before it has read all of its stdin. When it
        // stops reading, what it says on its way out is the better error.
        let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let output = child.wait_with_output()?;
        drop(writer.join());
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Kubectl {
            arguments: arguments.join(" "),
            said,
        })
    }

    /// A new namespace whose name starts with `prefix`.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn namespace(&self, prefix: &str) -> Result<String, Error> {
        let metadata = ObjectMeta {
            generate_name: Some(format!("{prefix}-")),
            ..ObjectMeta::default()
        };
        let namespace = Namespace {
            metadata,
            ..Namespace::default()
        };
        let made = Api::all(self.client().await?)
            .create(&PostParams::default(), &namespace)
            .await?;
        Ok(made.metadata.name.unwrap_or_default())
    }

    /// Makes a Secret, or makes it say this.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn secret(
        &self,
        namespace: &str,
        name: &str,
        data: &[(&str, &str)],
    ) -> Result<(), Error> {
        let text: BTreeMap<String, String> = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        };
        let secret = Secret {
            metadata,
            string_data: Some(text),
            ..Secret::default()
        };
        let secrets: Api<Secret> = Api::namespaced(self.client().await?, namespace);
        secrets
            .patch(
                name,
                &PatchParams::apply("srchat-rig").force(),
                &Patch::Apply(&secret),
            )
            .await?;
        Ok(())
    }

    /// A kubeconfig for the same cluster with a token of a service account and nothing else.
    ///
    /// # Errors
    /// When the account does not exist.
    pub async fn kubeconfig_of(&self, namespace: &str, account: &str) -> Result<PathBuf, Error> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, namespace);
        let spec = TokenRequestSpec {
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest {
            spec,
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await?;
        let token = answer
            .status
            .map(|status| status.token.into())
            .unwrap_or_default();

        let mut kubeconfig = Kubeconfig::read_from(&self.kubeconfig)?;
        let user = AuthInfo {
            token: Some(token),
            ..AuthInfo::default()
        };
        kubeconfig.auth_infos = vec![NamedAuthInfo {
            name: account.to_owned(),
            auth_info: Some(user),
            other: BTreeMap::new(),
        }];
        let current = kubeconfig.current_context.clone().unwrap_or_default();
        kubeconfig
            .contexts
            .retain(|context| context.name == current);
        for context in kubeconfig
            .contexts
            .iter_mut()
            .filter_map(|named| named.context.as_mut())
        {
            context.user = Some(account.to_owned());
        }
        let path = self
            .folder
            .join(format!("{namespace}.{account}.kubeconfig"));
        write_private(
            &path,
            &serde_json::to_string(&kubeconfig).map_err(io::Error::other)?,
        )?;
        Ok(path)
    }
}

/// A client for a kubeconfig.
///
/// # Errors
/// When the file cannot be read or says nothing usable.
pub async fn client(kubeconfig: &Path) -> Result<Client, Error> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Writes a file that only we may read.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;

    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}
