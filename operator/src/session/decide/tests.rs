//! Every small world settles, and what may never happen does not.

#![allow(clippy::unwrap_used)]

mod draws;
mod everywhere;
mod sentences;
