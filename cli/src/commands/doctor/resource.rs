//! The resource ChatSession as the cluster has it beside the one that this program was built with: an older one drops what it does not
//! know.

use super::Finding;
use super::checks::{ANSWER, bad, good, unknown};
use crate::cluster::Cluster;
use kube::CustomResourceExt as _;
use serde_json::Value;
use srchat_crds::ChatSession;
use tokio::time::timeout;

/// Open to everybody who may log in, unlike the CustomResourceDefinition itself.
const SERVED: &str = "/openapi/v3/apis/srchat.dev/v1alpha1";
/// How the API server calls the kind in it: the group's labels turned round, then version and kind.
const KIND: &str = "dev.srchat.v1alpha1.ChatSession";
/// So many are named.
const NAMED: usize = 3;

/// Whether everything that this program may write or read is there; `sessions` were listed in the namespace.
pub(super) async fn compared(cluster: &Cluster, sessions: usize) -> Finding {
    const CHECK: &str = "resource";
    const DO: &str = "`kubectl explain chatsession.spec` shows what it has";
    let Ok(question) = http::Request::get(SERVED).body(Vec::new()) else {
        return unknown(CHECK, "its schema cannot be asked for", DO);
    };
    let served: Value = match timeout(ANSWER, cluster.client.request(question)).await {
        Ok(Ok(served)) => served,
        Ok(Err(error)) => return unknown(CHECK, crate::failure::chain(&error), DO),
        Err(_) => return unknown(CHECK, "its schema does not come within 10 seconds", DO),
    };
    let served = &served["components"]["schemas"][KIND];
    let crd = serde_json::to_value(ChatSession::crd()).unwrap_or_default();
    let ours = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let missing: Vec<String> = ["spec", "status"]
        .into_iter()
        .flat_map(|part| {
            let of = |schema: &Value| schema["properties"][part].clone();
            missing(part, &of(ours), &of(served))
        })
        .collect();
    if missing.is_empty() {
        let message = format!("ChatSession is known; {sessions} in this namespace");
        return good(CHECK, message);
    }
    let named = missing[..missing.len().min(NAMED)].join(", ");
    let more = match missing.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    bad(
        CHECK,
        format!("ChatSession is older than this srchat: it lacks {named}{more}"),
        "whoever runs srchat upgrades it with `helm upgrade`: the resource comes with the chart",
    )
}

/// The fields of ours that the other does not have, like `spec.limits.maxTotalCost`; what it has more is of no concern.
fn missing(path: &str, ours: &Value, served: &Value) -> Vec<String> {
    let Some(fields) = ours["properties"].as_object() else {
        // Of a list, what is in it.
        return match ours.get("items") {
            Some(items) => missing(path, items, &served["items"]),
            None => Vec::new(),
        };
    };
    fields
        .iter()
        .flat_map(|(name, field)| {
            let path = format!("{path}.{name}");
            match served["properties"].get(name) {
                Some(served) => missing(&path, field, served),
                None => vec![path],
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_other_lacks_is_named_and_what_it_has_more_is_not() {
        let ours = json!({"properties": {
            "model": {"type": "string"},
            "limits": {"properties": {"idle": {}, "maxTotalCost": {}}},
            "rejected": {"items": {"properties": {"gpu": {}, "reason": {}}}},
            "gpu": {"properties": {"count": {}}},
        }});
        let served = json!({"properties": {
            "model": {"type": "string"},
            "limits": {"properties": {"idle": {}, "tomorrow": {}}},
            "rejected": {"items": {"properties": {"gpu": {}}}},
        }});
        let mut found = missing("spec", &ours, &served);
        found.sort();
        assert_eq!(
            found,
            [
                "spec.gpu",
                "spec.limits.maxTotalCost",
                "spec.rejected.reason"
            ]
        );
        assert!(missing("spec", &ours, &ours).is_empty());
    }
}
