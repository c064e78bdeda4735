//! `cargo demo`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Several libraries would each choose a provider of their own; who came first has nothing to fear.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    srchat_tests::demo::run(std::env::args())
}
