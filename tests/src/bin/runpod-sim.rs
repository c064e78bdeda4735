//! The RunPod simulator as a server of its own: prints where it is, and serves until Ctrl-C.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
};

use clap::{Parser, ValueEnum};
use srchat_tests::{
    hosts::Hosts,
    model,
    runpod::{Boot, Clock, Images, Limits, Options, Simulator},
};

/// Simulates RunPod's REST v2. What runs in its pods is real, unless --hosts none.
#[derive(Parser)]
struct Args {
    /// Port of the API on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Port of the ledger and the switches on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    ledger_port: u16,
    /// The account's key; a random one unless given.
    #[arg(long)]
    key: Option<String>,
    /// Pods start as slowly as RunPod's.
    #[arg(long)]
    real_boot: bool,
    /// No rate limit.
    #[arg(long)]
    unlimited: bool,
    /// Lists come in pages of this many pods.
    #[arg(long)]
    page: Option<usize>,
    /// A pod's own key may not end it.
    #[arg(long)]
    own_key_may_not_delete: bool,
    /// What runs in a pod.
    #[arg(long, value_enum, default_value_t = Mode::Real)]
    hosts: Mode,
    /// Loopback addresses that pods can reach besides the API, such as the Hub's.
    #[arg(long)]
    reach: Vec<SocketAddr>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// The start command, with a real sshd, in the best isolation this machine gives. Every image ships the rig's engines.
    Real,
    /// Nothing.
    None,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let mut images = Images::default();
    let hosts = match args.hosts {
        Mode::Real => {
            let engines = tokio::task::spawn_blocking(model::engines).await??;
            images.put_on_path("", &engines.path(), &engines.visible);
            Hosts::real().await?
        }
        Mode::None => Hosts::None,
    };
    let simulator = Simulator::start(Options {
        hosts,
        clock: Clock::running(),
        boot: if args.real_boot {
            Boot::real()
        } else {
            Boot::quick()
        },
        key: args.key,
        limits: (!args.unlimited).then(Limits::default),
        images,
        reach: args.reach,
        page: args.page,
        own_key_may_delete: !args.own_key_may_not_delete,
        listen: (Ipv4Addr::LOCALHOST, args.port).into(),
        listen_ledger: (Ipv4Addr::LOCALHOST, args.ledger_port).into(),
    })
    .await?;
    let lines = [
        ("RUNPOD_API_URL", simulator.url()),
        ("RUNPOD_API_KEY", simulator.key()),
        ("SRCHAT_SIM_LEDGER_URL", simulator.ledger_url()),
    ];
    let mut out = io::stdout().lock();
    for (name, value) in lines {
        writeln!(out, "export {name}='{value}'")?;
    }
    writeln!(out, "# isolation: {}", simulator.isolation())?;
    out.flush()?;
    drop(out);
    tokio::signal::ctrl_c().await?;
    simulator.stop().await;
    Ok(())
}
