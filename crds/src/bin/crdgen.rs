//! Prints the CustomResourceDefinition of `ChatSession` as YAML.

use std::io::Write;

use kube::CustomResourceExt;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let yaml = serde_saphyr::to_string(&srchat_crds::ChatSession::crd())?;
    std::io::stdout().write_all(yaml.as_bytes())?;
    Ok(())
}
