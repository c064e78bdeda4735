//! The srchat operator as a library: the binary is a thin shell around it, and the rig uses its pure parts.

pub mod account;
pub mod args;
pub mod backoff;
pub mod gateway;
pub mod host;
pub mod http;
pub mod hub;
pub mod installation;
pub mod lease;
pub mod metrics;
pub mod ours;
pub mod plan;
pub mod provider;
pub mod publish;
pub mod receipt;
pub mod route;
pub mod session;
pub mod ssh;
pub mod sweep;
pub mod telemetry;
pub mod uninstall;
