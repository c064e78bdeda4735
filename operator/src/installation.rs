//! What one installation is: its id, its keys, and the cluster that it belongs to. Made once at run time, kept in a Secret that
//! only the controller reads, and never made again while that Secret exists.

pub mod ca;
pub mod store;

use std::collections::BTreeMap;
use std::fmt;

use ed25519_dalek::pkcs8::EncodePublicKey as _;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::{Signer as _, SigningKey};
use k8s_openapi::ByteString;
use zeroize::Zeroizing;

use ca::Authority;

/// The Secret that holds all of it, in the controller's own namespace.
pub const SECRET: &str = "srchat-installation";

/// One installation, as its Secret has it.
pub struct Installation {
    /// Eight hex digits: part of the name of every pod, so that two installations on one account tell theirs apart.
    pub id: String,
    /// The UID of `kube-system` in the cluster where it was made.
    pub cluster: String,
    /// The authority that signs the gateways' certificate.
    pub authority: Authority,
    key: Zeroizing<Vec<u8>>,
    receipts: SigningKey,
}

/// A Secret that is not an installation's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the Secret {SECRET} is damaged: its {0} is missing or unreadable; restore it, or end all sessions and delete it"
)]
pub struct Damaged(&'static str);

const ID: &str = "id";
const CLUSTER: &str = "cluster";
const KEY: &str = "key";
const RECEIPTS: &str = "receipts.key";
/// Bytes of the installation key and of an Ed25519 seed (RFC 8032).
const KEY_LENGTH: usize = 32;

impl Installation {
    /// A new one, for the cluster whose `kube-system` has this UID and for gateways that answer to these names.
    pub fn new(cluster: &str, names: &[String]) -> Result<Self, ca::Error> {
        let id: [u8; 4] = random();
        Ok(Self {
            id: hex::encode(id),
            cluster: cluster.to_owned(),
            authority: Authority::new(names)?,
            key: Zeroizing::new(random::<KEY_LENGTH>().to_vec()),
            receipts: SigningKey::from_bytes(&random()),
        })
    }

    /// The key from which nonces and proofs of ownership are derived.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Whether this is the cluster where it was made. A cloned or restored Secret elsewhere must neither rent nor sweep.
    pub fn bound_to(&self, cluster: &str) -> bool {
        self.cluster == cluster
    }

    /// Signs a receipt: Ed25519 over its bytes, 64 bytes.
    pub fn sign(&self, receipt: &[u8]) -> [u8; 64] {
        self.receipts.sign(receipt).to_bytes()
    }

    /// The public half of the receipts' key, as a PEM `SubjectPublicKeyInfo` (RFC 8410).
    pub fn receipts_key(&self) -> String {
        self.receipts
            .verifying_key()
            .to_public_key_pem(LineEnding::LF)
            .expect("an Ed25519 key has a fixed, small encoding")
    }

    /// The Secret's data.
    pub fn to_data(&self) -> BTreeMap<String, ByteString> {
        let mut data = self.authority.to_data();
        let mut put =
            |name: &str, value: &[u8]| data.insert(name.to_owned(), ByteString(value.to_vec()));
        put(ID, self.id.as_bytes());
        put(CLUSTER, self.cluster.as_bytes());
        put(KEY, &self.key);
        put(RECEIPTS, self.receipts.as_bytes());
        data
    }

    /// Reads the Secret's data.
    pub fn from_data(data: &BTreeMap<String, ByteString>) -> Result<Self, Damaged> {
        let text = |name: &'static str| {
            let value = data
                .get(name)
                .and_then(|value| std::str::from_utf8(&value.0).ok());
            value.map(str::to_owned).ok_or(Damaged(name))
        };
        let key = data
            .get(KEY)
            .filter(|key| key.0.len() == KEY_LENGTH)
            .ok_or(Damaged(KEY))?;
        let receipts = data
            .get(RECEIPTS)
            .and_then(|seed| seed.0.as_slice().try_into().ok());
        let id = text(ID)?;
        if id.len() != 8 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Damaged(ID));
        }
        Ok(Self {
            id,
            cluster: text(CLUSTER)?,
            authority: Authority::from_data(data).map_err(|_| Damaged(ca::KEY))?,
            key: Zeroizing::new(key.0.clone()),
            receipts: SigningKey::from_bytes(receipts.ok_or(Damaged(RECEIPTS))?),
        })
    }
}

impl fmt::Debug for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Installation({})", self.id)
    }
}

/// Bytes from the operating system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .expect("the operating system gives random bytes once it has started");
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ed25519_dalek::pkcs8::DecodePublicKey as _;
    use ed25519_dalek::{Signature, Verifier as _, VerifyingKey};

    fn installation() -> Installation {
        Installation::new("cluster-uid", &["gateway.example".to_owned()]).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let made = installation();
        let read = Installation::from_data(&made.to_data()).unwrap();
        assert_eq!(read.to_data(), made.to_data());
        assert!(read.bound_to("cluster-uid") && !read.bound_to("another"));
    }

    #[test]
    fn a_receipt_is_verified_by_the_published_key_and_by_no_other_text() {
        let made = installation();
        let public = VerifyingKey::from_public_key_pem(&made.receipts_key()).unwrap();
        let signature = Signature::from_bytes(&made.sign(b"gone"));
        assert!(public.verify(b"gone", &signature).is_ok());
        assert!(public.verify(b"kept", &signature).is_err());
    }

    #[test]
    fn each_missing_or_short_part_is_damage_and_never_made_anew() {
        let whole = installation().to_data();
        for name in whole.keys().filter(|name| name.as_str() != ca::PREVIOUS) {
            let mut data = whole.clone();
            data.get_mut(name).unwrap().0.truncate(3);
            assert!(
                Installation::from_data(&data).is_err() || name == CLUSTER || name == ca::NAMES,
                "{name}"
            );
            data.remove(name);
            assert!(Installation::from_data(&data).is_err(), "{name}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let made = installation();
        assert_eq!(format!("{made:?}"), format!("Installation({})", made.id));
    }
}
