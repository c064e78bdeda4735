//! The gateway as its clients meet it: TLS, tokens, the engine behind a real sshd, files; against a scripted engine.
#![allow(clippy::unwrap_used)]

#[path = "gateway/process.rs"]
mod process;
#[path = "gateway/world.rs"]
mod world;

#[path = "gateway/certificates.rs"]
mod certificates;
#[path = "gateway/chat.rs"]
mod chat;
#[path = "gateway/cluster.rs"]
mod cluster;
#[path = "gateway/door.rs"]
mod door;
#[path = "gateway/files.rs"]
mod files;
#[path = "gateway/users.rs"]
mod users;
