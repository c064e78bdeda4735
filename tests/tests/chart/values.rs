//! Values: each is described, each wrong one is refused by its name.

use std::fs;

use serde_json::Value;

use crate::helm::{arguments, charts, helm};

#[tokio::test]
async fn a_value_that_is_mistyped_is_refused_by_its_name() {
    for (setting, named) in [
        ("gatway.url=https://x", "gatway"),
        ("gateway.repicas=2", "repicas"),
        ("gateway.url=http://plain.example", "url"),
        ("gateway.replicas=many", "replicas"),
        ("image.digest=latest", "digest"),
        ("sessionsNamespace=No_Name", "sessionsNamespace"),
        ("watchNamespaces=team-a", "watchNamespaces"),
        ("gateway.service.port=70000", "port"),
        ("gateway.kubernetesTokens=yes", "kubernetesTokens"),
        ("controller.runpodUrl=api.runpod.io", "runpodUrl"),
        ("networkPolicy.egress.except={private}", "except"),
        (
            "gateway.podDisruptionBudget.maxUnavailable=0",
            "maxUnavailable",
        ),
        ("uninstall.drian=true", "drian"),
        ("uninstall.timeoutSeconds=5", "timeoutSeconds"),
        ("metrics.rules.hourlyDollars=much", "hourlyDollars"),
    ] {
        let output = helm(&arguments("template", &[setting])).await;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && complaint.contains(named),
            "{setting}: {complaint}"
        );
    }
}

#[tokio::test]
async fn every_value_has_its_place_in_the_schema() {
    fn check(values: &Value, schema: &Value, path: &str) {
        for (name, value) in values.as_object().into_iter().flatten() {
            let property = &schema["properties"][name];
            assert!(
                !property.is_null(),
                "{path}{name} is not in values.schema.json"
            );
            if property.get("properties").is_some() {
                check(value, property, &format!("{path}{name}."));
            }
        }
    }
    let read = |file: &str| fs::read_to_string(charts().join("srchat").join(file)).unwrap();
    let values: Value = serde_saphyr::from_str(&read("values.yaml")).unwrap();
    check(
        &values,
        &serde_json::from_str(&read("values.schema.json")).unwrap(),
        "",
    );
}

#[tokio::test]
async fn the_sessions_namespace_is_nobody_elses() {
    for setting in [
        "sessionsNamespace=srchat-system",
        "watchNamespaces={srchat-sessions}",
    ] {
        let output = helm(&arguments("template", &[setting])).await;
        assert!(!output.status.success(), "{setting} was accepted");
    }
}

#[tokio::test]
async fn what_needs_another_value_says_which() {
    for (setting, named) in [
        ("ingress.enabled=true", "ingress.host"),
        ("gatewayApi.enabled=true", "gatewayApi.hostnames"),
        ("gateway.tls.certManager.enabled=true", "gateway.url"),
    ] {
        let output = helm(&arguments("template", &[setting])).await;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && complaint.contains(named),
            "{setting}: {complaint}"
        );
    }
}

#[test]
fn every_value_is_described_in_a_sentence() {
    fn check(schema: &Value, path: &str) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}{name}");
            let said = property["description"].as_str().unwrap_or_default();
            assert!(
                said.len() > 8 && said.ends_with('.'),
                "{path} is described as {said:?}"
            );
            check(property, &format!("{path}."));
            check(&property["items"], &format!("{path}[]."));
        }
    }
    let text = fs::read_to_string(charts().join("srchat/values.schema.json")).unwrap();
    check(&serde_json::from_str(&text).unwrap(), "");
}
