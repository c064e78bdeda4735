//! Where ledgers are kept: one Secret per session UID in the controller's own namespace, replaced by compare-and-swap only.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams, Preconditions};
use srchat_crds::{LABEL_MANAGED_BY, LABEL_SESSION, LABEL_UID, MANAGED_BY};

use super::{Ledger, VERSION};
use crate::session::observe::LedgerSeen;

/// The key within the Secret.
const DATA_KEY: &str = "ledger.json";

/// A ledger as it was read, with the version that the next write must replace.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// What the Secret holds.
    pub seen: LedgerSeen,
    /// The Secret's `resourceVersion`.
    pub version: Option<String>,
}

/// The ledgers of one installation.
#[derive(Clone)]
pub struct Ledgers {
    api: Api<Secret>,
}

impl Ledgers {
    /// Those in this namespace.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
        }
    }

    /// Reads one, live.
    ///
    /// # Errors
    /// When the API server did not answer; that a Secret is missing or unreadable is no error.
    pub async fn read(&self, uid: &str) -> Result<Stored, kube::Error> {
        Ok(match self.api.get_opt(&name(uid)).await? {
            None => Stored {
                seen: LedgerSeen::Missing,
                version: None,
            },
            Some(secret) => Stored {
                seen: parse(&secret),
                version: secret.metadata.resource_version,
            },
        })
    }

    /// Makes one. It fails when there is one already: somebody else was faster, and it is theirs.
    ///
    /// # Errors
    /// Those of the API server.
    pub async fn create(&self, ledger: &Ledger) -> Result<Stored, kube::Error> {
        let made = self
            .api
            .create(&PostParams::default(), &secret(ledger, None))
            .await?;
        Ok(Stored {
            seen: LedgerSeen::Is(Box::new(ledger.clone())),
            version: made.metadata.resource_version,
        })
    }

    /// Replaces the one that was read. It fails with a conflict when it is not that one any more.
    ///
    /// # Errors
    /// Those of the API server.
    pub async fn put(&self, ledger: &Ledger, read: &Stored) -> Result<Stored, kube::Error> {
        let secret = secret(ledger, read.version.clone());
        let written = self
            .api
            .replace(&name(&ledger.session.uid), &PostParams::default(), &secret)
            .await?;
        Ok(Stored {
            seen: LedgerSeen::Is(Box::new(ledger.clone())),
            version: written.metadata.resource_version,
        })
    }

    /// Forgets one that is settled, if it is still the one that was read. Already gone is done.
    ///
    /// # Errors
    /// Those of the API server.
    pub async fn delete(&self, uid: &str, version: Option<String>) -> Result<(), kube::Error> {
        let preconditions = Preconditions {
            uid: None,
            resource_version: version,
        };
        let params = DeleteParams {
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        match self.api.delete(&name(uid), &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// All of them, with the UIDs of the sessions that they belong to.
    ///
    /// # Errors
    /// Those of the API server.
    pub async fn list(&self) -> Result<BTreeMap<String, Stored>, kube::Error> {
        let ours = ListParams::default().labels(&format!("{LABEL_MANAGED_BY}={MANAGED_BY}"));
        let secrets = self.api.list(&ours).await?;
        let uid = |secret: &Secret| {
            secret
                .metadata
                .name
                .as_deref()?
                .strip_prefix("ledger-")
                .map(str::to_owned)
        };
        let stored = |secret: Secret| {
            let uid = uid(&secret)?;
            Some((
                uid,
                Stored {
                    seen: parse(&secret),
                    version: secret.metadata.resource_version,
                },
            ))
        };
        Ok(secrets.items.into_iter().filter_map(stored).collect())
    }
}

fn name(uid: &str) -> String {
    format!("ledger-{uid}")
}

fn secret(ledger: &Ledger, version: Option<String>) -> Secret {
    let json = serde_json::to_vec(ledger).expect("a ledger has string keys and whole numbers only");
    Secret {
        metadata: ObjectMeta {
            name: Some(name(&ledger.session.uid)),
            resource_version: version,
            labels: Some(BTreeMap::from([
                (LABEL_SESSION.to_owned(), ledger.session.name.clone()),
                (LABEL_UID.to_owned(), ledger.session.uid.clone()),
                (LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned()),
            ])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(DATA_KEY.to_owned(), ByteString(json))])),
        ..Secret::default()
    }
}

/// What cannot be read, or was written by a version whose meaning is not known, is left alone: nothing may be done then.
fn parse(secret: &Secret) -> LedgerSeen {
    let json = secret.data.as_ref().and_then(|data| data.get(DATA_KEY));
    let ledger: Option<Ledger> = json.and_then(|json| serde_json::from_slice(&json.0).ok());
    match ledger {
        Some(ledger) if ledger.version <= VERSION => LedgerSeen::Is(Box::new(ledger)),
        Some(_) | None => LedgerSeen::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::session::decide::world;

    #[test]
    fn a_ledger_survives_its_secret() {
        let ledger = world::rented();
        assert_eq!(
            parse(&secret(&ledger, None)),
            LedgerSeen::Is(Box::new(ledger))
        );
    }

    #[test]
    fn fields_of_a_newer_writer_are_ignored_and_those_of_an_older_one_filled_in() {
        let ledger = world::rented();
        let mut json = serde_json::to_value(&ledger).unwrap();
        json["tomorrow"] = 1.into();
        json["pods"][0]["tomorrow"] = 1.into();
        for optional in ["folded", "refusal", "leftOut", "gap", "receipted", "plan"] {
            json.as_object_mut().unwrap().remove(optional);
        }
        let mut changed = secret(&ledger, None);
        let data = BTreeMap::from([(
            DATA_KEY.to_owned(),
            ByteString(serde_json::to_vec(&json).unwrap()),
        )]);
        changed.data = Some(data);
        assert_eq!(parse(&changed), LedgerSeen::Is(Box::new(ledger)));
    }

    #[test]
    fn a_ledger_of_a_version_to_come_is_left_alone() {
        let mut ledger = world::rented();
        ledger.version = VERSION + 1;
        assert_eq!(parse(&secret(&ledger, None)), LedgerSeen::Unreadable);
        let mut torn = secret(&ledger, None);
        torn.data = None;
        assert_eq!(parse(&torn), LedgerSeen::Unreadable);
    }

    #[test]
    fn nothing_secret_is_printed() {
        let ledger = world::rented();
        let json = String::from_utf8(
            secret(&ledger, None)
                .data
                .unwrap()
                .remove(DATA_KEY)
                .unwrap()
                .0,
        )
        .unwrap();
        assert!(json.contains("OPENSSH PRIVATE KEY"), "the keys are kept");
        assert!(!format!("{ledger:?}").contains("OPENSSH"), "and not shown");
    }
}
