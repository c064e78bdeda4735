//! The looks themselves. Each ends in a finding, never in a failure of the whole.

use super::{Finding, resource};
use crate::cluster::Cluster;
use crate::failure::Failure;
use crate::print::Printer;
use crate::provider::{self, KEY, SECRET};
use crate::session::{name, span};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::{ListParams, PostParams};
use srchat_crds::{ChatSession, GROUP};
use std::time::Duration;

/// Renewed by the controller once a minute.
const LEASE: &str = "srchat-controller";
/// Two renewals may be late.
const RECENT: SignedDuration = SignedDuration::from_secs(150);
/// An API server that answers takes milliseconds.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

pub(super) async fn all(cluster: &Cluster, print: &Printer) -> Vec<Finding> {
    let mut findings = Vec::new();
    print.progress("looking at the cluster");
    findings.push(reached(cluster).await);
    if findings[0].ok != Some(true) {
        return findings;
    }
    let (known, sessions) = kind(cluster).await;
    findings.push(known);
    findings.push(rights(cluster).await);
    print.progress("looking for the operator");
    findings.push(operator(cluster).await);
    print.progress("trying RunPod's key");
    findings.push(key(cluster).await);
    print.progress("reaching the gateway");
    findings.push(gateway(cluster, &sessions).await);
    findings
}

pub(super) fn good(check: &'static str, message: impl Into<String>) -> Finding {
    Finding {
        check,
        ok: Some(true),
        message: message.into(),
        hint: None,
    }
}

pub(super) fn bad(
    check: &'static str,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> Finding {
    Finding {
        check,
        ok: Some(false),
        message: message.into(),
        hint: Some(hint.into()),
    }
}

pub(super) fn unknown(
    check: &'static str,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> Finding {
    Finding {
        ok: None,
        ..bad(check, message, hint)
    }
}

fn failure(check: &'static str, failure: Failure) -> Finding {
    Finding {
        check,
        ok: Some(false),
        message: failure.message,
        hint: failure.hint,
    }
}

async fn reached(cluster: &Cluster) -> Finding {
    let hint = "is it up, and are these its address and your credentials? `kubectl cluster-info`";
    match tokio::time::timeout(ANSWER, cluster.client.apiserver_version()).await {
        Ok(Ok(version)) => good(
            "cluster",
            format!(
                "Kubernetes {}, namespace {}",
                version.git_version, cluster.namespace
            ),
        ),
        Ok(Err(error)) => bad("cluster", crate::failure::chain(&error), hint),
        Err(_) => bad("cluster", "it does not answer within 10 seconds", hint),
    }
}

async fn kind(cluster: &Cluster) -> (Finding, Vec<ChatSession>) {
    match cluster.sessions().list(&ListParams::default()).await {
        Ok(list) => (
            resource::compared(cluster, list.items.len()).await,
            list.items,
        ),
        Err(error) => {
            let failed = crate::cluster::failed("list sessions", &error);
            (failure("resource", failed), Vec::new())
        }
    }
}

async fn rights(cluster: &Cluster) -> Finding {
    let mut missing = Vec::new();
    for (verb, group, resource) in [
        ("create", GROUP, "chatsessions"),
        ("watch", GROUP, "chatsessions"),
        ("delete", GROUP, "chatsessions"),
        ("get", "", "secrets"),
    ] {
        match may(cluster, verb, group, resource).await {
            Ok(true) => {}
            Ok(false) => missing.push(format!("{verb} {resource}")),
            Err(error) => {
                let message = crate::failure::chain(&error);
                return unknown(
                    "rights",
                    message,
                    "`kubectl auth can-i create chatsessions`",
                );
            }
        }
    }
    if missing.is_empty() {
        return good(
            "rights",
            "you may make, watch and delete sessions, and read their Secrets",
        );
    }
    let message = format!("you may not {}", missing.join(", "));
    let hint = format!(
        "the role srchat-user in namespace {} allows it, with `get secrets`",
        cluster.namespace
    );
    bad("rights", message, hint)
}

async fn may(cluster: &Cluster, verb: &str, group: &str, resource: &str) -> kube::Result<bool> {
    let asked = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(cluster.namespace.clone()),
                verb: Some(verb.to_owned()),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews = Api::<SelfSubjectAccessReview>::all(cluster.client.clone());
    let answer = reviews.create(&PostParams::default(), &asked).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

async fn operator(cluster: &Cluster) -> Finding {
    let namespace = cluster.system_namespace();
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), namespace);
    let lease = match leases.get_opt(LEASE).await {
        Ok(lease) => lease,
        Err(error) => {
            let message = format!(
                "its Lease cannot be read: {}",
                crate::failure::chain(&error)
            );
            let hint = "a session that gets a status within seconds shows that it runs";
            return unknown("operator", message, hint);
        }
    };
    let renewed = lease.and_then(|lease| lease.spec?.renew_time);
    seen(
        renewed.map(|time| Timestamp::now().duration_since(time.0)),
        namespace,
    )
}

fn seen(ago: Option<SignedDuration>, namespace: &str) -> Finding {
    match ago {
        Some(ago) if ago <= RECENT => good(
            "operator",
            format!("its controller said that it runs {} ago", span(ago)),
        ),
        Some(ago) => bad(
            "operator",
            format!("its controller has said nothing for {}", span(ago)),
            format!(
                "kubectl -n {namespace} get pods; kubectl -n {namespace} logs deploy/srchat-controller"
            ),
        ),
        None => bad(
            "operator",
            format!("none has ever run in namespace {namespace}"),
            "helm install srchat charts/srchat -n srchat-system --create-namespace, or --system-namespace",
        ),
    }
}

async fn key(cluster: &Cluster) -> Finding {
    let namespace = cluster.system_namespace();
    let secrets = Api::<Secret>::namespaced(cluster.client.clone(), namespace);
    let secret = match secrets.get_opt(SECRET).await {
        Ok(secret) => secret,
        Err(error) => {
            let message = format!("it cannot be read: {}", crate::failure::chain(&error));
            let hint =
                "only who administers the installation may; a session says when it is refused";
            return unknown("key", message, hint);
        }
    };
    let held = secret.and_then(|secret| secret.data?.remove(KEY));
    let Some(held) = held else {
        return bad("key", "the operator has no RunPod API key", "srchat login");
    };
    let tried = match provider::key(&String::from_utf8_lossy(&held.0)) {
        Ok(key) => provider::accepts(&key).await,
        Err(failure) => Err(failure),
    };
    match tried {
        Ok(()) => good("key", "RunPod accepts the operator's API key"),
        Err(refused) => failure("key", refused),
    }
}

async fn gateway(cluster: &Cluster, sessions: &[ChatSession]) -> Finding {
    let published = sessions
        .iter()
        .find(|session| crate::session::status(session).endpoint.is_some());
    let Some(session) = published else {
        return unknown(
            "gateway",
            "there is no session to reach it by",
            "it is tried as soon as a session of this namespace has an endpoint",
        );
    };
    let tried = match cluster.gateway(name(session)).await {
        Ok(gateway) => gateway.ready().await,
        Err(failure) => Err(failure),
    };
    match tried {
        Ok(at) => good("gateway", format!("it answers at {at}")),
        Err(failed) => failure("gateway", failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_that_is_silent_is_told_from_one_that_never_was() {
        let after = |seconds| seen(Some(SignedDuration::from_secs(seconds)), "s").ok;
        assert_eq!(
            (after(20), after(149), after(600)),
            (Some(true), Some(true), Some(false))
        );
        let never = seen(None, "srchat-system");
        assert_eq!(
            never.message,
            "none has ever run in namespace srchat-system"
        );
    }
}
