//! The program of the image: the operator, built so that it needs no file of any system.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why there is no program.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Cargo or the compiler could not be run.
    #[error("could not run {0}")]
    Run(&'static str, #[source] io::Error),
    /// It did not build; the compiler has said why.
    #[error("the operator does not build")]
    Build,
    /// The program could not be read.
    #[error("could not read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// It would need a loader that the image has not.
    #[error("{} is linked to libraries of this system", .0.display())]
    Linked(PathBuf),
}

/// The operator as a static program for this machine's processor, release profile, and where it stands. Paths of this machine are
/// kept out of it, so that two machines with the same compiler make the same one.
///
/// # Errors
/// When it does not build, or is not static.
pub fn program(repository: &Path) -> Result<(PathBuf, Vec<u8>), Error> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let folder = repository.join("target");
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
        .unwrap_or_default();
    let places = [(repository, "/srchat"), (&home, "/cargo")];
    let mapped = |flag: &str| -> Vec<String> {
        places
            .iter()
            .map(|(from, to)| format!("{flag}={}={to}", from.display()))
            .collect()
    };
    // glibc's own static form: its resolver needs no plug-ins for files and DNS since 2.34.
    let mut rust = vec!["-Ctarget-feature=+crt-static".to_owned()];
    rust.extend(mapped("--remap-path-prefix"));
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args([
            "build",
            "--release",
            "--locked",
            "--package=srchat-operator",
        ])
        .args(["--bin=srchat-operator", &format!("--target={target}")])
        .arg("--target-dir")
        .arg(&folder)
        .current_dir(repository)
        // Separated by a byte that no path has.
        .env("CARGO_ENCODED_RUSTFLAGS", rust.join("\u{1f}"))
        .env("CFLAGS", mapped("-ffile-prefix-map").join(" "))
        .stdin(Stdio::null());
    let built = command
        .status()
        .map_err(|error| Error::Run("cargo", error))?;
    if !built.success() {
        return Err(Error::Build);
    }
    let path = folder.join(target).join("release/srchat-operator");
    let program = std::fs::read(&path).map_err(|error| Error::Read(path.clone(), error))?;
    if is_static(&program) {
        Ok((path, program))
    } else {
        Err(Error::Linked(path))
    }
}

/// Whether an ELF program of 64 bits asks for no loader: it has no program header of type `PT_INTERP` (ELF-64 object file format,
/// version 1.5, figure 6).
pub fn is_static(program: &[u8]) -> bool {
    const INTERPRETER: u32 = 3;
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(program.get(at..at.checked_add(bytes)?)?);
        Some(u64::from_le_bytes(value))
    };
    let headers = || -> Option<Vec<u64>> {
        // Offset, size and count of the program headers.
        let (from, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
        (0..count)
            .map(|which| number(usize::try_from(from.checked_add(which * size)?).ok()?, 4))
            .collect()
    };
    // Little-endian, 64 bits.
    program.starts_with(b"\x7fELF\x02\x01")
        && headers()
            .is_some_and(|types| !types.is_empty() && !types.contains(&u64::from(INTERPRETER)))
}
