//! `cargo image`: writes the operator's image as an OCI archive, for `kind load image-archive`, `ctr images import`, `skopeo copy`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use srchat_tests::explain::causes;
use srchat_tests::image::layout::{Packing, architecture};
use srchat_tests::image::{Contents, image, program};

/// Writes the operator's image: a static program, certificate authorities, a user. Needs no Docker.
#[derive(Parser)]
#[command(name = "cargo image", bin_name = "cargo image", version)]
struct Args {
    /// Where to write the archive
    #[arg(long, default_value = "target/srchat-operator.tar")]
    output: PathBuf,
    /// Name and tag that the image is taken in by
    #[arg(long, default_value = concat!("docker.io/srchat/srchat-operator:", env!("CARGO_PKG_VERSION")))]
    reference: String,
    /// Seconds since 1970 that everything is dated to
    #[arg(long, env = "SOURCE_DATE_EPOCH", default_value_t = 0)]
    epoch: u64,
}

fn main() -> ExitCode {
    match write(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {}", causes(&*error));
            ExitCode::FAILURE
        }
    }
}

fn write(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("the repository has no root")?;
    let (path, bytes) = program(repository)?;
    let image = image(&Contents {
        program: bytes,
        libraries: Vec::new(),
        architecture: architecture().to_owned(),
        reference: args.reference.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch: args.epoch,
        packing: Packing::Gzip,
    })?;
    let output = repository.join(&args.output);
    std::fs::write(&output, &image.archive)?;
    writeln!(
        io::stdout(),
        "{}: {} bytes, from {}\n{}@{}",
        output.display(),
        image.archive.len(),
        path.display(),
        args.reference,
        image.digest
    )?;
    Ok(())
}
