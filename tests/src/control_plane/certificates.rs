//! The control plane's own certificates: an authority, the API server's, two clients', and the key that signs
//! the tokens of service accounts.

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

/// All of them, as PEM.
pub(super) struct Certificates {
    pub(super) ca: String,
    pub(super) admin: Pair,
    pub(super) controller_manager: Pair,
    api_server: Pair,
    service_accounts: KeyPair,
}

impl Certificates {
    pub(super) fn make() -> Result<Certificates, rcgen::Error> {
        let mut params = named("srchat rig", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate()?;
        let ca = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);

        let mut api_server = named("kube-apiserver", None);
        api_server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        api_server.subject_alt_names = vec![
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::DnsName("localhost".try_into()?),
            SanType::DnsName("kubernetes.default.svc".try_into()?),
        ];
        Ok(Certificates {
            ca,
            admin: signed(client("srchat-rig-admin", Some("system:masters")), &issuer)?,
            controller_manager: signed(client("system:kube-controller-manager", None), &issuer)?,
            api_server: signed(api_server, &issuer)?,
            service_accounts: KeyPair::generate()?,
        })
    }

    /// Writes what the programs read as files.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        write_private(&folder.join("ca.crt"), &self.ca)?;
        write_private(&folder.join("api-server.crt"), &self.api_server.certificate)?;
        write_private(&folder.join("api-server.key"), &self.api_server.key)?;
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

fn client(name: &str, group: Option<&str>) -> CertificateParams {
    let mut params = named(name, group);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn signed(params: CertificateParams, issuer: &Issuer<'_, KeyPair>) -> Result<Pair, rcgen::Error> {
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?.pem();
    Ok(Pair {
        certificate,
        key: key.serialize_pem(),
    })
}
