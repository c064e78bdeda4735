//! `srchat plan`: what a model would be rented, without renting it.

use crate::args::{self, Output};
use crate::cluster::Cluster;
use crate::commands::rm;
use crate::failure::{Code, Failure};
use crate::print::Printer;
use crate::proposal::{self, Planned, Words};
use crate::signals;
use serde::Serialize;
use srchat_crds::{Dollars, ModelId, status};

/// What `--output json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    model: &'a ModelId,
    plan: &'a status::Plan,
    max_hourly_cost: Dollars,
    within_limit: bool,
}

/// Makes a session that rents nothing, shows its plan, and deletes it.
pub async fn plan(
    cluster: &Cluster,
    args: args::Plan,
    output: Output,
    print: &Printer,
) -> Result<(), Failure> {
    let session = tokio::select! {
        made = proposal::make(cluster, &args.wishes) => made?,
        () = signals::stopped() => return Err(Failure::silent(Code::Interrupted)),
    };
    let planned = tokio::select! {
        planned = proposal::planned(cluster, &session, print) => planned,
        () = signals::stopped() => Err(Failure::silent(Code::Interrupted)),
    };
    print.clear_progress();
    // Whatever came of it; what cannot be deleted now the operator deletes when nobody has confirmed it.
    let deleted = rm::delete(cluster, &session).await;
    let planned = planned?;
    deleted?;
    show(&planned, output, print)
}

fn show(planned: &Planned, output: Output, print: &Printer) -> Result<(), Failure> {
    let Planned { session, plan, cap } = planned;
    match output {
        Output::Json => print.json(&Shown {
            model: &session.spec.model,
            plan,
            max_hourly_cost: *cap,
            within_limit: !planned.is_too_dear(),
        })?,
        Output::Text => print.line(&Words(planned).to_string())?,
    }
    if planned.is_too_dear() {
        let needed = planned.cap_needed();
        return Err(Failure::new(
            Code::Error,
            format!(
                "nothing that fits costs ${cap} an hour or less; this costs ${}",
                plan.hourly_cost
            ),
        )
        .hint(format!("--max-cost-per-hour {needed} allows it")));
    }
    Ok(())
}
