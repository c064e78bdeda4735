//! Pictures for vision models, as `data:` URLs: the only form that the gateway lets through.

use crate::failure::{Code, Failure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::path::Path;

/// The gateway takes 32 MiB of JSON; base64 makes 4 bytes of 3, and a conversation has several pictures.
const LARGEST: usize = 10 << 20;

/// Reads a picture as a content part of a message.
pub fn part(path: &Path) -> Result<Value, Failure> {
    let bytes = std::fs::read(path).map_err(|e| {
        Failure::new(
            Code::NotFound,
            format!("could not read {}: {e}", path.display()),
        )
    })?;
    let kind = kind(&bytes).ok_or_else(|| {
        Failure::new(
            Code::Usage,
            format!("{} is not a PNG, JPEG, WebP or GIF", path.display()),
        )
    })?;
    if bytes.len() > LARGEST {
        return Err(Failure::new(
            Code::Usage,
            format!(
                "{} is larger than {}",
                path.display(),
                crate::transfer::size(LARGEST as u64)
            ),
        )
        .hint("scale it down: models look at about a megapixel"));
    }
    let url = format!("data:image/{kind};base64,{}", STANDARD.encode(&bytes));
    Ok(json!({"type": "image_url", "image_url": {"url": url}}))
}

/// The format, told by the file's first bytes and never by its name.
fn kind(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("png"),
        [0xff, 0xd8, 0xff, ..] => Some("jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("gif"),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => Some("webp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_picture_becomes_a_data_url_of_its_own_kind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture.txt");
        std::fs::write(&path, b"\x89PNG\r\n").unwrap();
        let url = part(&path).unwrap()["image_url"]["url"].clone();
        assert_eq!(url, "data:image/png;base64,iVBORw0K");
    }

    #[test]
    fn what_is_no_picture_is_refused_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture.png");
        std::fs::write(&path, b"#!/bin/sh").unwrap();
        assert_eq!(part(&path).unwrap_err().code, Code::Usage);
    }
}
