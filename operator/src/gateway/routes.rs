//! The paths that exist. What is not in here is a 404, whoever asks.

use http::Method;

use super::refusal::Refusal;
use crate::metrics::Operation;

/// What a path and a method ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `/healthz`.
    Health,
    /// `/readyz`.
    Ready,
    /// Something of a session.
    Session {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What of it.
        what: What,
    },
}

/// What is asked of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The list of models.
    Models,
    /// One model, by name.
    Model(String),
    /// A chat completion.
    Chat,
    /// A completion.
    Completions,
    /// Embeddings.
    Embeddings,
    /// A response.
    Responses,
    /// The list of files, or all of them.
    FileList,
    /// Many files, to be written at once.
    Files,
    /// One file, by its path, not yet checked.
    File(FileVerb, String),
    /// The end of the engine's log.
    Logs,
    /// Progress, cost and expiry, as events.
    Status,
}

/// What is to be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileVerb {
    /// Read it.
    Get,
    /// Learn its size and SHA-256.
    Head,
    /// Write it.
    Put,
    /// Remove it.
    Delete,
}

impl What {
    /// As it is counted.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Models | Self::Model(_) => Operation::models,
            Self::Chat => Operation::chat,
            Self::Completions => Operation::text_completion,
            Self::Embeddings => Operation::embeddings,
            Self::Responses => Operation::responses,
            Self::FileList | Self::Files | Self::File(..) => Operation::files,
            Self::Logs => Operation::logs,
            Self::Status => Operation::status,
        }
    }
}

/// Reads a request's method and path.
pub fn parse(method: &Method, path: &str) -> Result<Asked, Refusal> {
    match path {
        "/healthz" => return only_get(method, Asked::Health),
        "/readyz" => return only_get(method, Asked::Ready),
        _ => {}
    }
    let mut parts = path
        .strip_prefix('/')
        .ok_or(Refusal::NoSuchPath)?
        .splitn(3, '/');
    let (Some(namespace), Some(name), Some(rest)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::NoSuchPath);
    };
    if !is_name(namespace) || !is_name(name) {
        return Err(Refusal::NoSuchPath);
    }
    let what = match rest {
        "v1/models" => only_get(method, What::Models)?,
        "v1/chat/completions" => only_post(method, What::Chat)?,
        "v1/completions" => only_post(method, What::Completions)?,
        "v1/embeddings" => only_post(method, What::Embeddings)?,
        "v1/responses" => only_post(method, What::Responses)?,
        "files" | "files/" => match *method {
            Method::GET => What::FileList,
            Method::PUT => What::Files,
            _ => return Err(Refusal::Method("GET, PUT")),
        },
        "logs" => only_get(method, What::Logs)?,
        "status" => only_get(method, What::Status)?,
        _ => {
            if let Some(id) = rest.strip_prefix("v1/models/") {
                only_get(method, What::Model(decode(id)?))?
            } else if let Some(file) = rest.strip_prefix("files/") {
                What::File(file_verb(method)?, decode(file)?)
            } else {
                return Err(Refusal::NoSuchPath);
            }
        }
    };
    Ok(Asked::Session {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        what,
    })
}

fn only_get<T>(method: &Method, asked: T) -> Result<T, Refusal> {
    if method == Method::GET {
        Ok(asked)
    } else {
        Err(Refusal::Method("GET"))
    }
}

fn only_post<T>(method: &Method, asked: T) -> Result<T, Refusal> {
    if method == Method::POST {
        Ok(asked)
    } else {
        Err(Refusal::Method("POST"))
    }
}

fn file_verb(method: &Method) -> Result<FileVerb, Refusal> {
    match *method {
        Method::GET => Ok(FileVerb::Get),
        Method::HEAD => Ok(FileVerb::Head),
        Method::PUT => Ok(FileVerb::Put),
        Method::DELETE => Ok(FileVerb::Delete),
        _ => Err(Refusal::Method("GET, HEAD, PUT, DELETE")),
    }
}

/// A name that Kubernetes could have given: lower-case letters, digits, hyphens and dots, at most 63 (a namespace, a session's name).
fn is_name(part: &str) -> bool {
    (1..=63).contains(&part.len())
        && part
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.')
        && part.bytes().any(|c| c != b'.')
}

/// Undoes percent-encoding, once; what does not decode to UTF-8 names nothing.
fn decode(part: &str) -> Result<String, Refusal> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |c: Option<u8>| {
            c.and_then(|c| char::from(c).to_digit(16))
                .ok_or(Refusal::NoSuchPath)
        };
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(u8::try_from(high * 16 + low).expect("two hex digits are a byte"));
    }
    String::from_utf8(bytes).map_err(|_error| Refusal::NoSuchPath)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn what(method: Method, path: &str) -> Result<What, Refusal> {
        match parse(&method, path)? {
            Asked::Session { what, .. } => Ok(what),
            other => panic!("{path} is {other:?}"),
        }
    }

    #[test]
    fn the_documented_paths_exist() {
        let cases = [
            (Method::GET, "/team-a/vision/v1/models", What::Models),
            (
                Method::GET,
                "/team-a/vision/v1/models/Qwen%2FQwen3-8B",
                What::Model("Qwen/Qwen3-8B".into()),
            ),
            (
                Method::GET,
                "/team-a/vision/v1/models/Qwen/Qwen3-8B",
                What::Model("Qwen/Qwen3-8B".into()),
            ),
            (
                Method::POST,
                "/team-a/vision/v1/chat/completions",
                What::Chat,
            ),
            (
                Method::POST,
                "/team-a/vision/v1/completions",
                What::Completions,
            ),
            (
                Method::POST,
                "/team-a/vision/v1/embeddings",
                What::Embeddings,
            ),
            (Method::POST, "/team-a/vision/v1/responses", What::Responses),
            (Method::GET, "/team-a/vision/files/", What::FileList),
            (Method::PUT, "/team-a/vision/files/", What::Files),
            (
                Method::PUT,
                "/team-a/vision/files/a%20b/c.txt",
                What::File(FileVerb::Put, "a b/c.txt".into()),
            ),
            (
                Method::HEAD,
                "/team-a/vision/files/x",
                What::File(FileVerb::Head, "x".into()),
            ),
            (Method::GET, "/team-a/vision/logs", What::Logs),
            (Method::GET, "/team-a/vision/status", What::Status),
        ];
        for (method, path, expected) in cases {
            assert_eq!(what(method, path), Ok(expected), "{path}");
        }
        assert_eq!(parse(&Method::GET, "/healthz"), Ok(Asked::Health));
        assert_eq!(parse(&Method::GET, "/readyz"), Ok(Asked::Ready));
    }

    #[test]
    fn what_the_engine_would_answer_as_well_is_not_reachable() {
        for path in [
            "/",
            "/metrics",
            "/health",
            "/v1/models",
            "/team-a/vision",
            "/team-a/vision/",
            "/team-a/vision/v1/",
            "/team-a/vision/v1//chat/completions",
            "/team-a/vision/v1/chat/completions/",
            "/team-a/vision/v1/chat/../completions",
            "/team-a/vision/v1/load_lora_adapter",
            "/team-a/vision/v1/responses/resp_1/cancel",
            "/team-a/vision/sleep",
            "/team-a/vision/slots",
            "/team-a/vision/filesystem",
            "/Team/vision/v1/models",
            "/team-a/../v1/models",
            "/team-a/%2e%2e/v1/models",
            "//vision/v1/models",
        ] {
            for method in [Method::GET, Method::POST] {
                assert_eq!(
                    parse(&method, path),
                    Err(Refusal::NoSuchPath),
                    "{method} {path}"
                );
            }
        }
    }

    #[test]
    fn another_method_is_refused_with_what_is_allowed() {
        assert_eq!(
            parse(&Method::GET, "/a/b/v1/chat/completions"),
            Err(Refusal::Method("POST"))
        );
        assert_eq!(
            parse(&Method::CONNECT, "/a/b/files/x"),
            Err(Refusal::Method("GET, HEAD, PUT, DELETE"))
        );
        assert_eq!(
            parse(&Method::POST, "/healthz"),
            Err(Refusal::Method("GET"))
        );
    }

    #[test]
    fn broken_percent_encoding_names_nothing() {
        for path in [
            "/a/b/files/%",
            "/a/b/files/%2",
            "/a/b/files/%zz",
            "/a/b/files/%ff",
        ] {
            assert_eq!(
                parse(&Method::GET, path),
                Err(Refusal::NoSuchPath),
                "{path}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "/?[a-z./%0-9A-F-]{0,60}") {
            let _ = parse(&Method::GET, &path);
        }
    }
}
