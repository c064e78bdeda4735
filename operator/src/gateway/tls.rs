//! TLS 1.3 and nothing older; the leaf can be exchanged while connections come in.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::validity;

/// A handshake is two round trips; slower is a scanner or an attack.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A certificate that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The chain is not PEM, or empty.
    #[error("tls.crt holds no certificate")]
    Chain,
    /// The key is not PEM. What it says instead is not quoted.
    #[error("tls.key holds no private key")]
    Key,
    /// The two do not belong together, or the key is of an unknown kind.
    #[error("tls.key does not fit tls.crt")]
    Unfit(#[source] rustls::Error),
    /// rustls refuses the settings.
    #[error("could not set TLS up")]
    Settings(#[source] rustls::Error),
}

/// The leaf that is served at the moment.
#[derive(Debug, Default)]
pub struct Leaf(RwLock<Option<Arc<CertifiedKey>>>);

impl Leaf {
    /// Serves another leaf from now on. The old one stays when this is an error.
    pub fn set(&self, chain_pem: &[u8], key_pem: &[u8]) -> Result<(), Error> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain_pem).collect();
        let chain = chain
            .ok()
            .filter(|chain| !chain.is_empty())
            .ok_or(Error::Chain)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_error| Error::Key)?;
        let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(Error::Unfit)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(key));
        Ok(())
    }

    /// Until when clients accept the one that is served; `None` where its dates cannot be read, and clients say what they think of it.
    pub fn until(&self) -> Option<Timestamp> {
        validity::not_after(self.served()?.cert.first()?)
    }

    fn served(&self) -> Option<Arc<CertifiedKey>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        self.served().is_some()
    }
}

impl ResolvesServerCert for Leaf {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.served()
    }
}

/// Shakes hands with clients.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl Tls {
    /// TLS 1.3 with the leaf as it is at each handshake; HTTP/1.1 is the one protocol offered.
    pub fn new(leaf: Arc<Leaf>) -> Result<Self, Error> {
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(Error::Settings)?
                .with_no_client_auth()
                .with_cert_resolver(leaf);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(Error::Settings)?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// The encrypted connection, or why there is none.
    pub async fn accept<I: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: I,
    ) -> io::Result<TlsStream<I>> {
        timeout(HANDSHAKE_TIMEOUT, self.0.accept(stream))
            .await
            .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
    use tokio_rustls::TlsConnector;

    use super::*;

    fn leaf(name: &str) -> rcgen::CertifiedKey<rcgen::KeyPair> {
        rcgen::generate_simple_self_signed([name.to_owned()]).unwrap()
    }

    fn install(to: &Leaf, from: &rcgen::CertifiedKey<rcgen::KeyPair>) {
        to.set(
            from.cert.pem().as_bytes(),
            from.signing_key.serialize_pem().as_bytes(),
        )
        .unwrap();
    }

    async fn shake(
        tls: &Tls,
        root: &rcgen::CertifiedKey<rcgen::KeyPair>,
        version: &'static SupportedProtocolVersion,
    ) -> io::Result<()> {
        let mut roots = RootCertStore::empty();
        roots.add(root.cert.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (near, far) = tokio::io::duplex(64 << 10);
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let (client, server) = tokio::join!(connector.connect(name, near), tls.accept(far));
        client.map(drop).and(server.map(drop))
    }

    #[tokio::test]
    async fn only_the_newest_version_is_spoken() {
        let current = leaf("localhost");
        let slot = Arc::new(Leaf::default());
        install(&slot, &current);
        let tls = Tls::new(slot).unwrap();
        shake(&tls, &current, &rustls::version::TLS13)
            .await
            .unwrap();
        assert!(
            shake(&tls, &current, &rustls::version::TLS12)
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn a_new_leaf_is_served_at_once_and_a_broken_one_changes_nothing() {
        let (old, new) = (leaf("localhost"), leaf("localhost"));
        let slot = Arc::new(Leaf::default());
        let tls = Tls::new(slot.clone()).unwrap();
        assert!(!slot.is_set());
        install(&slot, &old);
        shake(&tls, &old, &rustls::version::TLS13).await.unwrap();
        install(&slot, &new);
        shake(&tls, &new, &rustls::version::TLS13).await.unwrap();
        let key = old.signing_key.serialize_pem();
        assert!(matches!(
            slot.set(b"nonsense", key.as_bytes()),
            Err(Error::Chain)
        ));
        assert!(matches!(
            slot.set(new.cert.pem().as_bytes(), b"nonsense"),
            Err(Error::Key)
        ));
        assert!(matches!(
            slot.set(new.cert.pem().as_bytes(), key.as_bytes()),
            Err(Error::Unfit(_))
        ));
        shake(&tls, &new, &rustls::version::TLS13).await.unwrap();
    }
}
