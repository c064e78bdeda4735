//! One model folder as the Hub sees it: files, commit, who may read it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// A file beside the model's own that says what the Hub cannot see in them; it is not served.
pub const DESCRIPTION: &str = ".hub.json";

/// What [`DESCRIPTION`] may say. Everything in it goes into the answer as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Description {
    /// Licence to be accepted: `"manual"` or `"auto"`.
    gated: Option<String>,
    /// Only for those below.
    private: bool,
    disabled: bool,
    /// Tokens that may read a gated or private model.
    tokens: Vec<String>,
    pipeline_tag: Option<String>,
    library_name: Option<String>,
    tags: Vec<String>,
    config: Option<Value>,
    safetensors: Option<Value>,
    gguf: Option<Value>,
    /// SHA-256 by path, of files that are too large to be read for it every time.
    sha256: Map<String, Value>,
}

/// Who may read a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Everybody.
    Open,
    /// Everybody may see it; its files are for those who were admitted.
    Gated,
    /// Nobody else knows that it exists.
    Private,
}

/// A file of a repository.
#[derive(Debug)]
pub struct File {
    /// Path within it.
    pub path: String,
    /// Where it is on our disk.
    pub place: PathBuf,
    /// Bytes.
    pub size: u64,
    /// The name git would have for it.
    pub oid: String,
    /// For files kept outside git.
    pub sha256: Option<String>,
}

impl File {
    /// As it stands in a file list.
    pub fn entry(&self) -> Value {
        let mut entry =
            json!({ "type": "file", "path": self.path, "size": self.size, "oid": self.oid });
        if let Some(sha256) = &self.sha256 {
            entry["lfs"] = json!({ "oid": sha256, "size": self.size, "pointerSize": 135 });
        }
        entry
    }
}

/// A model.
#[derive(Debug)]
pub struct Repository {
    /// `owner/name`.
    pub id: String,
    /// The one commit it has: made from the names and contents of its files.
    pub sha: String,
    /// Who may read it.
    pub gate: Gate,
    description: Description,
    files: Vec<File>,
}

impl Repository {
    /// The repository of this name, when there is a folder for it.
    pub fn open(root: &Path, id: &str) -> Option<Self> {
        let (owner, name) = id.split_once('/')?;
        // A name is one folder below another, never a way out of them.
        let plain = |part: &str| {
            !part.is_empty() && !part.starts_with('.') && !part.contains(['/', '\\', '\0'])
        };
        if !plain(owner) || !plain(name) {
            return None;
        }
        let folder = root.join(owner).join(name);
        if !folder.is_dir() {
            return None;
        }
        let description: Description = match fs::read(folder.join(DESCRIPTION)) {
            Ok(bytes) => serde_json::from_slice(&bytes).ok()?,
            Err(_) => Description::default(),
        };
        let mut files = Vec::new();
        collect(&folder, "", &description, &mut files);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut commit = Sha256::new();
        for file in &files {
            commit.update(format!(
                "{}\0{}\0",
                file.path,
                file.sha256.as_ref().unwrap_or(&file.oid)
            ));
        }
        let sha = hex::encode(&commit.finalize()[..20]);
        let gate = match (&description.gated, description.private) {
            (_, true) => Gate::Private,
            (Some(_), false) => Gate::Gated,
            (None, false) => Gate::Open,
        };
        Some(Self {
            id: id.to_owned(),
            sha,
            gate,
            description,
            files,
        })
    }

    /// Whether there is such a revision: the commit, or the branch that every repository has.
    pub fn knows(&self, revision: &str) -> bool {
        revision == "main" || revision == self.sha
    }

    /// Whether this token may read what is not for everybody.
    pub fn admits(&self, token: Option<&str>) -> bool {
        token.is_some_and(|token| {
            self.description
                .tokens
                .iter()
                .any(|admitted| admitted == token)
        })
    }

    /// Its files.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// One of its files.
    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The description, reduced to the fields that `expand=` names, when it names any.
    pub fn info(&self, query: &str) -> Value {
        let expand: Vec<&str> = query
            .split('&')
            .filter_map(|pair| {
                pair.strip_prefix("expand=")
                    .or_else(|| pair.strip_prefix("expand%5B%5D="))
            })
            .collect();
        let of = &self.description;
        let gated = of.gated.as_ref().map_or(json!(false), |how| json!(how));
        let siblings: Vec<Value> = self
            .files
            .iter()
            .map(|file| json!({ "rfilename": file.path }))
            .collect();
        let all = json!({
            "sha": self.sha, "gated": gated, "private": of.private, "disabled": of.disabled, "tags": of.tags,
            "pipeline_tag": of.pipeline_tag, "library_name": of.library_name, "config": of.config,
            "safetensors": of.safetensors, "gguf": of.gguf, "siblings": siblings,
        });
        let mut answer = json!({ "_id": &self.sha[..24], "id": self.id });
        let usual = [
            "sha",
            "gated",
            "private",
            "disabled",
            "tags",
            "pipeline_tag",
            "library_name",
            "config",
            "siblings",
        ];
        let wanted = if expand.is_empty() {
            usual.to_vec()
        } else {
            expand
        };
        for field in wanted {
            // The Hub leaves out what it does not know.
            if let Some(value) = all.get(field).filter(|value| !value.is_null()) {
                answer[field] = value.clone();
            }
        }
        answer
    }
}

fn collect(folder: &Path, inside: &str, description: &Description, files: &mut Vec<File>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == DESCRIPTION {
            continue;
        }
        let path = format!("{inside}{name}");
        let place = entry.path();
        if place.is_dir() {
            collect(&place, &format!("{path}/"), description, files);
        } else if let Some(file) = read(path, place, description) {
            files.push(file);
        }
    }
}

fn read(path: String, place: PathBuf, description: &Description) -> Option<File> {
    let size = fs::metadata(&place).ok()?.len();
    let weights = [".gguf", ".safetensors", ".bin"]
        .iter()
        .any(|end| path.ends_with(end));
    let known = description
        .sha256
        .get(&path)
        .and_then(Value::as_str)
        .map(str::to_owned);
    let sha256 = match known {
        Some(sha256) => Some(sha256),
        None if weights || size >= super::LARGE => {
            Some(hex::encode(Sha256::digest(fs::read(&place).ok()?)))
        }
        None => None,
    };
    let oid = match &sha256 {
        Some(sha256) => sha256.get(..40)?.to_owned(),
        None => hex::encode(&Sha256::digest(fs::read(&place).ok()?)[..20]),
    };
    Some(File {
        path,
        place,
        size,
        oid,
        sha256,
    })
}
