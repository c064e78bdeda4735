//! What `/metrics` shows. Names follow OpenTelemetry's GenAI conventions where those have one. Labels are closed enums only: never a
//! session's name, a prompt, a token or a file's name.

mod controller;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

pub use controller::{Controller, OutcomeLabels, ProviderCalls, Standing, StateLabels};
pub use prometheus_client::registry::Registry;

/// What a request asks for (`gen_ai.operation.name`, and what is ours).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(
    non_camel_case_types,
    reason = "these are the label's values as the conventions spell them"
)]
pub enum Operation {
    /// `/v1/chat/completions`.
    chat,
    /// `/v1/completions`.
    text_completion,
    /// `/v1/embeddings`.
    embeddings,
    /// `/v1/responses`.
    responses,
    /// `/v1/models`.
    models,
    /// `/files/`.
    files,
    /// `/logs`.
    logs,
    /// `/status`.
    status,
    /// Refused before it was known what was asked for.
    none,
}

/// The side on which tokens are counted (`gen_ai.token.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(
    non_camel_case_types,
    reason = "these are the label's values as the conventions spell them"
)]
pub enum TokenType {
    /// The prompt.
    input,
    /// The answer.
    output,
}

/// Which way bytes went, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "a label's values are lower case")]
pub enum Direction {
    /// To the host.
    up,
    /// From the host.
    down,
}

/// Which of the two connections to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "a label's values are lower case")]
pub enum Tunnel {
    /// Requests to the engine.
    interactive,
    /// Files.
    bulk,
}

/// Labels of one request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// What it asked for.
    pub gen_ai_operation_name: Operation,
    /// What it was answered.
    pub http_response_status_code: u16,
}

/// Labels of a duration within an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OperationLabels {
    /// What was asked for.
    pub gen_ai_operation_name: Operation,
}

/// Labels of counted tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TokenLabels {
    /// What was asked for.
    pub gen_ai_operation_name: Operation,
    /// Prompt or answer.
    pub gen_ai_token_type: TokenType,
}

/// Labels of counted bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByteLabels {
    /// Which way.
    pub direction: Direction,
}

/// Labels of the connections to hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TunnelLabels {
    /// Which of the two.
    pub tunnel: Tunnel,
}

/// What a gateway counts.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// From a request's headers to the answer's last byte.
    pub request_duration: Family<RequestLabels, Histogram>,
    /// From a request's headers to the first event of the engine's answer.
    pub time_to_first_token: Family<OperationLabels, Histogram>,
    /// Between two events of a streamed answer, its mean.
    pub time_per_output_token: Family<OperationLabels, Histogram>,
    /// Tokens, as the engine reports them.
    pub token_usage: Family<TokenLabels, Counter>,
    /// What we add before the engine: from a request's headers to its having been handed to the tunnel.
    pub overhead: Histogram,
    /// Bytes of files.
    pub bytes: Family<ByteLabels, Counter>,
    /// Connections to hosts that are open.
    pub tunnels: Family<TunnelLabels, Gauge>,
    /// Connections to hosts that were made.
    pub connects: Family<TunnelLabels, Counter>,
    /// Connections to hosts that could not be made.
    pub connect_failures: Family<TunnelLabels, Counter>,
    /// Sessions this gateway has a route for.
    pub routes: Gauge,
    /// Requests in hand.
    pub in_flight: Gauge,
    /// Requests refused for their token.
    pub unauthorized: Counter,
    /// When the certificate that is served expires, in Unix seconds; 0 while there is none.
    pub certificate_expires: Gauge,
}

impl Gateway {
    /// Registers everything.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            request_duration: Family::new_with_constructor(seconds),
            time_to_first_token: Family::new_with_constructor(seconds),
            time_per_output_token: Family::new_with_constructor(fractions),
            token_usage: Family::default(),
            overhead: fractions(),
            bytes: Family::default(),
            tunnels: Family::default(),
            connects: Family::default(),
            connect_failures: Family::default(),
            routes: Gauge::default(),
            in_flight: Gauge::default(),
            unauthorized: Counter::default(),
            certificate_expires: Gauge::default(),
        };
        registry.register_with_unit(
            "gen_ai_server_request_duration",
            "From a request's headers to the answer's last byte",
            Unit::Seconds,
            metrics.request_duration.clone(),
        );
        registry.register_with_unit(
            "gen_ai_server_time_to_first_token",
            "From a request's headers to the first event of the answer",
            Unit::Seconds,
            metrics.time_to_first_token.clone(),
        );
        registry.register_with_unit(
            "gen_ai_server_time_per_output_token",
            "Between two events of a streamed answer, its mean",
            Unit::Seconds,
            metrics.time_per_output_token.clone(),
        );
        registry.register(
            "gen_ai_client_token_usage",
            "Tokens, as the engine reports them",
            metrics.token_usage.clone(),
        );
        registry.register_with_unit(
            "srchat_gateway_overhead",
            "From a request's headers to its having been handed to the tunnel",
            Unit::Seconds,
            metrics.overhead.clone(),
        );
        registry.register_with_unit(
            "srchat_gateway_file",
            "Bytes of files",
            Unit::Bytes,
            metrics.bytes.clone(),
        );
        registry.register(
            "srchat_gateway_tunnels",
            "Open connections to hosts",
            metrics.tunnels.clone(),
        );
        registry.register(
            "srchat_gateway_connects",
            "Connections to hosts that were made",
            metrics.connects.clone(),
        );
        registry.register(
            "srchat_gateway_connect_failures",
            "Connections to hosts that could not be made",
            metrics.connect_failures.clone(),
        );
        registry.register(
            "srchat_gateway_routes",
            "Sessions with a route",
            metrics.routes.clone(),
        );
        registry.register(
            "srchat_gateway_requests_in_flight",
            "Requests in hand",
            metrics.in_flight.clone(),
        );
        registry.register(
            "srchat_gateway_unauthorized",
            "Requests refused for their token",
            metrics.unauthorized.clone(),
        );
        registry.register_with_unit(
            "srchat_gateway_certificate_expires",
            "When the certificate that is served expires, since the Unix epoch",
            Unit::Seconds,
            metrics.certificate_expires.clone(),
        );
        metrics
    }
}

/// Buckets of whole answers, the conventions' own.
fn seconds() -> Histogram {
    Histogram::new([
        0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
    ])
}

/// Buckets of what takes well under a second: from 50 µs.
fn fractions() -> Histogram {
    Histogram::new([
        0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
        0.5, 1.0,
    ])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let mut registry = Registry::default();
        let gateway = Gateway::new(&mut registry);
        let _controller = Controller::new(&mut registry);
        let request = RequestLabels {
            gen_ai_operation_name: Operation::chat,
            http_response_status_code: 200,
        };
        gateway
            .request_duration
            .get_or_create(&request)
            .observe(0.1);
        let labels = TokenLabels {
            gen_ai_operation_name: Operation::chat,
            gen_ai_token_type: TokenType::output,
        };
        gateway.token_usage.get_or_create(&labels).inc_by(3);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = r#"gen_ai_client_token_usage_total{gen_ai_operation_name="chat",gen_ai_token_type="output"} 3"#;
        assert!(text.contains(line), "{text}");
        assert!(
            text.contains("gen_ai_server_request_duration_seconds"),
            "{text}"
        );
    }
}
