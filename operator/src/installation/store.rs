//! The installation at the API server: its Secret, the gateways' certificate, the public half of the receipts' key.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use srchat_crds::{FIELD_MANAGER, LABEL_MANAGED_BY, MANAGED_BY};

use super::{Damaged, Installation, SECRET, ca};

/// The Secret with the gateways' certificate, in the sessions' namespace.
pub const LEAF_SECRET: &str = "srchat-gateway-tls";
/// The ConfigMap with the public half of the receipts' key.
pub const RECEIPTS_KEY: &str = "srchat-receipts-key";
/// On [`LEAF_SECRET`]: when the controller makes the next one, RFC 3339.
const RENEW_AFTER: &str = "srchat.dev/renew-after";
/// Its UID tells one cluster from another: it lives as long as the cluster.
const CLUSTER_NAMESPACE: &str = "kube-system";

/// Why there is no installation to work with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not do it.
    #[error("could not {0}")]
    Api(&'static str, #[source] kube::Error),
    /// The Secret is not an installation's.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// No certificate could be made.
    #[error(transparent)]
    Certificate(#[from] ca::Error),
    /// The cluster did not say who it is.
    #[error("the namespace kube-system has no UID")]
    Nameless,
}

/// The installation at the API server.
#[derive(Clone)]
pub struct Store {
    client: Client,
    namespace: String,
    sessions_namespace: String,
}

impl Store {
    /// Works in the controller's and the sessions' namespaces.
    pub fn new(client: Client, namespace: &str, sessions_namespace: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            sessions_namespace: sessions_namespace.to_owned(),
        }
    }

    /// Reads the installation, or makes it where there is none. Its authority may sign for `names`; when these have changed, a
    /// new authority follows the old one. Second value: whether it belongs to this cluster.
    pub async fn open(&self, names: &[String]) -> Result<(Installation, bool), Error> {
        let cluster = self.cluster().await?;
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = secrets
            .get_opt(SECRET)
            .await
            .map_err(|e| Error::Api("read the installation's Secret", e))?;
        let found = match found {
            Some(found) => found,
            None => {
                self.make(&secrets, &Installation::new(&cluster, names)?)
                    .await?
            }
        };
        let mut installation = Installation::from_data(&found.data.clone().unwrap_or_default())?;
        let bound = installation.bound_to(&cluster);
        if bound && let Some(next) = installation.authority.for_names(names)? {
            installation.authority = next;
            // By PUT with the version that was read: of two controllers, one keeps its authority and the other starts over.
            let secret = Secret {
                data: Some(installation.to_data()),
                ..found
            };
            let put = secrets
                .replace(SECRET, &PostParams::default(), &secret)
                .await;
            put.map_err(|e| Error::Api("write the installation's Secret", e))?;
        }
        Ok((installation, bound))
    }

    /// Reads the installation where there is one, and makes nothing. Second value as for [`Self::open`].
    pub async fn read(&self) -> Result<Option<(Installation, bool)>, Error> {
        let cluster = self.cluster().await?;
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = secrets.get_opt(SECRET).await;
        let found = found.map_err(|e| Error::Api("read the installation's Secret", e))?;
        let Some(found) = found else {
            return Ok(None);
        };
        let installation = Installation::from_data(&found.data.unwrap_or_default())?;
        let bound = installation.bound_to(&cluster);
        Ok(Some((installation, bound)))
    }

    /// Makes sure that the gateways have a certificate of this authority that is not due for renewal, and that the receipts' key
    /// is published.
    pub async fn keep(&self, installation: &Installation, now: Timestamp) -> Result<(), Error> {
        self.keep_leaf(installation, now).await?;
        let data = BTreeMap::from([("receipts.pub".to_owned(), installation.receipts_key())]);
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = maps
            .get_opt(RECEIPTS_KEY)
            .await
            .map_err(|e| Error::Api("read the published receipts' key", e))?;
        if found.is_some_and(|found| found.data.as_ref() == Some(&data)) {
            return Ok(());
        }
        let key = ConfigMap {
            metadata: self.named(RECEIPTS_KEY, &self.namespace),
            data: Some(data),
            ..ConfigMap::default()
        };
        let apply = maps
            .patch(RECEIPTS_KEY, &apply(), &Patch::Apply(&key))
            .await;
        apply
            .map(|_| ())
            .map_err(|e| Error::Api("publish the receipts' key", e))
    }

    async fn keep_leaf(&self, installation: &Installation, now: Timestamp) -> Result<(), Error> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.sessions_namespace);
        let found = secrets
            .get_opt(LEAF_SECRET)
            .await
            .map_err(|e| Error::Api("read the gateways' certificate", e))?;
        let bundle = installation.authority.bundle();
        if found.is_some_and(|found| fresh(&found, &bundle, now)) {
            return Ok(());
        }
        let leaf = installation.authority.leaf(now)?;
        let mut metadata = self.named(LEAF_SECRET, &self.sessions_namespace);
        metadata.annotations = Some(BTreeMap::from([(
            RENEW_AFTER.to_owned(),
            leaf.renew_after.to_string(),
        )]));
        let part = |name: &str, pem: &str| (name.to_owned(), ByteString(pem.as_bytes().to_vec()));
        let secret = Secret {
            metadata,
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(BTreeMap::from([
                part("tls.crt", &leaf.certificate),
                part("tls.key", &leaf.key),
                part("ca.crt", &bundle),
            ])),
            ..Secret::default()
        };
        let apply = secrets
            .patch(LEAF_SECRET, &apply(), &Patch::Apply(&secret))
            .await;
        apply
            .map(|_| ())
            .map_err(|e| Error::Api("write the gateways' certificate", e))
    }

    async fn cluster(&self) -> Result<String, Error> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let found = namespaces.get(CLUSTER_NAMESPACE).await;
        let found = found.map_err(|e| Error::Api("read which cluster this is", e))?;
        found.metadata.uid.ok_or(Error::Nameless)
    }

    /// Creates the Secret; when another controller was first, what that one made counts.
    async fn make(
        &self,
        secrets: &Api<Secret>,
        installation: &Installation,
    ) -> Result<Secret, Error> {
        let secret = Secret {
            metadata: self.named(SECRET, &self.namespace),
            data: Some(installation.to_data()),
            ..Secret::default()
        };
        match secrets.create(&PostParams::default(), &secret).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => secrets
                .get(SECRET)
                .await
                .map_err(|e| Error::Api("read the installation's Secret", e)),
            made => made.map_err(|e| Error::Api("make the installation's Secret", e)),
        }
    }

    fn named(&self, name: &str, namespace: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(BTreeMap::from([(
                LABEL_MANAGED_BY.to_owned(),
                MANAGED_BY.to_owned(),
            )])),
            // Helm leaves it alone on uninstall.
            annotations: Some(BTreeMap::from([(
                "helm.sh/resource-policy".to_owned(),
                "keep".to_owned(),
            )])),
            ..ObjectMeta::default()
        }
    }
}

fn apply() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

fn fresh(leaf: &Secret, bundle: &str, now: Timestamp) -> bool {
    let data = leaf.data.as_ref();
    let has = |name: &str| {
        data.is_some_and(|data| data.get(name).is_some_and(|value| !value.0.is_empty()))
    };
    let annotations = leaf.metadata.annotations.as_ref();
    let renew_after = annotations.and_then(|all| all.get(RENEW_AFTER)?.parse::<Timestamp>().ok());
    let same = data
        .and_then(|data| data.get("ca.crt"))
        .is_some_and(|value| value.0 == bundle.as_bytes());
    same && has("tls.crt") && has("tls.key") && renew_after.is_some_and(|due| now < due)
}
