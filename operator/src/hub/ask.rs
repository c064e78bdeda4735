//! One question to the Hub: the calls it takes, what is made of the answers, and what refusals mean in words.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use hf_hub::{HFError, HFRepository, RepoTypeModel};
use reqwest::{StatusCode, header::HeaderMap};
use serde::Deserialize;
use serde_json::Value;
use srchat_crds::ModelId;

use super::{Error, Facts, File, Hub, LONGEST_PAUSE, Stored, Token, gguf, shape};

/// After a 429 that does not say how long: a tenth of the Hub's window of five minutes.
const UNSAID_PAUSE: Duration = Duration::from_secs(30);
/// A `config.json` is a few KiB; a larger one was not written by a library.
const LARGEST_CONFIG: u64 = 1 << 20;
/// Pages of a thousand files: more than any model has.
const MOST_PAGES: usize = 20;

/// The fields that are asked for: naming any of them replaces the Hub's own selection.
const EXPAND: [&str; 10] = [
    "sha",
    "gated",
    "private",
    "disabled",
    "pipeline_tag",
    "library_name",
    "tags",
    "config",
    "safetensors",
    "gguf",
];

/// One question to the Hub and all that it takes to answer it.
pub(super) struct Asking<'a> {
    pub(super) hub: &'a Hub,
    pub(super) model: &'a ModelId,
    pub(super) token: Option<&'a Token>,
    pub(super) repository: HFRepository<RepoTypeModel>,
}

/// What the first call tells.
pub(super) struct Found {
    pub(super) id: String,
    pub(super) sha: String,
    pub(super) gated: bool,
    pipeline: Option<String>,
    parameters: BTreeMap<String, u64>,
    /// The Hub's extract of `config.json` and `tokenizer_config.json`.
    config: Value,
    gguf: Value,
}

impl Asking<'_> {
    pub(super) async fn info(&self) -> Result<Found, Error> {
        let expand = EXPAND.map(str::to_owned).to_vec();
        let revision = self.model.revision().unwrap_or("main");
        let info = match self
            .repository
            .info()
            .revision(revision)
            .expand(expand)
            .send()
            .await
        {
            Ok(info) => info,
            Err(HFError::RateLimited {
                retry_after: None, ..
            }) => return Err(self.limit(revision).await),
            Err(error) => return Err(self.explain(error)),
        };
        if info.disabled == Some(true) {
            return Err(Error::Unsupported(format!(
                "the Hub has disabled {}",
                self.model.repository()
            )));
        }
        let sha = info
            .sha
            .filter(|sha| is_sha(sha))
            .ok_or_else(|| Error::unavailable("it named no commit"))?;
        Ok(Found {
            // Renamed and differently spelled repositories are served under their new name; the id comes back as it is now.
            id: info.id.parse::<ModelId>().map_or_else(
                |_| self.model.repository().to_owned(),
                |id| id.repository().to_owned(),
            ),
            sha,
            gated: !matches!(info.gated, None | Some(Value::Null | Value::Bool(false))),
            pipeline: info.pipeline_tag,
            parameters: info
                .safetensors
                .map(|counted| counted.parameters.into_iter().collect())
                .unwrap_or_default(),
            config: info.config.unwrap_or_default(),
            gguf: info.gguf.unwrap_or_default(),
        })
    }

    /// Reads what lies behind a commit: its file list, `config.json` and the start of a GGUF file.
    pub(super) async fn read(&self, found: &Found) -> Result<Facts, Error> {
        let files = self.files(&found.sha).await?;
        let gguf = gguf::pick(&files, self.model.variant())
            .map_err(|variants| self.no_variant(&variants))?;
        if gguf.is_none() && self.model.variant().is_some() {
            return Err(Error::NotFound(format!(
                "{} has no GGUF files, so no variant can be picked",
                self.model.repository()
            )));
        }
        let has = |path: &str| files.iter().find(|file| file.path == path);
        let config = match has("config.json") {
            Some(file) if file.size > LARGEST_CONFIG => {
                return Err(Error::Unsupported(format!(
                    "config.json of {} is too large to be one",
                    self.model.repository()
                )));
            }
            Some(_) => Some(
                self.bytes(&found.sha, "config.json", LARGEST_CONFIG)
                    .await?,
            ),
            None => None,
        };
        let config: Value = config
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let shape = match &gguf {
            Some(gguf) => gguf::shape(
                &self
                    .bytes(&found.sha, &gguf.file, gguf::HEADER_BYTES)
                    .await?,
            ),
            None => shape::of_config(&config),
        };
        let vision = match &gguf {
            Some(gguf) => gguf.mmproj.is_some(),
            None => {
                found.pipeline.as_deref() == Some("image-text-to-text")
                    || config.get("vision_config").is_some_and(Value::is_object)
            }
        };
        let template = found
            .config
            .get("tokenizer_config")
            .is_some_and(|tokenizer| tokenizer.get("chat_template").is_some())
            || found.config.get("chat_template_jinja").is_some()
            || found.gguf.get("chat_template").is_some()
            || has("chat_template.jinja").is_some()
            || has("chat_template.json").is_some();
        Ok(Facts {
            id: found.id.clone(),
            sha: found.sha.clone(),
            pipeline: found.pipeline.clone(),
            architectures: architectures(&config),
            vision,
            remote_code: config.get("auto_map").is_some_and(Value::is_object),
            // llama.cpp has a template of its own for files without one.
            chat_template: template || gguf.is_some(),
            adapter: has("adapter_config.json").is_some() && has("config.json").is_none(),
            parameters: found.parameters.clone(),
            stored: stored(&config),
            shape,
            gguf,
            files,
        })
    }

    /// The file list. Not through hf-hub: it reads the SHA-256 of a listed file from a field that the Hub's listing calls `oid`,
    /// so that every file would come without.
    async fn files(&self, sha: &str) -> Result<Vec<File>, Error> {
        let mut url = format!(
            "{}/api/models/{}/tree/{sha}?recursive=true",
            self.hub.endpoint,
            self.model.repository()
        );
        let mut files = Vec::new();
        for _ in 0..MOST_PAGES {
            let answer = self.get(&url).await?;
            let next = next_page(answer.headers());
            let page: Vec<Entry> = answer
                .json()
                .await
                .map_err(|error| Error::unavailable(error.without_url()))?;
            files.extend(page.into_iter().filter_map(Entry::file));
            match next {
                // A page elsewhere would be handed the token.
                Some(next) if next.starts_with(&format!("{}/", self.hub.endpoint)) => url = next,
                Some(_) => {
                    return Err(Error::unavailable(
                        "its file list goes on at another address",
                    ));
                }
                None => return Ok(files),
            }
        }
        Err(Error::Unsupported(format!(
            "{} has more files than any model needs",
            self.model.repository()
        )))
    }

    async fn get(&self, url: &str) -> Result<reqwest::Response, Error> {
        let mut request = self.hub.http.get(url);
        if let Some(token) = self.token {
            request = request.bearer_auth(token.expose());
        }
        let answer = request
            .send()
            .await
            .map_err(|error| Error::unavailable(error.without_url()))?;
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::TOO_MANY_REQUESTS => Err(limited(pause(answer.headers()))),
            status => {
                let code = answer
                    .headers()
                    .get("x-error-code")
                    .and_then(|code| code.to_str().ok());
                Err(self.refused(status, code))
            }
        }
    }

    /// Asks once more by hand after a 429, to read how long to wait: hf-hub keeps no headers, and the Hub says it in `RateLimit`.
    async fn limit(&self, revision: &str) -> Error {
        let revision = revision.replace('/', "%2F");
        let url = format!(
            "{}/api/models/{}/revision/{revision}",
            self.hub.endpoint,
            self.model.repository()
        );
        match self.get(&url).await {
            Ok(_) => limited(Duration::from_secs(1)),
            Err(error) => error,
        }
    }

    /// The first bytes of a file, at most so many.
    async fn bytes(&self, sha: &str, path: &str, most: u64) -> Result<Vec<u8>, Error> {
        let download = self
            .repository
            .download_file_stream()
            .filename(path)
            .revision(sha)
            .range(0..most)
            .send()
            .await;
        let (_, mut stream) = download.map_err(|error| self.explain(error))?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(|error| self.explain(error))?);
            // A server that ignores ranges sends all of it.
            if bytes.len() as u64 >= most {
                break;
            }
        }
        Ok(bytes)
    }

    /// Whether this token opens the files of a gated model.
    pub(super) async fn may_read(&self, facts: &Facts) -> Result<(), Error> {
        let Some(file) = facts.files.iter().min_by_key(|file| file.size) else {
            return Ok(());
        };
        let head = self
            .repository
            .get_file_metadata()
            .filepath(file.path.as_str())
            .revision(&facts.sha)
            .send()
            .await;
        match head {
            // A success whose headers come from a content network, where hf-hub misses the commit.
            Ok(_) | Err(HFError::MalformedResponse { .. }) => Ok(()),
            Err(error) => Err(self.explain(error)),
        }
    }

    fn no_variant(&self, variants: &[String]) -> Error {
        let all = variants.join(", ");
        Error::NotFound(match self.model.variant() {
            Some(variant) => format!(
                "{} has no variant {variant}; it has {all}",
                self.model.repository()
            ),
            None => format!(
                "{} has several variants: pick one, as in {}:{}. It has {all}",
                self.model.repository(),
                self.model.repository(),
                variants.first().map_or("Q4_K_M", String::as_str)
            ),
        })
    }

    fn explain(&self, error: HFError) -> Error {
        match error {
            HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::Http { context } => {
                self.refused(context.status, context.error_code.as_deref())
            }
            HFError::RevisionNotFound {
                revision, context, ..
            } => match context.and_then(|context| context.error_code).as_deref() {
                Some("RevisionNotFound") => Error::NotFound(format!(
                    "{} has no revision {revision}",
                    self.model.repository()
                )),
                code => self.refused(StatusCode::NOT_FOUND, code),
            },
            HFError::RepoNotFound { .. } | HFError::EntryNotFound { .. } => {
                self.refused(StatusCode::NOT_FOUND, None)
            }
            HFError::RateLimited { retry_after, .. } => {
                limited(retry_after.unwrap_or(UNSAID_PAUSE))
            }
            HFError::Request { source, .. } => Error::unavailable(source.without_url()),
            other => Error::unavailable(other),
        }
    }

    /// A refusal in words. 401 is also what an anonymous caller gets for a model that does not exist.
    fn refused(&self, status: StatusCode, code: Option<&str>) -> Error {
        let model = self.model.repository();
        let page = format!("{}/{model}", self.hub.endpoint);
        match (status.as_u16(), code, self.token) {
            (401 | 403, Some("GatedRepo"), None) => Error::Gated(format!(
                "{model} is gated: accept its licence at {page}, then name a Secret with your access token in spec.modelTokenSecretRef"
            )),
            (401 | 403, Some("GatedRepo"), Some(_)) => Error::Gated(format!(
                "{model} is gated and the token's account may not read it yet: accept its licence at {page}, or wait until access is granted"
            )),
            (401 | 404, Some("RepoNotFound"), Some(_)) | (404, _, Some(_)) => Error::NotFound(
                format!("there is no model {model} on the Hub that this token can see"),
            ),
            (401, _, Some(_)) => Error::Gated(format!(
                "the Hub does not accept the access token that spec.modelTokenSecretRef names, so {model} cannot be read"
            )),
            (403, _, Some(_)) => Error::Gated(format!(
                "the access token that spec.modelTokenSecretRef names may not read {model}"
            )),
            (401 | 403 | 404, _, None) => Error::NotFound(format!(
                "there is no model {model} on the Hub, or it is private: check the spelling, or name a Secret with an access token in spec.modelTokenSecretRef"
            )),
            _ => Error::unavailable(format!("it answered {status}")),
        }
    }
}

pub(super) fn limited(after: Duration) -> Error {
    let after = after.clamp(Duration::from_secs(1), LONGEST_PAUSE);
    let message = format!(
        "the Hugging Face Hub asks to wait {} s before the next question",
        after.as_secs()
    );
    Error::Unavailable {
        message,
        after: Some(after),
    }
}

/// How long a 429 asks to wait: `Retry-After: 30`, or `RateLimit: "api";r=0;t=30`.
fn pause(headers: &HeaderMap) -> Duration {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let after = text("retry-after").and_then(|seconds| seconds.trim().parse().ok());
    let reset = || {
        text("ratelimit")?
            .split(';')
            .find_map(|part| part.trim().strip_prefix("t=")?.parse().ok())
    };
    after
        .or_else(reset)
        .map_or(UNSAID_PAUSE, Duration::from_secs)
}

/// `Link: <URL>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let link = headers.get("link")?.to_str().ok()?;
    link.split(',')
        .find(|part| part.contains("rel=\"next\""))
        .and_then(|part| {
            let (url, _) = part.trim().strip_prefix('<')?.split_once('>')?;
            Some(url.to_owned())
        })
}

/// An entry of the file list, as the Hub writes it.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Entry {
    /// The file, when it is one and its name is one that can be written below a folder.
    fn file(self) -> Option<File> {
        let Self {
            kind,
            path,
            size,
            lfs,
        } = self;
        let inside = path.split('/').all(|part| !matches!(part, "" | "." | ".."))
            && !path.chars().any(char::is_control);
        (kind == "file" && inside).then(|| {
            let size = lfs.as_ref().map_or(size, |lfs| lfs.size);
            let sha256 = lfs
                .map(|lfs| lfs.oid)
                .filter(|oid| oid.len() == 64 && oid.bytes().all(|byte| byte.is_ascii_hexdigit()));
            File { path, size, sha256 }
        })
    }
}

fn is_sha(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn architectures(config: &Value) -> Vec<String> {
    let list = config.get("architectures").and_then(Value::as_array);
    list.map(|list| {
        list.iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    })
    .unwrap_or_default()
}

/// What `quantization_config` says, at the top or in the text part.
fn stored(config: &Value) -> Option<Stored> {
    let of = |config: &Value| {
        config
            .get("quantization_config")
            .filter(|quantization| quantization.is_object())
            .cloned()
    };
    let quantization = of(config).or_else(|| of(shape::text_part(config)))?;
    let method = quantization
        .get("quant_method")
        .and_then(Value::as_str)?
        .to_lowercase();
    let number = |value: &Value, key: &str| {
        value
            .get(key)
            .and_then(Value::as_u64)
            .and_then(|bits| u32::try_from(bits).ok())
    };
    // compressed-tensors and ModelOpt keep the bits in groups.
    let grouped = || {
        let groups = quantization.get("config_groups")?.as_object()?;
        groups
            .values()
            .filter_map(|group| number(group.get("weights")?, "num_bits"))
            .min()
    };
    let flag = |key: &str| quantization.get(key) == Some(&Value::Bool(true));
    let bits = number(&quantization, "bits")
        .or_else(|| number(&quantization, "w_bit"))
        .or_else(grouped)
        .or_else(|| flag("load_in_4bit").then_some(4))
        .or_else(|| flag("load_in_8bit").then_some(8))
        .or(match method.as_str() {
            "fp8" | "fbgemm_fp8" => Some(8),
            "mxfp4" | "nvfp4" => Some(4),
            _ => None,
        });
    Some(Stored { method, bits })
}

#[cfg(test)]
mod tests;
