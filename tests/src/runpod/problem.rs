//! Errors as RunPod answers them: problem documents, or now and then a bare `{"error": …}`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: u16,
    pub(super) detail: String,
    pub(super) errors: Vec<String>,
    /// `{"error": …}` instead of a problem document.
    pub(super) bare: bool,
    /// A header besides: `Allow` of a 405, `Retry-After` of a 429.
    pub(super) header: Option<(header::HeaderName, String)>,
}

impl Problem {
    pub(super) fn new(status: u16, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            errors: Vec::new(),
            bare: false,
            header: None,
        }
    }

    /// 422, with what is wrong.
    pub(super) fn invalid(errors: Vec<String>) -> Self {
        Self {
            errors,
            ..Self::new(422, "Request validation failed.")
        }
    }

    pub(super) fn not_found() -> Self {
        Self::new(404, "pod not found")
    }

    pub(super) fn bare(self) -> Self {
        Self { bare: true, ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = if self.bare {
            (status, Json(json!({"error": self.detail}))).into_response()
        } else {
            let mut body = json!({
                "title": status.canonical_reason().unwrap_or("Error"),
                "status": self.status,
                "detail": self.detail,
            });
            if !self.errors.is_empty() {
                body["errors"] = json!(self.errors);
            }
            let mut response = (status, Json(body)).into_response();
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/problem+json"),
            );
            response
        };
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::try_from(value)
        {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
