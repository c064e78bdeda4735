//! The installation's own certificate authority: it may sign for the gateways' names only, and its key stays with the controller.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{Timestamp, ToSpan as _, civil::Date, tz::TimeZone};
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};

pub(crate) const KEY: &str = "ca.key";
pub(crate) const NAMES: &str = "ca.names";
pub(crate) const PREVIOUS: &str = "ca.previous";
const CERTIFICATE: &str = "ca.crt";

/// Of the authority: clients copy its certificate, so it outlives any cluster's usual life.
const AUTHORITY_DAYS: i64 = 3650;
/// Of a leaf: renewed at two thirds of it, so a controller may be away for a month.
const LEAF_DAYS: i64 = 90;
const RENEW_AFTER_DAYS: i64 = 60;
/// Clocks of clients may be behind ours.
const SKEW_DAYS: i64 = 1;

/// What could not be made.
#[derive(Debug, thiserror::Error)]
#[error("could not make a certificate for the gateways")]
pub struct Error(#[from] rcgen::Error);

/// The authority, with the one before it while clients move over.
pub struct Authority {
    key: KeyPair,
    certificate: String,
    names: Vec<String>,
    previous: Option<String>,
}

/// A certificate for the gateways, and its key.
pub struct Leaf {
    /// PEM.
    pub certificate: String,
    /// PEM, PKCS #8.
    pub key: zeroize::Zeroizing<String>,
    /// When to make the next one.
    pub renew_after: Timestamp,
}

impl Authority {
    /// A new authority that may sign for these host names and addresses.
    pub fn new(names: &[String]) -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let certificate = params(names, Timestamp::now()).self_signed(&key)?.pem();
        Ok(Self {
            key,
            certificate,
            names: names.to_vec(),
            previous: None,
        })
    }

    /// This authority when it may sign for these names; else the one that follows it, which keeps this one's certificate for
    /// clients that have only that.
    pub fn for_names(&self, names: &[String]) -> Result<Option<Self>, Error> {
        if self.names == names {
            return Ok(None);
        }
        let next = Self::new(names)?;
        Ok(Some(Self {
            previous: Some(self.certificate.clone()),
            ..next
        }))
    }

    /// What clients should trust, PEM: this authority and the one before it.
    pub fn bundle(&self) -> String {
        [Some(&self.certificate), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect()
    }

    /// Signs a new leaf for its names.
    pub fn leaf(&self, now: Timestamp) -> Result<Leaf, Error> {
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(self.names.clone())?;
        leaf.distinguished_name
            .push(DnType::CommonName, "srchat gateway");
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        valid_for(&mut leaf, now, LEAF_DAYS);
        let authority = params(&self.names, now);
        let certificate = leaf
            .signed_by(&key, &Issuer::from_params(&authority, &self.key))?
            .pem();
        Ok(Leaf {
            certificate,
            key: key.serialize_pem().into(),
            renew_after: now
                .checked_add((RENEW_AFTER_DAYS * 24).hours())
                .unwrap_or(Timestamp::MAX),
        })
    }

    pub(super) fn to_data(&self) -> BTreeMap<String, ByteString> {
        let part =
            |name: &str, value: &str| (name.to_owned(), ByteString(value.as_bytes().to_vec()));
        BTreeMap::from([
            part(KEY, &self.key.serialize_pem()),
            part(CERTIFICATE, &self.certificate),
            part(NAMES, &self.names.join("\n")),
            part(PREVIOUS, self.previous.as_deref().unwrap_or_default()),
        ])
    }

    pub(super) fn from_data(data: &BTreeMap<String, ByteString>) -> Result<Self, Error> {
        let text = |name: &str| {
            let value = data
                .get(name)
                .and_then(|value| std::str::from_utf8(&value.0).ok());
            value.ok_or(rcgen::Error::CouldNotParseCertificate)
        };
        let certificate = text(CERTIFICATE)?;
        if !certificate.contains("END CERTIFICATE") {
            return Err(rcgen::Error::CouldNotParseCertificate.into());
        }
        Ok(Self {
            key: KeyPair::from_pem(text(KEY)?)?,
            certificate: certificate.to_owned(),
            names: text(NAMES)?.lines().map(str::to_owned).collect(),
            previous: text(PREVIOUS)
                .ok()
                .filter(|pem| !pem.is_empty())
                .map(str::to_owned),
        })
    }
}

/// The same parameters wherever the authority signs: its name and key identifier must not differ between its own certificate
/// and those it issues.
fn params(names: &[String], now: Timestamp) -> CertificateParams {
    let mut ca = CertificateParams::default();
    ca.distinguished_name
        .push(DnType::CommonName, "srchat installation");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.name_constraints = Some(constraints(names));
    valid_for(&mut ca, now, AUTHORITY_DAYS);
    ca
}

/// A kind of name without a permitted one is excluded altogether: constraints on one kind say nothing of another (RFC 5280,
/// 4.2.1.10).
fn constraints(names: &[String]) -> NameConstraints {
    let permitted_subtrees: Vec<_> = names
        .iter()
        .map(|name| match name.parse::<IpAddr>() {
            Ok(address) => GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(
                address,
                if address.is_ipv4() { 32 } else { 128 },
            )),
            Err(_) => GeneralSubtree::DnsName(name.clone()),
        })
        .collect();
    let any_address = permitted_subtrees
        .iter()
        .any(|subtree| matches!(subtree, GeneralSubtree::IpAddress(_)));
    let excluded_subtrees = if any_address {
        Vec::new()
    } else {
        vec![
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ]
    };
    NameConstraints {
        permitted_subtrees,
        excluded_subtrees,
    }
}

/// From the day before `now` until `days` after it, in whole days: certificates need no more, and their dates carry no clock.
fn valid_for(params: &mut CertificateParams, now: Timestamp, days: i64) {
    let today = now.to_zoned(TimeZone::UTC).date();
    let [from, until] = [-SKEW_DAYS, days].map(|plus| {
        let date = today.checked_add(plus.days()).unwrap_or(Date::MAX);
        rcgen::date_time_ymd(
            date.year().into(),
            date.month().unsigned_abs(),
            date.day().unsigned_abs(),
        )
    });
    (params.not_before, params.not_after) = (from, until);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

    use super::*;

    fn trusts(bundle: &str, leaf: &Leaf, name: &str) -> bool {
        let mut roots = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let leaf = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier
            .verify_server_cert(&leaf, &[], &name, &[], UnixTime::now())
            .is_ok()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_leaf_is_trusted_for_the_gateways_names_and_for_no_other() {
        let authority = Authority::new(&names(&["gateway.example", "127.0.0.1"])).unwrap();
        let leaf = authority.leaf(Timestamp::now()).unwrap();
        assert!(trusts(&authority.bundle(), &leaf, "gateway.example"));
        assert!(trusts(&authority.bundle(), &leaf, "127.0.0.1"));
        assert!(!trusts(&authority.bundle(), &leaf, "other.example"));
    }

    #[test]
    fn a_stolen_key_cannot_sign_for_another_name() {
        let ours = Authority::new(&names(&["gateway.example"])).unwrap();
        let data = ours.to_data();
        for foreign in ["bank.example", "10.0.0.1"] {
            let mut stolen = Authority::from_data(&data).unwrap();
            stolen.names = names(&[foreign]);
            let leaf = stolen.leaf(Timestamp::now()).unwrap();
            assert!(!trusts(&ours.bundle(), &leaf, foreign), "{foreign}");
        }
    }

    #[test]
    fn after_a_change_of_names_the_bundle_holds_both_authorities() {
        let old = Authority::new(&names(&["old.example"])).unwrap();
        let new = old.for_names(&names(&["new.example"])).unwrap().unwrap();
        assert!(trusts(
            &new.bundle(),
            &old.leaf(Timestamp::now()).unwrap(),
            "old.example"
        ));
        assert!(trusts(
            &new.bundle(),
            &new.leaf(Timestamp::now()).unwrap(),
            "new.example"
        ));
        assert!(new.for_names(&names(&["new.example"])).unwrap().is_none());
    }

    #[test]
    fn a_leaf_of_an_authority_that_was_read_back_is_trusted_too() {
        let made = Authority::new(&names(&["gateway.example"])).unwrap();
        let read = Authority::from_data(&made.to_data()).unwrap();
        assert!(trusts(
            &made.bundle(),
            &read.leaf(Timestamp::now()).unwrap(),
            "gateway.example"
        ));
    }
}
