//! Log lines on standard error. What is logged are ids, stages and errors of ours: never a token, a key, a prompt or a file's name.

use tracing_subscriber::EnvFilter;

use crate::args::{LogFormat, TelemetryArgs};

/// Starts logging for the rest of the process.
pub fn start(args: &TelemetryArgs) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::try_new(&args.log)?
        // These print requests and packets, headers and keys among them, from `debug` on: they stay at `info` whatever is asked for.
        .add_directive("hyper=info".parse()?)
        .add_directive("h2=info".parse()?)
        .add_directive("rustls=info".parse()?)
        .add_directive("russh=info".parse()?)
        .add_directive("russh_sftp=info".parse()?)
        .add_directive("kube_client=info".parse()?);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => lines
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
