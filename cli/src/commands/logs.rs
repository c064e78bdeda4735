//! `srchat logs`: the end of the model server's log.

use crate::args;
use crate::cluster::Cluster;
use crate::failure::Failure;
use crate::gateway::broken;
use crate::print::Printer;
use futures::StreamExt as _;

/// Prints it, and goes on when asked to.
pub async fn logs(cluster: &Cluster, args: args::Logs, print: &Printer) -> Result<(), Failure> {
    let name = cluster.named_or_only(args.name).await?;
    let gateway = cluster.gateway(&name).await?;
    let mut lines = gateway.logs(args.tail, args.follow).await?.bytes_stream();
    let mut rest = Vec::new();
    while let Some(piece) = lines.next().await {
        rest.extend_from_slice(&piece.map_err(|e| broken(&e))?);
        // A letter of several bytes may be cut in two; a line never.
        if let Some(end) = rest.iter().rposition(|b| *b == b'\n') {
            let whole: Vec<u8> = rest.drain(..=end).collect();
            print.foreign(&String::from_utf8_lossy(&whole))?;
        }
    }
    print.foreign(&String::from_utf8_lossy(&rest))
}
