//! The gateway: OpenAI-compatible HTTPS in front of the sessions' hosts. It knows routes and nothing else, and creates nothing.

pub mod body;
pub mod framing;
pub mod rebuild;
pub mod refusal;
pub mod routes;
pub mod scan;
pub mod tls;
