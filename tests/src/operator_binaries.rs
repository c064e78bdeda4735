//! `srchat` and `srchat-operator`, built from the sources as they are now: neither `cargo test` nor `cargo run`
//! builds another package's programs, and a test must never run yesterday's.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tokio::sync::OnceCell;

use crate::process::without_the_callers_settings;

/// The two programs.
#[derive(Debug, Clone)]
pub struct OperatorBinaries {
    /// `srchat-operator`.
    pub operator: PathBuf,
    /// `srchat`.
    pub cli: PathBuf,
}

/// Why they could not be built.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// We are not where cargo puts what it builds.
    #[error("{} is not in a target folder of cargo's, so it cannot be told where to build", .0.display())]
    Where(PathBuf),
    /// cargo could not be run.
    #[error("could not run cargo: {0}")]
    Cargo(String),
    /// cargo said no; the reasons are on stderr.
    #[error("srchat and srchat-operator do not build")]
    Build,
}

impl OperatorBinaries {
    /// Builds them, once in a process; cargo's own lock keeps processes apart. With nothing to do this takes
    /// less than a second.
    ///
    /// # Errors
    /// When they do not build.
    pub async fn build() -> Result<OperatorBinaries, Error> {
        static BUILT: OnceCell<OperatorBinaries> = OnceCell::const_new();
        let build = || async {
            let built = tokio::task::spawn_blocking(build);
            built
                .await
                .unwrap_or_else(|error| Err(Error::Cargo(error.to_string())))
        };
        BUILT.get_or_try_init(build).await.cloned()
    }

    /// Runs `srchat` to its end: its exit code, and all that it said. Blocks, so it wants a runtime of several threads.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn srchat(
        &self,
        kubeconfig: &Path,
        arguments: &[&str],
    ) -> io::Result<(Option<i32>, String)> {
        let mut command = Command::new(&self.cli);
        without_the_callers_settings(&mut command);
        command
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null());
        let output = tokio::task::block_in_place(|| command.output())?;
        let said = [output.stdout, output.stderr].concat();
        Ok((
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        ))
    }
}

fn build() -> Result<OperatorBinaries, Error> {
    let us = std::env::current_exe().map_err(|error| Error::Cargo(error.to_string()))?;
    let place = Place::of(&us).ok_or(Error::Where(us))?;
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo told us about our own package is not about theirs.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || text.starts_with("CARGO_BIN_")
        {
            command.env_remove(&name);
        }
    }
    command
        .args([
            "build",
            "--quiet",
            "--message-format=json-render-diagnostics",
        ])
        .args(["--package=srchat-operator", "--package=srchat", "--bins"])
        .args(["--profile", &place.profile])
        .args(
            place
                .triple
                .as_ref()
                .map(|triple| format!("--target={triple}")),
        )
        .arg("--target-dir")
        .arg(&place.target)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = command
        .output()
        .map_err(|error| Error::Cargo(error.to_string()))?;
    if !output.status.success() {
        return Err(Error::Build);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = |name: &str| {
        messages
            .lines()
            .find_map(|line| executable(line, name))
            .ok_or(Error::Build)
    };
    Ok(OperatorBinaries {
        operator: executable("srchat-operator")?,
        cli: executable("srchat")?,
    })
}

/// The program that a message of cargo's announces, if it is the one of that name.
fn executable(message: &str, name: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    (message["target"]["name"] == name)
        .then(|| message["executable"].as_str().map(PathBuf::from))?
}

/// Where cargo has put us, hence where it shall put the others.
#[derive(Debug, PartialEq)]
struct Place {
    target: PathBuf,
    triple: Option<String>,
    profile: String,
}

impl Place {
    /// From `target/[triple/]profile/[deps/]program`.
    fn of(program: &Path) -> Option<Place> {
        let folder = program.parent()?;
        let of_profile = if folder.ends_with("deps") {
            folder.parent()?
        } else {
            folder
        };
        let profile = match of_profile.file_name()?.to_str()? {
            "debug" => "dev".to_owned(),
            other => other.to_owned(),
        };
        // Cargo marks the root of its target folder for backup programs.
        let target = of_profile
            .ancestors()
            .skip(1)
            .find(|folder| folder.join("CACHEDIR.TAG").is_file())?;
        let between = of_profile.parent()?.strip_prefix(target).ok()?;
        let triple = between
            .to_str()
            .filter(|triple| !triple.is_empty())
            .map(str::to_owned);
        Some(Place {
            target: target.to_owned(),
            triple,
            profile,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn others_are_built_where_we_are() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().to_owned();
        std::fs::write(target.join("CACHEDIR.TAG"), "").unwrap();
        let place = |triple: Option<&str>, profile: &str| Place {
            target: target.clone(),
            triple: triple.map(str::to_owned),
            profile: profile.to_owned(),
        };
        let of = |path: &str| Place::of(&target.join(path)).unwrap();
        assert_eq!(of("debug/deps/journeys-1f"), place(None, "dev"));
        assert_eq!(of("release/demo"), place(None, "release"));
        let triple = "aarch64-unknown-linux-musl";
        assert_eq!(
            of(&format!("{triple}/release/demo")),
            place(Some(triple), "release")
        );
    }

    #[test]
    fn a_program_outside_of_cargos_folders_cannot_say_where() {
        assert_eq!(Place::of(Path::new("/nowhere/at/all/demo")), None);
    }
}
