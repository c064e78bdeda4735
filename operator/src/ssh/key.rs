//! Keys: ours, which cannot be printed, and a host's, which is pinned. Ed25519 only.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::ssh_key::{LineEnding, PrivateKey, PublicKey};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// A key of ours could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not an OpenSSH private key, or one that needs a passphrase.
    #[error("not an unencrypted OpenSSH private key")]
    Private,
    /// Not `ssh-ed25519 BASE64`.
    #[error("not an ssh-ed25519 public key")]
    Public,
}

/// An Ed25519 key pair of ours. Cheap to clone; wiped from memory when the last clone goes; `Debug` shows the public half only.
#[derive(Clone)]
pub struct KeyPair(Arc<PrivateKey>);

impl KeyPair {
    /// A new pair from the system's randomness.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = Zeroizing::new([0u8; 32]);
        getrandom::fill(seed.as_mut_slice())?;
        let pair = Ed25519Keypair::from_seed(&seed);
        let key =
            PrivateKey::new(KeypairData::Ed25519(pair), "").expect("a fresh pair is not encrypted");
        Ok(Self(Arc::new(key)))
    }

    /// Reads an OpenSSH private key (the `-----BEGIN OPENSSH PRIVATE KEY-----` form).
    ///
    /// # Errors
    /// When it is anything but an unencrypted Ed25519 key.
    pub fn from_openssh(pem: &SecretString) -> Result<Self, KeyError> {
        let key =
            PrivateKey::from_openssh(pem.expose_secret()).map_err(|_error| KeyError::Private)?;
        match key.key_data() {
            KeypairData::Ed25519(_) => Ok(Self(Arc::new(key))),
            _other => Err(KeyError::Private),
        }
    }

    /// The OpenSSH private key, for the Secret that keeps it.
    pub fn to_openssh(&self) -> SecretString {
        let pem = self
            .0
            .to_openssh(LineEnding::LF)
            .expect("an Ed25519 pair always encodes");
        SecretString::from(pem.as_str())
    }

    /// The public half.
    pub fn public(&self) -> HostKey {
        match self.0.public_key().key_data().ed25519() {
            Some(key) => HostKey(key.0),
            None => unreachable!("every constructor admits Ed25519 only"),
        }
    }

    /// The public half as a line: `ssh-ed25519 BASE64`.
    pub fn public_line(&self) -> String {
        self.public().to_string()
    }

    pub(super) fn private(&self) -> Arc<PrivateKey> {
        Arc::clone(&self.0)
    }
}

impl PartialEq for KeyPair {
    fn eq(&self, other: &Self) -> bool {
        self.public() == other.public()
    }
}

impl Eq for KeyPair {}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", self.public().fingerprint())
    }
}

/// An Ed25519 public key: a host's, once trusted the **pin**, or the public half of a pair of ours.
///
/// Its text, and its serde form, is `ssh-ed25519 BASE64`, without a comment.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostKey([u8; 32]);

impl HostKey {
    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        format!(
            "SHA256:{}",
            STANDARD_NO_PAD.encode(Sha256::digest(self.blob()))
        )
    }

    /// The key as the SSH protocol carries it.
    pub fn blob(&self) -> Vec<u8> {
        const NAME: &[u8] = b"ssh-ed25519";
        let mut blob = Vec::with_capacity(51);
        blob.extend_from_slice(&11u32.to_be_bytes());
        blob.extend_from_slice(NAME);
        blob.extend_from_slice(&32u32.to_be_bytes());
        blob.extend_from_slice(&self.0);
        blob
    }

    pub(super) fn of(key: &PublicKey) -> Option<Self> {
        key.key_data().ed25519().map(|key| Self(key.0))
    }
}

impl FromStr for HostKey {
    type Err = KeyError;

    /// Strict: the type, one space, canonical base64 of exactly one key; an end of line and a comment are refused.
    fn from_str(line: &str) -> Result<Self, KeyError> {
        let text = line.strip_prefix("ssh-ed25519 ").ok_or(KeyError::Public)?;
        let blob = STANDARD.decode(text).map_err(|_error| KeyError::Public)?;
        let key: [u8; 32] = blob
            .get(19..)
            .and_then(|key| key.try_into().ok())
            .ok_or(KeyError::Public)?;
        let key = Self(key);
        if key.blob() == blob {
            Ok(key)
        } else {
            Err(KeyError::Public)
        }
    }
}

impl Serialize for HostKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ssh-ed25519 {}", STANDARD.encode(self.blob()))
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKey({})", self.fingerprint())
    }
}

/// `#[serde(with = "ssh::openssh_pem")]` writes a [`KeyPair`] as its OpenSSH private key: for the ledger and the route,
/// which are Secrets. It is opt-in, so that no key is ever written by a derive that nobody thought about.
pub mod openssh_pem {
    use super::{Deserialize, ExposeSecret, KeyPair, SecretString};

    /// Writes the private key.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: serde::Serializer>(
        key: &KeyPair,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(key.to_openssh().expose_secret())
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When it is not an OpenSSH Ed25519 private key.
    pub fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<KeyPair, D::Error> {
        let pem = SecretString::from(String::deserialize(deserializer)?);
        KeyPair::from_openssh(&pem).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    // From `ssh-keygen -t ed25519`, and `ssh-keygen -lf` of it.
    const LINE: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    #[test]
    fn a_pair_survives_its_secret() {
        let pair = KeyPair::generate().unwrap();
        let again = KeyPair::from_openssh(&pair.to_openssh()).unwrap();
        assert_eq!(pair.public(), again.public());
        assert_ne!(pair.public(), KeyPair::generate().unwrap().public());
    }

    #[test]
    fn a_pair_never_prints_its_private_half() {
        let pair = KeyPair::generate().unwrap();
        let shown = format!("{pair:?}");
        assert_eq!(shown, format!("KeyPair({})", pair.public().fingerprint()));
    }

    #[test]
    fn a_host_key_is_read_and_written_unchanged() {
        let key: HostKey = LINE.parse().unwrap();
        assert_eq!(key.to_string(), LINE);
        assert_eq!(
            PublicKey::from_openssh(LINE)
                .unwrap()
                .fingerprint(Default::default())
                .to_string(),
            key.fingerprint()
        );
    }

    #[test]
    fn other_kinds_comments_and_line_ends_are_refused() {
        for bad in [
            "",
            "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ==",
            &format!("{LINE} comment"),
            &format!("{LINE}\n"),
            &format!(" {LINE}"),
            &LINE[..LINE.len() - 4],
        ] {
            assert_eq!(bad.parse::<HostKey>(), Err(KeyError::Public), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_is_canonical(line in "ssh-ed25519 [A-Za-z0-9+/=]{60,72}|.{0,90}") {
            if let Ok(key) = line.parse::<HostKey>() {
                prop_assert_eq!(key.to_string(), line);
            }
        }
    }
}
