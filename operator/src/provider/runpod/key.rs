//! The account's API key: held so that it cannot be printed, and known elsewhere by its fingerprint only.

use std::fmt;

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::provider::Fingerprint;

/// A RunPod API key. Its `Debug` shows the fingerprint.
#[derive(Clone)]
pub struct Key {
    secret: SecretString,
    fingerprint: Fingerprint,
}

/// A text that cannot be an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAKey {
    /// Nothing but white space.
    #[error("the RunPod API key is empty")]
    Empty,
    /// Something that no HTTP header can carry, or that was pasted with its surroundings.
    #[error(
        "the RunPod API key contains characters that no key has (white space, quotes or control characters)"
    )]
    Characters,
    /// Over 512 characters.
    #[error("the RunPod API key is too long: over 512 characters")]
    TooLong,
}

impl Key {
    /// Reads a key as people paste it: white space around it is dropped, anything odd within is refused.
    pub fn parse(text: &str) -> Result<Self, NotAKey> {
        let text = text.trim();
        if text.is_empty() {
            return Err(NotAKey::Empty);
        }
        if text.len() > 512 {
            return Err(NotAKey::TooLong);
        }
        if !text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\'))
        {
            return Err(NotAKey::Characters);
        }
        // A key has over 100 bits of entropy, so a plain hash gives nothing away.
        let digest = Sha256::digest(text.as_bytes());
        let fingerprint = Fingerprint(hex::encode(&digest[..8]));
        Ok(Self {
            secret: text.to_owned().into(),
            fingerprint,
        })
    }

    /// What may be kept and shown in its place.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// `Bearer …`, marked sensitive so that no HTTP library logs it.
    pub(super) fn header(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.secret.expose_secret()))
            .expect("a parsed key is visible ASCII");
        value.set_sensitive(true);
        value
    }

    /// The same text with the key, wherever it was echoed, replaced.
    pub(super) fn redact(&self, text: &str) -> String {
        text.replace(self.secret.expose_secret(), "[key]")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.fingerprint)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_is_never_printed() {
        let key = Key::parse("  rpa_SECRETSECRET\n").unwrap();
        let shown = format!("{key:?} {:?} {}", key.header(), key.fingerprint());
        assert!(!shown.contains("SECRET"), "{shown}");
        assert_eq!(key.redact("bad key rpa_SECRETSECRET."), "bad key [key].");
    }

    #[test]
    fn what_cannot_be_a_key_is_refused_with_a_sentence() {
        assert_eq!(Key::parse(" \n").unwrap_err(), NotAKey::Empty);
        assert_eq!(Key::parse("two words").unwrap_err(), NotAKey::Characters);
        assert_eq!(Key::parse("\"quoted\"").unwrap_err(), NotAKey::Characters);
        assert_eq!(Key::parse(&"x".repeat(513)).unwrap_err(), NotAKey::TooLong);
    }

    #[test]
    fn different_keys_have_different_fingerprints() {
        assert_ne!(
            Key::parse("a").unwrap().fingerprint(),
            Key::parse("b").unwrap().fingerprint()
        );
        assert_eq!(
            Key::parse("a").unwrap().fingerprint(),
            Key::parse("a\n").unwrap().fingerprint()
        );
    }
}
