//! What the chart renders to.

use std::fs;
use std::path::Path;

use kube::CustomResourceExt;
use serde_json::{Value, json};
use srchat_crds::ChatSession;

use crate::helm::{charts, documents, helm, of_kind, rendered, rendered_with_hooks};

/// Compares a file with what it should be, or writes it when that is asked for.
fn in_step(path: &Path, expected: &str) {
    if std::env::var_os("SRCHAT_RENDER").is_some() {
        fs::write(path, expected).unwrap();
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    let differs = found
        .lines()
        .zip(expected.lines())
        .position(|(found, expected)| found != expected);
    assert!(
        found == expected,
        "{} is not in step (line {:?}): run SRCHAT_RENDER=1 cargo test -p srchat-tests --test chart",
        path.display(),
        differs.map(|line| line + 1)
    );
}

#[test]
fn the_crd_is_the_crates() {
    let expected = serde_saphyr::to_string(&ChatSession::crd()).unwrap();
    in_step(&charts().join("srchat/templates/crd.yaml"), &expected);
}

#[tokio::test]
async fn the_rendered_copies_are_the_charts() {
    let all = rendered(&["createNamespace=true"]).await;
    let (stays, operator): (Vec<&str>, Vec<&str>) = all
        .trim_start_matches("---\n")
        .split("\n---\n")
        .partition(|document| {
            let source = document.lines().next().unwrap_or_default();
            source.ends_with("/crd.yaml") || source.ends_with("/namespaces.yaml")
        });
    let file = |head: &str, documents: &[&str]| {
        let documents: Vec<_> = documents
            .iter()
            .map(|document| document.trim_end())
            .collect();
        format!("{head}---\n{}\n", documents.join("\n---\n"))
    };
    in_step(
        &charts().join("rendered/stays.yaml"),
        &file(
            "# Rendered from charts/srchat. Apply first, and keep: deleting it deletes every session.\n",
            &stays,
        ),
    );
    in_step(
        &charts().join("rendered/operator.yaml"),
        &file(
            "# Rendered from charts/srchat. Apply after stays.yaml.\n",
            &operator,
        ),
    );
}

#[tokio::test]
async fn helm_finds_nothing_to_complain_about() {
    let output = helm(&["lint", "--strict", "srchat"]).await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[tokio::test]
async fn what_stays_is_kept_on_uninstall() {
    for document in documents(&rendered(&["createNamespace=true"]).await) {
        let kept = document["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep";
        let stays =
            ["CustomResourceDefinition", "Namespace"].contains(&document["kind"].as_str().unwrap());
        assert_eq!(kept, stays, "{}", document["metadata"]["name"]);
    }
}

#[tokio::test]
async fn watched_namespaces_narrow_the_rights_on_secrets_and_nothing_else() {
    let bindings = |yaml: &str, kind: &str| -> Vec<(String, String)> {
        documents(yaml)
            .iter()
            .filter(|document| document["kind"] == kind)
            .map(|document| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                (
                    text(&document["metadata"]["namespace"]),
                    text(&document["roleRef"]["name"]),
                )
            })
            .collect()
    };
    let pair = |namespace: &str, role: &str| (namespace.to_owned(), role.to_owned());
    let everywhere = rendered(&[]).await;
    assert!(
        bindings(&everywhere, "ClusterRoleBinding")
            .contains(&pair("", "srchat-controller-tenants"))
    );

    let narrowed = rendered(&["watchNamespaces={team-a,team-b}"]).await;
    assert_eq!(
        bindings(&narrowed, "ClusterRoleBinding"),
        [pair("", "srchat-controller"), pair("", "srchat-gateway")],
        "sessions stay visible everywhere, so that a namespace can be deleted"
    );
    let in_namespaces = bindings(&narrowed, "RoleBinding");
    for namespace in ["team-a", "team-b"] {
        assert!(in_namespaces.contains(&pair(namespace, "srchat-controller-tenants")));
    }
}

/// Everything that can be turned on, at once.
const ALL: [&str; 16] = [
    "createNamespace=true",
    "priorityClass.create=true",
    "ingress.enabled=true",
    "ingress.host=chat.example",
    "gatewayApi.enabled=true",
    "gatewayApi.hostnames={chat.example}",
    "gatewayApi.parentRefs[0].name=public",
    "gateway.url=https://chat.example:8443/base",
    "gateway.kubernetesTokens=true",
    "gateway.tls.certManager.enabled=true",
    "gateway.tls.certManager.issuerRef.name=issuer",
    "metrics.serviceMonitor.enabled=true",
    "metrics.serviceMonitor.labels.release=prometheus",
    "metrics.rules.enabled=true",
    "metrics.dashboard.enabled=true",
    "uninstall.drain=true",
];

#[tokio::test]
async fn every_pod_gives_up_what_it_does_not_need() {
    let all = documents(&rendered_with_hooks(&ALL).await);
    let mut pods = of_kind(&all, "Deployment");
    pods.extend(of_kind(&all, "Job"));
    assert_eq!(pods.len(), 3);
    for pod in &pods {
        let name = &pod["metadata"]["name"];
        let spec = &pod["spec"]["template"]["spec"];
        assert_eq!(
            spec["securityContext"],
            json!({
                "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            }),
            "{name}"
        );
        assert_eq!(spec["priorityClassName"], "srchat", "{name}");
        for container in spec["containers"].as_array().unwrap() {
            assert_eq!(
                container["securityContext"],
                json!({
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                }),
                "{name}"
            );
            for bound in ["requests", "limits"] {
                assert!(
                    container["resources"][bound]["memory"].is_string(),
                    "{name}"
                );
            }
        }
    }
    for deployment in of_kind(&all, "Deployment") {
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        for probe in ["livenessProbe", "readinessProbe"] {
            assert!(container[probe]["httpGet"].is_object());
        }
    }
    for account in of_kind(&all, "ServiceAccount") {
        assert_eq!(account["automountServiceAccountToken"], false);
    }
}

#[tokio::test]
async fn gateways_are_spread_and_not_all_taken_away_at_once() {
    let two = documents(&rendered(&["gateway.replicas=2"]).await);
    let budget = &of_kind(&two, "PodDisruptionBudget")[0];
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    let gateway = of_kind(&two, "Deployment").into_iter();
    let gateway = gateway
        .into_iter()
        .find(|document| document["metadata"]["name"] == "srchat-gateway")
        .unwrap();
    let spread = &gateway["spec"]["template"]["spec"]["topologySpreadConstraints"];
    for constraint in spread.as_array().unwrap() {
        assert_eq!(
            constraint["labelSelector"]["matchLabels"], budget["spec"]["selector"]["matchLabels"],
            "both mean the gateways"
        );
    }
    // With one, a budget could only hold a node's drain up for ever.
    let one = documents(&rendered(&["gateway.replicas=1"]).await);
    assert!(of_kind(&one, "PodDisruptionBudget").is_empty());
}

#[tokio::test]
async fn what_is_off_is_not_rendered_and_what_is_on_is() {
    let optional = [
        "PriorityClass",
        "Ingress",
        "TLSRoute",
        "Certificate",
        "ServiceMonitor",
        "PrometheusRule",
    ];
    let (usual, all) = (
        documents(&rendered(&[]).await),
        documents(&rendered(&ALL).await),
    );
    for kind in optional {
        assert!(of_kind(&usual, kind).is_empty(), "{kind}");
        assert_eq!(of_kind(&all, kind).len(), 1, "{kind}");
    }
    let certificate = &of_kind(&all, "Certificate")[0];
    assert_eq!(certificate["metadata"]["namespace"], "srchat-sessions");
    assert_eq!(certificate["spec"]["dnsNames"][0], "chat.example");
    let environment = |process: &str| -> Vec<Value> {
        let deployments = of_kind(&all, "Deployment");
        let found = deployments
            .iter()
            .find(|document| document["metadata"]["name"] == process);
        found.unwrap()["spec"]["template"]["spec"]["containers"][0]["env"]
            .as_array()
            .unwrap()
            .clone()
    };
    let secret = &certificate["spec"]["secretName"];
    assert!(
        environment("srchat-gateway")
            .contains(&json!({"name": "SRCHAT_TLS_SECRET", "value": secret}))
    );
    assert!(
        environment("srchat-controller")
            .contains(&json!({"name": "SRCHAT_GATEWAY_CA", "value": ""})),
        "the own authority is not published beside another certificate"
    );
}

#[tokio::test]
async fn the_uninstallation_may_look_and_only_when_told_so_delete() {
    for (settings, verbs) in [
        (&[][..], json!(["list"])),
        (&["uninstall.drain=true"][..], json!(["list", "delete"])),
    ] {
        let with = documents(&rendered_with_hooks(settings).await);
        let hooks: Vec<_> = with
            .iter()
            .filter(|document| document["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete")
            .cloned()
            .collect();
        assert_eq!(hooks.len(), 6);
        let roles = of_kind(&hooks, "ClusterRole");
        assert_eq!(
            roles[0]["rules"],
            json!([{"apiGroups": ["srchat.dev"], "resources": ["chatsessions"], "verbs": verbs}])
        );
        let roles = of_kind(&hooks, "Role");
        assert_eq!(
            roles[0]["rules"],
            json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}])
        );
        for hook in &hooks {
            assert_eq!(
                hook["metadata"]["annotations"]["helm.sh/hook-delete-policy"],
                "before-hook-creation,hook-succeeded",
                "their rights end with them"
            );
        }
    }
}

#[tokio::test]
async fn policies_let_in_clients_and_let_out_to_the_internet() {
    let all = documents(
        &rendered(&["networkPolicy.clients[0].namespaceSelector.matchLabels.chat=yes"]).await,
    );
    let policies = of_kind(&all, "NetworkPolicy");
    let of = |name: &str| {
        policies
            .iter()
            .find(|policy| policy["metadata"]["name"] == name)
            .unwrap()["spec"]
            .clone()
    };
    let (controller, gateway) = (of("srchat-controller"), of("srchat-gateway"));
    assert_eq!(
        controller["ingress"],
        json!([{"ports": [{"port": "metrics"}]}])
    );
    assert_eq!(
        gateway["ingress"][0],
        json!({
            "ports": [{"port": "https"}],
            "from": [{"namespaceSelector": {"matchLabels": {"chat": "yes"}}}],
        })
    );
    for policy in [controller, gateway] {
        assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]));
        let anywhere = &policy["egress"][2];
        assert!(anywhere["ports"].is_null(), "a host's sshd is at any port");
        let except = anywhere["to"][0]["ipBlock"]["except"].as_array().unwrap();
        for private in ["10.0.0.0/8", "169.254.0.0/16"] {
            assert!(except.contains(&json!(private)));
        }
    }
}
