//! `srchat login`: RunPod's key, tried and given to the operator.

use crate::cluster::{Cluster, failed};
use crate::failure::{Code, Failure};
use crate::print::Printer;
use crate::provider::{self, KEY, SECRET};
use crate::secret_line;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use std::path::Path;

/// Who wrote the Secret, as server-side apply has it.
const WRITER: &str = "srchat-login";

/// Takes the key from the environment, from `.env` in this folder, or from the person; tries it; keeps it.
pub async fn login(cluster: &Cluster, print: &Printer) -> Result<(), Failure> {
    let (key, from) = found(print).await?;
    provider::accepts(&key).await?;
    keep(cluster, &key).await?;
    print.note(&format!(
        "RunPod accepts the key from {from}; the operator has it, in the Secret {SECRET} of namespace {}.",
        cluster.system_namespace()
    ));
    Ok(())
}

async fn found(print: &Printer) -> Result<(SecretString, &'static str), Failure> {
    if let Ok(key) = std::env::var(KEY)
        && !key.is_empty()
    {
        return Ok((provider::key(&key)?, "RUNPOD_API_KEY"));
    }
    if let Some(key) = provider::key_in_file(Path::new(".env"))? {
        return Ok((key, ".env"));
    }
    let key = secret_line::ask(print, "RunPod's API key (it is not shown):").await?;
    Ok((provider::key(key.expose_secret())?, "your hands"))
}

async fn keep(cluster: &Cluster, key: &SecretString) -> Result<(), Failure> {
    let namespace = cluster.system_namespace();
    let secrets = Api::<Secret>::namespaced(cluster.client.clone(), namespace);
    let secret = Patch::Apply(json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": SECRET},
        "stringData": {KEY: key.expose_secret()},
    }));
    // Whoever logs in says which key it is from now on, whatever wrote the Secret before.
    let params = PatchParams::apply(WRITER).force();
    match secrets.patch(SECRET, &params, &secret).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Err(Failure::new(
            Code::NotFound,
            format!("there is no namespace {namespace} to keep the key in"),
        )
        .hint("install srchat first; --system-namespace names its namespace")),
        Err(kube::Error::Api(status)) if status.code == 403 => Err(Failure::new(
            Code::NotAllowed,
            format!("you may not write Secrets in namespace {namespace}"),
        )
        .hint("the key belongs to the installation: somebody who administers it logs in")),
        Err(error) => Err(failed("keep the key", &error)),
    }
}
