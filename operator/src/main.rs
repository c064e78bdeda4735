//! The operator: `controller`, `gateway`, `sweep`.

fn main() {}
