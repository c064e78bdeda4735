//! The chat as a person meets it: the real `srchat` in a terminal, against the real gateway, with an engine that says
//! what the test has written.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "terminal/world.rs"]
mod world;

#[path = "terminal/answers.rs"]
mod answers;
#[path = "terminal/history.rs"]
mod history;
#[path = "terminal/keys.rs"]
mod keys;
#[path = "terminal/pipes.rs"]
mod pipes;
#[path = "terminal/trouble.rs"]
mod trouble;
