//! The control plane's own certificates: an authority, the API server's, whatever clients and servers ask for one, and the
//! key that signs the tokens of service accounts.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::cluster::write_private;

/// A certificate and its key, both as PEM.
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Pair {
    /// Writes `NAME.crt` and `NAME.key`.
    pub(super) fn write(&self, folder: &Path, name: &str) -> io::Result<()> {
        write_private(&folder.join(format!("{name}.crt")), &self.certificate)?;
        write_private(&folder.join(format!("{name}.key")), &self.key)
    }
}

/// The authority, and what the API server has from it.
pub(super) struct Certificates {
    pub(super) ca: String,
    issuer: Issuer<'static, KeyPair>,
    api_server: Pair,
    service_accounts: KeyPair,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl Certificates {
    /// For an API server at these addresses.
    pub(super) fn make(addresses: &[Ipv4Addr]) -> Result<Certificates, rcgen::Error> {
        let mut params = named("srchat rig", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate()?;
        let ca = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);

        let mut names = vec![
            SanType::DnsName("localhost".try_into()?),
            SanType::DnsName("kubernetes.default.svc".try_into()?),
        ];
        names.extend(addresses.iter().copied().map(ip));
        let api_server = signed(server("kube-apiserver", names), &issuer)?;
        Ok(Certificates {
            ca,
            issuer,
            api_server,
            service_accounts: KeyPair::generate()?,
        })
    }

    /// A client's, which the API server takes for this user.
    pub(super) fn client(&self, user: &str, group: Option<&str>) -> Result<Pair, rcgen::Error> {
        let mut params = named(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        signed(params, &self.issuer)
    }

    /// A server's at an address.
    pub(super) fn server(&self, name: &str, address: Ipv4Addr) -> Result<Pair, rcgen::Error> {
        signed(server(name, vec![ip(address)]), &self.issuer)
    }

    /// Writes what the programs read as files.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        write_private(&folder.join("ca.crt"), &self.ca)?;
        self.api_server.write(folder, "api-server")?;
        write_private(
            &folder.join("service-accounts.key"),
            &self.service_accounts.serialize_pem(),
        )?;
        write_private(
            &folder.join("service-accounts.pub"),
            &self.service_accounts.public_key_pem(),
        )
    }
}

fn named(name: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

fn server(name: &str, names: Vec<SanType>) -> CertificateParams {
    let mut params = named(name, None);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = names;
    params
}

fn ip(address: Ipv4Addr) -> SanType {
    SanType::IpAddress(IpAddr::V4(address))
}

fn signed(params: CertificateParams, issuer: &Issuer<'_, KeyPair>) -> Result<Pair, rcgen::Error> {
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?.pem();
    Ok(Pair {
        certificate,
        key: key.serialize_pem(),
    })
}
