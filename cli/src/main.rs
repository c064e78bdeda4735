//! `srchat`: chat with a private model from a terminal.

fn main() {}
