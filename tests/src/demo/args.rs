//! The demo's command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Parser;
use reqwest::Url;

/// Runs one session from end to end on embedded parts, without a cloud, a cluster or an account.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo demo", bin_name = "cargo demo", version)]
pub struct Arguments {
    /// Needs no terminal: asks one question, proves everything, prints one line of JSON on stdout
    #[arg(long, conflicts_with = "serve")]
    pub check: bool,
    /// The question that --check asks
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "What is the capital of France?"
    )]
    pub ask: String,
    /// Keeps the parts running and says how to use kubectl and srchat against them, until Ctrl-C
    #[arg(long)]
    pub serve: bool,
    /// Another Hub in the place of the embedded one
    #[arg(long, value_name = "URL")]
    pub hub: Option<Url>,
    /// Another simulator in the place of the embedded one: http://KEY@127.0.0.1:PORT/v2
    #[arg(long, value_name = "URL", value_parser = on_loopback)]
    pub runpod: Option<Url>,
    /// Another cluster in the place of the embedded control plane
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// A demo's memory is not made to outlive it, and real money would.
fn on_loopback(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("{error}"))?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    if loopback {
        Ok(url)
    } else {
        Err("only a simulator on loopback: a demo must not be able to spend money".to_owned())
    }
}

/// The arguments without the first `--`: the alias ends with one, and people write another.
pub fn without_one_dash_dash(arguments: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut arguments: Vec<String> = arguments.into_iter().collect();
    if arguments.get(1).is_some_and(|argument| argument == "--") {
        arguments.remove(1);
    }
    arguments
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parse(line: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(without_one_dash_dash(
            line.iter().map(|word| (*word).to_owned()),
        ))
    }

    #[test]
    fn one_leading_dash_dash_is_dropped() {
        assert!(parse(&["demo", "--", "--check"]).unwrap().check);
        assert!(parse(&["demo", "--check"]).unwrap().check);
        assert!(parse(&["demo", "--", "--", "--check"]).is_err());
    }

    #[test]
    fn only_a_simulator_on_loopback_is_taken() {
        for url in [
            "http://k@127.0.0.1:1/v2",
            "http://localhost:1",
            "http://[::1]:1/v2",
        ] {
            assert!(parse(&["demo", "--runpod", url]).is_ok(), "{url}");
        }
        for url in [
            "https://api.runpod.io/v2",
            "http://127.0.0.1.example.com/v2",
            "http://10.0.0.1/v2",
            "x",
        ] {
            assert!(parse(&["demo", "--runpod", url]).is_err(), "{url}");
        }
    }

    #[test]
    fn one_cannot_check_and_serve() {
        assert!(parse(&["demo", "--check", "--serve"]).is_err());
    }
}
