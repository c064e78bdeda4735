//! What is counted of one request, from its head to the last byte of its answer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body, Frame, SizeHint};

use super::body::AnswerBody;
use super::framing::Answering;
use super::scan::Usage;
use crate::metrics::{Gateway, Operation, OperationLabels, RequestLabels, TokenLabels, TokenType};

/// One request. Its end is counted when this is dropped, however the request ends.
pub struct Meter {
    /// When its head had been read.
    pub started: Instant,
    metrics: Gateway,
    operation: Operation,
    status: StatusCode,
}

impl Meter {
    /// Starts to count.
    pub fn start(metrics: &Gateway) -> Self {
        metrics.in_flight.inc();
        Self {
            started: Instant::now(),
            metrics: metrics.clone(),
            operation: Operation::none,
            status: StatusCode::OK,
        }
    }

    /// Once it is known what is asked for.
    pub fn asks_for(&mut self, operation: Operation) {
        self.operation = operation;
    }

    /// Once it is known what is answered.
    pub fn answers(&mut self, status: StatusCode) {
        self.status = status;
    }

    /// A request was handed to the tunnel.
    pub fn handed_over(&self) {
        self.metrics
            .overhead
            .observe(self.started.elapsed().as_secs_f64());
    }

    /// For what is counted while the answer passes.
    pub fn tokens(&self) -> Tokens {
        Tokens {
            started: self.started,
            first: None,
            last: None,
            metrics: self.metrics.clone(),
            operation: self.operation,
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        let labels = RequestLabels {
            gen_ai_operation_name: self.operation,
            http_response_status_code: self.status.as_u16(),
        };
        self.metrics
            .request_duration
            .get_or_create(&labels)
            .observe(self.started.elapsed().as_secs_f64());
    }
}

/// Times and tokens of one answer.
pub struct Tokens {
    started: Instant,
    first: Option<Instant>,
    last: Option<Instant>,
    metrics: Gateway,
    operation: Operation,
}

impl Tokens {
    /// Something has arrived.
    pub fn arrived(&mut self) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// The answer has ended.
    pub fn ended(&self, usage: Option<Usage>, events: u64) {
        let labels = OperationLabels {
            gen_ai_operation_name: self.operation,
        };
        if let (Some(first), Some(last)) = (self.first, self.last) {
            self.metrics
                .time_to_first_token
                .get_or_create(&labels)
                .observe((first - self.started).as_secs_f64());
            if events > 1 {
                let mean = (last - first).as_secs_f64() / (events - 1) as f64;
                self.metrics
                    .time_per_output_token
                    .get_or_create(&labels)
                    .observe(mean);
            }
        }
        if let Some(usage) = usage {
            for (gen_ai_token_type, count) in [
                (TokenType::input, usage.input_tokens),
                (TokenType::output, usage.output_tokens),
            ] {
                let labels = TokenLabels {
                    gen_ai_operation_name: self.operation,
                    gen_ai_token_type,
                };
                self.metrics
                    .token_usage
                    .get_or_create(&labels)
                    .inc_by(count);
            }
        }
    }
}

/// An answer's body together with its meter.
pub struct Metered {
    body: AnswerBody,
    _meter: Meter,
    _answering: Answering,
}

impl Metered {
    /// Ties them together.
    pub fn new(body: AnswerBody, meter: Meter, answering: Answering) -> Self {
        Self {
            body,
            _meter: meter,
            _answering: answering,
        }
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
