//! Images of the machine's own programs: what a node needs before it can run any pod, and what a test runs beside srchat.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::cache;
use crate::image::layout::{self, Layout, Packing};
use crate::image::{Contents, Image};
use crate::tools;

/// The name of the image whose container holds a pod's namespaces.
pub const SANDBOX: &str = "rig.srchat.dev/sandbox:1";

/// It waits, and nothing else.
const SLEEPER: &str = "#include <unistd.h>\nint main(void) {\n\tfor (;;)\n\t\tpause();\n}\n";

/// The sandbox, compiled once.
pub(super) fn sandbox() -> Result<Image, tools::Error> {
    let key = format!("sandbox-{}", cache::fingerprint([SLEEPER.as_bytes()]));
    let folder = cache::once(&key, |folder| {
        let source = folder.join("sandbox.c");
        fs::write(&source, SLEEPER).map_err(|error| said("sandbox.c", error))?;
        let mut cc = Command::new("cc");
        cc.args(["-static", "-Os", "-s", "-o"])
            .arg(folder.join("sandbox"))
            .arg(&source);
        tools::run(&mut cc).map(drop)
    })?;
    let program = folder.join("sandbox");
    write(
        SANDBOX,
        &[(program.clone(), "sandbox".to_owned())],
        "/sandbox",
    )
    .map_err(|error| said("sandbox", error))
}

/// The operator's image as `cargo image` writes it, of the program that all other tests run: not a static one, which would take
/// minutes to compile, but with the libraries that it is linked to, and without what only a debugger reads.
///
/// # Errors
/// When one of its files cannot be read.
pub fn operator(reference: &str, program: &Path) -> Result<Image, tools::Error> {
    let failed = |error| said(&program.display().to_string(), error);
    let folder = tempfile::tempdir().map_err(failed)?;
    let stripped = folder.path().join("srchat-operator");
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&stripped).arg(program);
    tools::run(&mut strip)?;
    let mut files = Vec::new();
    for path in libraries(program)? {
        files.push((path.display().to_string(), fs::read(&path).map_err(failed)?));
    }
    crate::image::image(&Contents {
        program: fs::read(&stripped).map_err(failed)?,
        libraries: files,
        architecture: layout::architecture().to_owned(),
        reference: reference.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch: 0,
        packing: Packing::None,
    })
    .map_err(failed)
}

/// An image of a program of this machine, with the libraries that it is linked to, at the places where they are here.
///
/// # Errors
/// When one of them cannot be read.
pub fn image(reference: &str, program: &Path) -> Result<Image, tools::Error> {
    let mut files = BTreeSet::from([program.to_owned()]);
    files.extend(libraries(program)?);
    let files: Vec<_> = files
        .into_iter()
        .map(|path| {
            let name = path.display().to_string();
            (path, name.trim_start_matches('/').to_owned())
        })
        .collect();
    write(reference, &files, &program.display().to_string())
        .map_err(|error| said(&program.display().to_string(), error))
}

fn said(what: &str, source: io::Error) -> tools::Error {
    tools::Error::Run {
        command: what.to_owned(),
        source,
    }
}

/// What `ldd` names by its path; nothing for a static program, of which it says so and fails.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, tools::Error> {
    let found = match tools::run(Command::new("ldd").arg(program)) {
        Err(tools::Error::Failed { output, .. }) if output.contains("not a dynamic executable") => {
            return Ok(Vec::new());
        }
        found => found?,
    };
    let path = |line: &str| {
        let words = line.split_whitespace();
        words
            .into_iter()
            .find(|word| word.starts_with('/'))
            .map(PathBuf::from)
    };
    Ok(found.lines().filter_map(path).collect())
}

fn write(reference: &str, files: &[(PathBuf, String)], entrypoint: &str) -> io::Result<Image> {
    let mut layer = tar::Builder::new(Vec::new());
    let mut folders = BTreeSet::from(["tmp".to_owned()]);
    for (_, name) in files {
        let above = Path::new(name).ancestors().skip(1);
        folders.extend(
            above
                .map(|folder| folder.display().to_string())
                .filter(|folder| !folder.is_empty()),
        );
    }
    for folder in folders {
        layout::folder(&mut layer, &folder)?;
    }
    for (path, name) in files {
        layout::file(&mut layer, name, 0o755, &fs::read(path)?)?;
    }
    layout::write(&Layout {
        files: layer.into_inner()?,
        packing: Packing::None,
        architecture: layout::architecture(),
        reference,
        epoch: 0,
        config: json!({"Entrypoint": [entrypoint]}),
        annotations: json!({}),
    })
}
