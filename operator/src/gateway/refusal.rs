//! Every way in which the gateway says no, in OpenAI's shape: `{"error":{"message","type","param","code"}}`.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::body::{Answer, full};
use crate::http::HEADER_BYTES;
use crate::route::Stage;

/// How much of an upload has come; the name that the IETF's draft of resumable uploads gives it.
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A head that is no request: the status that hyper gives it.
    Head(StatusCode),
    /// No such path.
    NoSuchPath,
    /// The path is known, the method is not; what is allowed.
    Method(&'static str),
    /// One answer for every failure: no token, another's, a revoked one, no such session.
    Unauthorized,
    /// A Kubernetes token, and no API server that could say whose it is.
    Unverified,
    /// The body or a parameter is wrong; `param` says which, where it is one.
    Invalid {
        /// The sentence.
        message: String,
        /// The field.
        param: Option<String>,
    },
    /// The body is larger than this many bytes.
    TooLarge(u64),
    /// The body did not come in time.
    BodyTimeout,
    /// The engine has no such thing.
    NotImplemented(&'static str),
    /// No such model.
    NoSuchModel,
    /// No such file.
    NoSuchFile,
    /// A range outside the file, whose length this is.
    Range(u64),
    /// This part begins beyond what has come of the file; how much has.
    Gap(u64),
    /// Something of this file's name has come, up to here, and it is not whole.
    Unfinished(u64),
    /// The file is being written by another request, or what is there does not fit what comes.
    Conflict(&'static str),
    /// The bytes that came are not those that were announced.
    Digest,
    /// Files may take this many bytes in all.
    OverQuota(u64),
    /// Too many requests at once with this token.
    Busy,
    /// The model does not serve yet, or no longer.
    NotServing {
        /// How far it is.
        stage: Stage,
        /// Of the stage.
        percent: Option<u8>,
    },
    /// The gateway itself has no routes or no certificate yet, or is ending.
    NotReady,
    /// The host could not be reached.
    Unreachable,
    /// The engine's own refusal.
    Engine(Box<EngineError>),
    /// The engine broke off, or answered what is not HTTP.
    EngineFailed,
    /// The engine said nothing for too long.
    EngineTimeout,
}

/// What an engine said instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineError {
    /// Its status.
    pub status: StatusCode,
    /// Its sentence.
    pub message: Option<String>,
    /// The field it is about.
    pub param: Option<String>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    message: String,
    r#type: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

impl Refusal {
    /// A field that is wrong.
    pub fn field(param: &str, message: impl Into<String>) -> Self {
        Self::Invalid {
            message: message.into(),
            param: Some(param.to_owned()),
        }
    }

    /// The status code.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Head(status) => *status,
            Self::NoSuchPath | Self::NoSuchModel | Self::NoSuchFile | Self::Unfinished(_) => {
                StatusCode::NOT_FOUND
            }
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Invalid { .. } => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Range(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Conflict(_) | Self::Gap(_) => StatusCode::CONFLICT,
            Self::Digest => StatusCode::UNPROCESSABLE_ENTITY,
            Self::OverQuota(_) => StatusCode::INSUFFICIENT_STORAGE,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::NotServing { .. } | Self::NotReady | Self::Unverified => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Engine(error) => error.status,
            Self::Unreachable | Self::EngineFailed => StatusCode::BAD_GATEWAY,
            Self::EngineTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// `type` and `code`, OpenAI's words where it has one.
    fn words(&self) -> (&'static str, Option<&'static str>) {
        const REQUEST: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        match self {
            Self::Head(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => {
                (REQUEST, Some("headers_too_large"))
            }
            Self::Head(StatusCode::URI_TOO_LONG) => (REQUEST, Some("uri_too_long")),
            Self::Head(_) => (REQUEST, Some("malformed_request")),
            Self::NoSuchPath => (REQUEST, Some("unknown_url")),
            Self::Method(_) => (REQUEST, Some("method_not_allowed")),
            Self::Unauthorized => (REQUEST, Some("invalid_api_key")),
            Self::Invalid { .. } => (REQUEST, None),
            Self::TooLarge(_) => (REQUEST, Some("request_too_large")),
            Self::BodyTimeout => (REQUEST, Some("request_timeout")),
            Self::NotImplemented(_) => (REQUEST, Some("not_implemented")),
            Self::NoSuchModel => (REQUEST, Some("model_not_found")),
            Self::NoSuchFile => (REQUEST, Some("file_not_found")),
            Self::Unfinished(_) => (REQUEST, Some("file_unfinished")),
            Self::Gap(_) => (REQUEST, Some("offset_mismatch")),
            Self::Range(_) => (REQUEST, Some("range_not_satisfiable")),
            Self::Conflict(_) => (REQUEST, Some("conflict")),
            Self::Digest => (REQUEST, Some("digest_mismatch")),
            Self::OverQuota(_) => (REQUEST, Some("quota_exceeded")),
            Self::Busy => ("rate_limit_error", Some("rate_limit_exceeded")),
            Self::NotServing { .. } => (SERVER, Some("model_not_ready")),
            Self::NotReady => (SERVER, Some("not_ready")),
            Self::Unverified => (SERVER, Some("token_unverified")),
            Self::Unreachable => (SERVER, Some("host_unreachable")),
            Self::Engine(error) if error.status.is_client_error() => (REQUEST, None),
            Self::Engine(_) => (SERVER, Some("engine_error")),
            Self::EngineFailed => (SERVER, Some("engine_failed")),
            Self::EngineTimeout => (SERVER, Some("engine_timeout")),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Head(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => {
                format!("The request's line and headers are larger than {HEADER_BYTES} bytes.")
            }
            Self::Head(StatusCode::URI_TOO_LONG) => "The request's path is too long.".into(),
            Self::Head(_) => "The request's line or headers are not HTTP/1.1.".into(),
            Self::NoSuchPath => "There is nothing at this path.".into(),
            Self::Method(allowed) => format!("This path allows {allowed} only."),
            Self::Unauthorized => "There is no such session, or the token does not open it.".into(),
            Self::Invalid { message, param: _ } => message.clone(),
            Self::TooLarge(limit) => format!("The body is larger than {limit} bytes."),
            Self::BodyTimeout => "The body did not arrive in time.".into(),
            Self::NotImplemented(what) => format!("The model of this session has no {what}."),
            Self::NoSuchModel => "This session serves one model; /v1/models names it.".into(),
            Self::NoSuchFile => "There is no such file.".into(),
            Self::Range(length) => format!("The range lies outside the file, which has {length} bytes."),
            Self::Gap(there) => format!("This part begins behind byte {there}, up to which the file has come."),
            Self::Unfinished(there) => format!("This file is not whole: {there} bytes of it have come."),
            Self::Conflict(why) => (*why).into(),
            Self::Digest => "The bytes that arrived do not have the SHA-256 that was announced; nothing was kept.".into(),
            Self::OverQuota(quota) => format!("The files of this session may take {quota} bytes in all."),
            Self::Busy => "Too many requests at once with this token.".into(),
            Self::NotServing { stage: Stage::Paused, percent: _ } => "The session is paused: nothing is rented.".into(),
            Self::NotServing { stage: Stage::Ended, percent: _ } => "The session has ended.".into(),
            Self::NotServing { stage, percent: None } => format!("The model is not serving yet: {stage}."),
            Self::NotServing { stage, percent: Some(percent) } => {
                format!("The model is not serving yet: {stage}, {percent} %.")
            }
            Self::NotReady => "The gateway is not ready.".into(),
            Self::Unverified => "The token cannot be verified at the moment: the API server does not answer.".into(),
            Self::Unreachable => "The session's host cannot be reached at the moment.".into(),
            Self::Engine(error) => error
                .message
                .clone()
                .unwrap_or_else(|| format!("The model server answered {}.", error.status)),
            Self::EngineFailed => "The model server broke off.".into(),
            Self::EngineTimeout => "The model server did not answer in time.".into(),
        }
    }

    /// After how many seconds to try again. Clients honour at most 120.
    fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Busy | Self::NotReady => Some(1),
            Self::Unreachable | Self::Unverified => Some(5),
            Self::NotServing { stage, percent: _ } => Some(match stage {
                Stage::Paused | Stage::Ended | Stage::Planning | Stage::Renting | Stage::Other => {
                    30
                }
                Stage::Booting | Stage::Installing | Stage::Downloading => 15,
                Stage::Connecting | Stage::Loading | Stage::Serving => 5,
            }),
            _ => None,
        }
    }

    /// The JSON.
    pub fn json(&self) -> Bytes {
        let (r#type, code) = self.words();
        let param = match self {
            Self::Invalid { param, message: _ } => param.as_deref(),
            Self::Engine(error) => error.param.as_deref(),
            _ => None,
        };
        let envelope = Envelope {
            error: Inner {
                message: self.message(),
                r#type,
                param,
                code,
            },
        };
        serde_json::to_vec(&envelope)
            .expect("strings serialise")
            .into()
    }

    /// The event that ends a stream that had begun; OpenAI's clients raise an error on it.
    pub fn event(&self) -> Bytes {
        let mut event = b"\n\ndata: ".to_vec();
        event.extend_from_slice(&self.json());
        event.extend_from_slice(b"\n\n");
        event.into()
    }

    /// The whole answer.
    pub fn answer(&self) -> Answer {
        let mut answer = Response::new(full(self.json()));
        *answer.status_mut() = self.status();
        let headers = answer.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        match self {
            Self::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Method(allowed) => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
            }
            Self::Range(length) => {
                let value = HeaderValue::from_maybe_shared(format!("bytes */{length}"));
                headers.insert(
                    header::CONTENT_RANGE,
                    value.expect("digits are a header value"),
                );
            }
            Self::Gap(there) | Self::Unfinished(there) => {
                headers.insert(UPLOAD_OFFSET, HeaderValue::from(*there));
            }
            _ => {}
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_refusal_has_openais_shape() {
        let json: serde_json::Value =
            serde_json::from_slice(&Refusal::field("n", "too many").json()).unwrap();
        let expected = serde_json::json!({"error": {"message": "too many", "type": "invalid_request_error", "param": "n", "code": null}});
        assert_eq!(json, expected);
    }

    #[test]
    fn before_the_model_serves_the_stage_is_named_and_a_time_to_come_back() {
        let answer = Refusal::NotServing {
            stage: Stage::Downloading,
            percent: Some(63),
        };
        assert_eq!(
            answer.message(),
            "The model is not serving yet: Downloading, 63 %."
        );
        assert_eq!(answer.answer().headers()[header::RETRY_AFTER], "15");
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn an_error_within_a_stream_is_an_event_of_its_own() {
        let event = Refusal::EngineFailed.event();
        assert!(event.starts_with(b"\n\ndata: {\"error\":") && event.ends_with(b"}\n\n"));
    }
}
