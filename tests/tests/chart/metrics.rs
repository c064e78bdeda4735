//! Alerts and dashboard speak of numbers that controller and gateway really show.

use std::collections::BTreeSet;

use serde_json::Value;
use srchat_crds::Dollars;
use srchat_operator::metrics::{
    ByteLabels, Controller, Direction, Gateway, Operation, OperationLabels, OutcomeLabels,
    Registry, RequestLabels, Standing, TokenLabels, TokenType, Tunnel, TunnelLabels,
};

use crate::helm::{charts, documents, of_kind, rendered};

/// Every series name that the two processes show, each family with one member.
fn shown() -> BTreeSet<String> {
    let mut registry = Registry::default();
    let gateway = Gateway::new(&mut registry);
    let controller = Controller::new(&mut registry);
    let operation = OperationLabels {
        gen_ai_operation_name: Operation::chat,
    };
    gateway
        .request_duration
        .get_or_create(&RequestLabels {
            gen_ai_operation_name: Operation::chat,
            http_response_status_code: 200,
        })
        .observe(1.0);
    gateway
        .time_to_first_token
        .get_or_create(&operation)
        .observe(1.0);
    gateway
        .time_per_output_token
        .get_or_create(&operation)
        .observe(1.0);
    gateway
        .token_usage
        .get_or_create(&TokenLabels {
            gen_ai_operation_name: Operation::chat,
            gen_ai_token_type: TokenType::output,
        })
        .inc();
    gateway
        .bytes
        .get_or_create(&ByteLabels {
            direction: Direction::up,
        })
        .inc();
    let tunnel = TunnelLabels {
        tunnel: Tunnel::bulk,
    };
    gateway.tunnels.get_or_create(&tunnel).inc();
    gateway.connects.get_or_create(&tunnel).inc();
    gateway.connect_failures.get_or_create(&tunnel).inc();
    let outcome = OutcomeLabels { outcome: "x" };
    controller.stands(
        "uid",
        Standing {
            state: "Serving".to_owned(),
            hourly: Dollars::cents(79),
            stuck: false,
        },
    );
    controller.passes.get_or_create(&outcome).inc();
    controller.provider_calls.get_or_create(&outcome).inc();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .map(str::to_owned)
        .collect()
}

/// The names in a PromQL expression: words of ours that are no label's.
fn named(expression: &str) -> Vec<&str> {
    let labels = ["gen_ai_operation_name", "gen_ai_token_type"];
    expression
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("srchat_") || word.starts_with("gen_ai_"))
        .filter(|word| !labels.contains(word))
        .collect()
}

fn check(expressions: &[&str]) {
    let shown = shown();
    assert!(expressions.len() > 5, "{expressions:?}");
    for expression in expressions {
        let names = named(expression);
        assert!(!names.is_empty(), "{expression} is about nothing of ours");
        for name in names {
            assert!(shown.contains(name), "{name} is shown by nobody: {shown:?}");
        }
    }
}

#[tokio::test]
async fn alerts_are_about_numbers_that_exist() {
    let all = documents(&rendered(&["metrics.rules.enabled=true"]).await);
    let rules = of_kind(&all, "PrometheusRule")[0]["spec"]["groups"][0]["rules"].clone();
    let rules = rules.as_array().unwrap();
    let expressions: Vec<_> = rules
        .iter()
        .map(|rule| rule["expr"].as_str().unwrap())
        .collect();
    check(&expressions);
    for rule in rules {
        for part in ["summary", "description"] {
            let said = rule["annotations"][part].as_str().unwrap();
            assert!(said.ends_with('.'), "{}: {said}", rule["alert"]);
        }
    }
}

#[tokio::test]
async fn the_dashboard_draws_numbers_that_exist() {
    let all = documents(&rendered(&["metrics.dashboard.enabled=true"]).await);
    let maps = of_kind(&all, "ConfigMap");
    assert_eq!(maps[0]["metadata"]["labels"]["grafana_dashboard"], "1");
    let rendered = maps[0]["data"]["srchat.json"].as_str().unwrap();
    let file = std::fs::read_to_string(charts().join("srchat/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(rendered).unwrap();
    assert_eq!(dashboard, serde_json::from_str::<Value>(&file).unwrap());
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let expressions: Vec<_> = targets
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    check(&expressions);
}
