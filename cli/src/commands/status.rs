//! `srchat status`: one session in full.

use crate::args;
use crate::cluster::Cluster;
use crate::failure::Failure;
use crate::print::Printer;
use crate::session::lines;
use k8s_openapi::jiff::Timestamp;

/// Shows it.
pub async fn status(
    cluster: &Cluster,
    args: args::Status,
    output: args::Output,
    print: &Printer,
) -> Result<(), Failure> {
    let name = cluster.named_or_only(args.name).await?;
    let session = cluster.session(&name).await?;
    if output == args::Output::Json {
        return print.json(&session);
    }
    for (what, value) in lines(&session, Timestamp::now()) {
        print.line(&format!("{what:<10}{value}"))?;
    }
    Ok(())
}
