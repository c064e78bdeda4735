//! `srchat ls`: what runs and what it costs.

use crate::args;
use crate::cluster::{Cluster, failed};
use crate::failure::Failure;
use crate::print::Printer;
use crate::session::{distance, name, state, status};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::ListParams;
use srchat_crds::ChatSession;

/// Lists, as a table or as JSON.
pub async fn ls(
    cluster: &Cluster,
    args: args::List,
    output: args::Output,
    print: &Printer,
) -> Result<(), Failure> {
    let sessions = if args.all_namespaces {
        Api::<ChatSession>::all(cluster.client.clone())
    } else {
        cluster.sessions()
    };
    let list = sessions.list(&ListParams::default()).await;
    let list = list.map_err(|e| failed("list sessions", &e))?;
    if output == args::Output::Json {
        return print.json(&list.items);
    }
    if list.items.is_empty() {
        print.note("No sessions. `srchat run MODEL` makes one.");
        return Ok(());
    }
    let now = Timestamp::now();
    let rows = list.items.iter().map(|session| row(session, now));
    for line in table(
        std::iter::once(HEADER.map(str::to_owned)).chain(rows),
        args.all_namespaces,
    ) {
        print.line(&line)?;
    }
    Ok(())
}

const HEADER: [&str; 9] = [
    "NAMESPACE",
    "NAME",
    "MODEL",
    "GPU",
    "$/H",
    "SPENT",
    "STATE",
    "EXPIRES",
    "AGE",
];

fn row(session: &ChatSession, now: Timestamp) -> [String; 9] {
    let status = status(session);
    let none = || "-".to_owned();
    let since = session.metadata.creation_timestamp.as_ref();
    [
        session.metadata.namespace.clone().unwrap_or_default(),
        name(session).to_owned(),
        session.spec.model.to_string(),
        status.plan.map_or_else(none, |plan| plan.gpu),
        status
            .cost
            .as_ref()
            .map_or_else(none, |cost| cost.hourly.to_string()),
        status
            .cost
            .as_ref()
            .map_or_else(none, |cost| cost.accrued.to_string()),
        state(session),
        status
            .expiry
            .map_or_else(none, |expiry| distance(&expiry.time, now)),
        since.map_or_else(none, |time| distance(time, now)),
    ]
}

/// Columns as wide as what is in them, three spaces apart, as kubectl has them.
fn table(rows: impl Iterator<Item = [String; 9]>, namespaces: bool) -> Vec<String> {
    let first = usize::from(!namespaces);
    let rows: Vec<_> = rows.collect();
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0) + 3
    };
    let line = |row: &[String; 9]| {
        let cells = (first..row.len()).map(|column| format!("{:1$}", row[column], width(column)));
        cells.collect::<String>().trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_the_namespace_shows_only_when_asked_for() {
        let row = [
            "team-a",
            "qwen",
            "Qwen/Qwen3-8B",
            "L4",
            "0.49",
            "0.05",
            "Serving",
            "3h58m",
            "2m",
        ];
        let rows = || [HEADER, row].map(|row| row.map(str::to_owned)).into_iter();
        let expected = [
            "NAME   MODEL           GPU   $/H    SPENT   STATE     EXPIRES   AGE",
            "qwen   Qwen/Qwen3-8B   L4    0.49   0.05    Serving   3h58m     2m",
        ];
        assert_eq!(table(rows(), false), expected);
        assert!(table(rows(), true)[1].starts_with("team-a      qwen"));
    }
}
