//! What happened, signed: what was rented, when, at which price, how it was cleared, how its absence was proved, what it cost.
//! Written before the finalizer goes; holds no key, no prompt and no file name.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use srchat_crds::status::CostSource;
use srchat_crds::{Dollars, LABEL_MANAGED_BY, LABEL_SESSION, LABEL_UID, MANAGED_BY};

use crate::installation::Installation;

/// The form of `receipt.json`.
pub const VERSION: u32 = 1;

/// All that is known of a session that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// [`VERSION`].
    pub version: u32,
    /// The installation that signed it.
    pub installation: String,
    /// Whose it is.
    pub session: Session,
    /// When it was written.
    pub written: Timestamp,
    /// Every pod that was ever rented for it.
    pub pods: Vec<Pod>,
    /// Requests that the provider refused.
    pub refused: u64,
    /// Requests of unknown outcome that were proved to have made nothing.
    pub absent: u64,
    /// Dollars, all pods together.
    pub cost: Dollars,
    /// Where `cost` comes from: the provider's bill, when that is whole for every pod; else price times time, on the safe side.
    pub cost_source: CostSource,
}

/// The session of a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// One rented pod, from its creation to the proof of its absence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// The provider's id.
    pub id: String,
    /// Which attempt rented it.
    pub attempt: u64,
    /// When.
    pub created: Timestamp,
    /// Dollars an hour.
    pub hourly: Dollars,
    /// The fingerprint of its pinned host key, when it came to that.
    pub host_key: Option<String>,
    /// When its model was first served, when it came to that.
    pub served: Option<Timestamp>,
    /// Why it was ended.
    pub ended: Option<String>,
    /// What became of the data on it, and how that was checked.
    pub cleared: Option<Cleared>,
    /// When the provider first took our DELETE, or answered it with 404.
    pub deleted: Option<Timestamp>,
    /// When the observations began that found it absent.
    pub absence_proofs: Vec<Timestamp>,
    /// `Proved`, or `Abandoned` when somebody let go of it.
    pub gone: Option<String>,
    /// Dollars.
    pub cost: Dollars,
    /// Where that comes from.
    pub cost_source: CostSource,
}

/// What became of the data on a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleared {
    /// The reason of the condition `Wiped`.
    pub result: String,
    /// When this was known.
    pub at: Timestamp,
    /// What was erased and how it was checked, or why it was not.
    pub detail: String,
}

impl Receipt {
    /// The ConfigMap's name.
    pub fn name(uid: &str) -> String {
        format!("srchat-receipt-{uid}")
    }

    /// Writes it, once: a receipt that is there stays as it is. A namespace that is ending takes no new object; then it goes
    /// into ours.
    pub async fn write(
        &self,
        client: &Client,
        by: &Installation,
        own_namespace: &str,
    ) -> Result<(), kube::Error> {
        match self.create(client, by, &self.session.namespace).await {
            Err(kube::Error::Api(status)) if status.is_forbidden() || status.is_not_found() => {
                self.create(client, by, own_namespace).await
            }
            outcome => outcome,
        }
    }

    async fn create(
        &self,
        client: &Client,
        by: &Installation,
        namespace: &str,
    ) -> Result<(), kube::Error> {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        match maps
            .create(&PostParams::default(), &self.to_config_map(by, namespace))
            .await
        {
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            outcome => outcome.map(|_| ()),
        }
    }

    fn to_config_map(&self, by: &Installation, namespace: &str) -> ConfigMap {
        let json =
            serde_json::to_string(self).expect("a receipt has string keys and finite numbers only");
        let signature = STANDARD.encode(by.sign(json.as_bytes()));
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(Self::name(&self.session.uid)),
                namespace: Some(namespace.to_owned()),
                labels: Some(BTreeMap::from([
                    (LABEL_SESSION.to_owned(), self.session.name.clone()),
                    (LABEL_UID.to_owned(), self.session.uid.clone()),
                    (LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned()),
                ])),
                ..ObjectMeta::default()
            },
            immutable: Some(true),
            data: Some(BTreeMap::from([
                ("receipt.json".to_owned(), json),
                ("signature".to_owned(), signature),
            ])),
            ..ConfigMap::default()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ed25519_dalek::pkcs8::DecodePublicKey as _;
    use ed25519_dalek::{Signature, Verifier as _, VerifyingKey};

    use super::*;

    fn receipt() -> Receipt {
        Receipt {
            version: VERSION,
            installation: "9f3a2c1b".into(),
            session: Session {
                uid: "u1".into(),
                namespace: "team-a".into(),
                name: "qwen".into(),
            },
            written: Timestamp::UNIX_EPOCH,
            pods: Vec::new(),
            refused: 0,
            absent: 0,
            cost: Dollars::default(),
            cost_source: CostSource::Estimated,
        }
    }

    #[test]
    fn the_signature_in_the_config_map_covers_the_very_bytes_in_it() {
        let by = Installation::new("cluster", &["gateway.example".to_owned()]).unwrap();
        let data = receipt().to_config_map(&by, "team-a").data.unwrap();
        let signature = STANDARD.decode(&data["signature"]).unwrap();
        let public = VerifyingKey::from_public_key_pem(&by.receipts_key()).unwrap();
        let signature = Signature::from_slice(&signature).unwrap();
        assert!(
            public
                .verify(data["receipt.json"].as_bytes(), &signature)
                .is_ok()
        );
        assert_eq!(
            serde_json::from_str::<Receipt>(&data["receipt.json"]).unwrap(),
            receipt()
        );
    }

    #[test]
    fn it_outlives_its_session_and_never_changes() {
        let by = Installation::new("cluster", &["gateway.example".to_owned()]).unwrap();
        let map = receipt().to_config_map(&by, "team-a");
        assert_eq!(map.immutable, Some(true));
        assert_eq!(map.metadata.owner_references, None);
        assert_eq!(map.metadata.name.as_deref(), Some("srchat-receipt-u1"));
    }
}
