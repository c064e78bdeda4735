//! Applies the rendered manifests, exactly as a user of kubectl would, save for what would run a second operator.

use std::path::Path;

use crate::cluster::{Cluster, Error};

/// How long the API server may take to serve a new kind.
const ESTABLISHED: &str = "--timeout=60s";

/// Applies CRD, namespaces, accounts and roles, and waits until sessions can be applied. Blocks.
pub(super) fn apply(cluster: &Cluster) -> Result<(), Error> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/rendered");
    for name in ["stays.yaml", "operator.yaml"] {
        let text = std::fs::read_to_string(folder.join(name))?;
        let arguments = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--filename=-",
        ];
        cluster.kubectl_with(&arguments, &without_deployments(&text))?;
    }
    let crd = "crd/chatsessions.srchat.dev";
    cluster.kubectl_with(
        &["wait", "--for=condition=Established", ESTABLISHED, crd],
        "",
    )?;
    Ok(())
}

/// Controller and gateway run outside of the cluster here, with the same accounts: where there are nodes, the
/// Deployments would start both a second time.
fn without_deployments(manifests: &str) -> String {
    let documents = manifests
        .split("\n---")
        .filter(|document| !document.lines().any(|line| line == "kind: Deployment"));
    documents.collect::<Vec<_>>().join("\n---")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_deployments_are_left_out() {
        let manifests = "# head\n---\nkind: Service\nspec:\n  kind: Deployment\n---\nkind: Deployment\n---\nkind: Role\n";
        assert_eq!(
            without_deployments(manifests),
            "# head\n---\nkind: Service\nspec:\n  kind: Deployment\n---\nkind: Role\n"
        );
    }
}
