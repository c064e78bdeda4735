//! Whether the cluster kept all that was wished: a resource of an older release drops the fields that it does not know, and a limit that
//! is dropped in silence is none.

use crate::cluster::{Cluster, failed};
use crate::failure::{Code, Failure};
use crate::session::name;
use serde_json::Value;
use srchat_crds::{ChatSession, ChatSessionSpec};

/// The session as it was made, if all that was wished is in it; otherwise it is taken back, and has rented nothing.
pub(super) async fn whole(
    cluster: &Cluster,
    wished: &ChatSessionSpec,
    made: ChatSession,
) -> Result<ChatSession, Failure> {
    let Some(field) = lost(wished, &made.spec) else {
        return Ok(made);
    };
    let (sessions, params) = (cluster.sessions(), Default::default());
    sessions
        .delete(name(&made), &params)
        .await
        .map_err(|error| failed("take the session back", &error))?;
    Err(Failure::new(
        Code::Error,
        format!("the resource ChatSession of this cluster does not know {field}, and would have dropped it"),
    )
    .hint("whoever runs srchat upgrades it: the resource comes with the chart; `srchat doctor` says what else it lacks"))
}

/// The first field that is not as it was wished, like `spec.limits.maxTotalCost`.
fn lost(wished: &ChatSessionSpec, made: &ChatSessionSpec) -> Option<String> {
    let value = |spec| serde_json::to_value(spec).unwrap_or_default();
    differing("spec", &value(wished), &value(made))
}

fn differing(path: &str, wished: &Value, made: &Value) -> Option<String> {
    match wished {
        Value::Object(fields) => fields.iter().find_map(|(name, wished)| {
            let made = made.get(name).unwrap_or(&Value::Null);
            differing(&format!("{path}.{name}"), wished, made)
        }),
        _ => (wished != made).then(|| path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use srchat_crds::Dollars;

    #[test]
    fn a_limit_that_was_dropped_is_named_and_a_spec_that_was_kept_is_whole() {
        let mut wished = ChatSessionSpec::of("acme/tiny".parse().unwrap());
        wished.limits.max_total_cost = Some(Dollars::cents(300));
        assert_eq!(lost(&wished, &wished), None);
        let mut made = wished.clone();
        made.limits.max_total_cost = None;
        assert_eq!(
            lost(&wished, &made).as_deref(),
            Some("spec.limits.maxTotalCost")
        );
        // What the other has more is its own default.
        assert_eq!(lost(&made, &wished), None);
    }
}
