//! The srchat operator as a library: the binary is a thin shell around it, and the rig uses its pure parts.

pub mod args;
pub mod host;
pub mod http;
pub mod hub;
pub mod metrics;
pub mod plan;
pub mod provider;
pub mod route;
pub mod session;
pub mod ssh;
pub mod telemetry;
