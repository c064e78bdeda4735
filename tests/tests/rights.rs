//! Who may do what, tried: every row is a real request with a real token to a real API server, on the manifests as they are
//! rendered. A refused row is first shown to be possible for an administrator, so that a misspelt one cannot pass.
#![allow(clippy::unwrap_used)]

#[path = "rights/caller.rs"]
mod caller;
#[path = "rights/stage.rs"]
mod stage;

#[path = "rights/controller.rs"]
mod controller;
#[path = "rights/gateway.rs"]
mod gateway;
#[path = "rights/people.rs"]
mod people;
#[path = "rights/tenants.rs"]
mod tenants;
