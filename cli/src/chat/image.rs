//! Pictures for vision models, as `data:` URLs: the only form that the gateway lets through.

use super::conversation::Picture;
use crate::failure::{Code, Failure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// The gateway takes 32 MiB of JSON; base64 makes 4 bytes of 3, and a conversation has several pictures.
const LARGEST: u64 = 10 << 20;

/// Whether a file is a picture, by its first bytes.
pub fn is_picture(path: &Path) -> bool {
    let mut start = [0; 12];
    let read = File::open(path).and_then(|file| file.take(12).read(&mut start));
    path.is_file() && read.is_ok_and(|read| kind(&start[..read]).is_some())
}

/// Reads a picture, named after its file.
pub fn picture(path: &Path) -> Result<Picture, Failure> {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Ok(Picture {
        name,
        part: part(path)?,
    })
}

/// Reads a picture as a content part of a message.
pub fn part(path: &Path) -> Result<Value, Failure> {
    let failed = |e: std::io::Error| {
        Failure::new(
            Code::NotFound,
            format!("could not read {}: {e}", path.display()),
        )
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    let kind = kind(&bytes).ok_or_else(|| {
        Failure::new(
            Code::Usage,
            format!("{} is not a PNG, JPEG, WebP or GIF", path.display()),
        )
        .hint("convert it first; /upload sends any file to the session, where the model does not see it")
    })?;
    if bytes.len() as u64 > LARGEST {
        return Err(Failure::new(
            Code::Usage,
            format!(
                "{} is larger than {}",
                path.display(),
                crate::transfer::size(LARGEST)
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
        assert!(!is_picture(&path) && !is_picture(folder.path()));
    }

    #[test]
    fn a_picture_that_is_too_large_is_refused_with_a_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huge.png");
        std::fs::write(&path, b"\x89PNG\r\n").unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(LARGEST + 1)
            .unwrap();
        let refused = part(&path).unwrap_err();
        assert!(
            refused.message.ends_with("is larger than 10.0 MiB") && refused.hint.is_some(),
            "{refused:?}"
        );
    }
}
