//! RunPod's key: found, and tried at RunPod itself. Nothing else is ever asked there from this side.

use crate::failure::{Code, Failure, chain};
use reqwest::{StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use std::path::Path;
use std::time::Duration;

/// The variable that holds a key, as in the tool before; also the Secret's key.
pub const KEY: &str = "RUNPOD_API_KEY";
/// The Secret in the operator's namespace.
pub const SECRET: &str = "srchat-provider";
/// REST v2.
const API: &str = "https://api.runpod.io/v2";
/// Another address of the same API, for those who test without RunPod; the operator knows it as well.
const API_URL: &str = "RUNPOD_API_URL";
/// A list of pods is a page of some kilobytes; RunPod answers within seconds, or is down.
const ASKED: Duration = Duration::from_secs(20);
/// TCP and TLS to a host that is up.
const CONNECT: Duration = Duration::from_secs(5);

/// A key, without the white space that pasting brings. Refuses what no key looks like.
pub fn key(text: &str) -> Result<SecretString, Failure> {
    let text = text.trim();
    let odd = |b: u8| !b.is_ascii_graphic() || matches!(b, b'"' | b'\'' | b'\\');
    let why = match text {
        "" => "is empty",
        text if text.len() > 512 => "is too long",
        text if text.bytes().any(odd) => "has characters that no key has",
        text => return Ok(SecretString::from(text)),
    };
    let message = format!("what was given as RunPod's API key {why}");
    Err(Failure::new(Code::Usage, message)
        .hint("a key is made at https://console.runpod.io/user/settings, under API keys"))
}

/// The key in a `.env` file, as the tool before read it. `None` where there is no file, or no key in it.
pub fn key_in_file(path: &Path) -> Result<Option<SecretString>, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let message = format!("could not read {}: {error}", path.display());
            return Err(Failure::new(Code::Error, message));
        }
    };
    value_in(&text).map(key).transpose()
}

fn value_in(text: &str) -> Option<&str> {
    let value = text.lines().rev().find_map(|line| {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=')?;
        (name.trim() == KEY).then(|| value.trim())
    })?;
    let quoted = ['"', '\''].into_iter().find_map(|quote| {
        let rest = value.strip_prefix(quote)?;
        rest.split_once(quote).map(|(inside, _)| inside)
    });
    let bare = || value.split_once(" #").map_or(value, |(value, _)| value);
    Some(quoted.unwrap_or_else(bare)).filter(|value| !value.is_empty())
}

/// Asks RunPod for the list that the operator needs as well, and so whether it takes the key.
pub async fn accepts(key: &SecretString) -> Result<(), Failure> {
    let base = std::env::var(API_URL).unwrap_or_else(|_| API.to_owned());
    let url = endpoint(&base)?;
    let client = reqwest::Client::builder()
        .user_agent(concat!("srchat/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .timeout(ASKED)
        // The key goes where it was meant to go and nowhere else.
        .redirect(reqwest::redirect::Policy::none())
        .build();
    let client = client
        .map_err(|e| Failure::new(Code::Error, format!("could not prepare TLS: {}", chain(&e))))?;
    let asked = client
        .get(url)
        .bearer_auth(key.expose_secret())
        .send()
        .await;
    let answer = asked.map_err(|e| {
        let why = chain(&e.without_url());
        Failure::new(
            Code::Error,
            format!("RunPod cannot be reached at {base}: {why}"),
        )
        .hint("the key was neither checked nor kept; try again")
    })?;
    verdict(answer.status())
}

fn verdict(status: StatusCode) -> Result<(), Failure> {
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Failure::new(
            Code::NotAllowed,
            "RunPod does not accept this API key",
        )
        .hint(
            "it needs the right to read and write pods: https://console.runpod.io/user/settings",
        )),
        status => Err(Failure::new(
            Code::Error,
            format!("RunPod answered {status}, so the key could not be checked"),
        )
        .hint("the key was not kept; try again in a minute")),
    }
}

fn endpoint(base: &str) -> Result<Url, Failure> {
    let wrong = |why: &str| Failure::new(Code::Usage, format!("{API_URL}={base} {why}"));
    let mut url = Url::parse(base).map_err(|_| wrong("is not a URL"))?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    if url.scheme() != "https" && !here {
        return Err(wrong("must be https, since the account's key goes there"));
    }
    url.path_segments_mut()
        .map_err(|()| wrong("has no path"))?
        .pop_if_empty()
        .push("pods");
    Ok(url)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_is_found_in_an_env_file_however_it_is_written() {
        for text in [
            "RUNPOD_API_KEY=rpa_1",
            "A=b\nexport RUNPOD_API_KEY='rpa_1' # mine\n",
            "RUNPOD_API_KEY=old\nRUNPOD_API_KEY = \"rpa_1\"",
            "RUNPOD_API_KEY=rpa_1 # mine",
        ] {
            assert_eq!(value_in(text), Some("rpa_1"), "{text}");
        }
        for text in [
            "",
            "RUNPOD_API_KEY=",
            "#RUNPOD_API_KEY=a",
            "XRUNPOD_API_KEY=a",
        ] {
            assert_eq!(value_in(text), None, "{text}");
        }
        assert!(
            key_in_file(Path::new("/nonexistent/.env"))
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn what_was_pasted_with_its_surroundings_is_no_key() {
        assert_eq!(key(" rpa_1\n").unwrap().expose_secret(), "rpa_1");
        for text in ["", "a b", "'rpa_1'", &"a".repeat(513)] {
            assert_eq!(key(text).unwrap_err().code, Code::Usage, "{text}");
        }
    }

    #[test]
    fn a_key_crosses_no_network_in_the_clear() {
        assert!(endpoint("http://api.example/v2").is_err());
        let here = endpoint("http://127.0.0.1:9/v2/").unwrap();
        assert_eq!(here.as_str(), "http://127.0.0.1:9/v2/pods");
        assert_eq!(
            endpoint(API).unwrap().as_str(),
            "https://api.runpod.io/v2/pods"
        );
    }

    #[test]
    fn only_success_is_a_yes() {
        assert!(verdict(StatusCode::OK).is_ok());
        assert_eq!(
            verdict(StatusCode::UNAUTHORIZED).unwrap_err().code,
            Code::NotAllowed
        );
        assert_eq!(
            verdict(StatusCode::BAD_GATEWAY).unwrap_err().code,
            Code::Error
        );
    }
}
