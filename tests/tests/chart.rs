//! The chart: its CRD is the crate's, its rendered copies are its own, a wrong value is named, and a release lives on a real API
//! server. What it grants is tried in `rights.rs`.
//!
//! `SRCHAT_RENDER=1 cargo test -p srchat-tests --test chart` writes the copies anew.
#![allow(clippy::unwrap_used)]

#[path = "chart/helm.rs"]
mod helm;

#[path = "chart/linters.rs"]
mod linters;
#[path = "chart/metrics.rs"]
mod metrics;
#[path = "chart/release.rs"]
mod release;
#[path = "chart/render.rs"]
mod render;
#[path = "chart/values.rs"]
mod values;
