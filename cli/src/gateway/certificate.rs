//! What is wrong with a gateway's certificate, in words: no other try mends it, so nobody is left waiting for one.

use crate::failure::{Code, Failure};
use k8s_openapi::jiff::Timestamp;
use rustls::CertificateError;
use rustls::pki_types::UnixTime;
use std::error::Error;
use std::io;

const RENEW: &str = "whoever runs srchat renews the Secret of gateway.tls (cert-manager does it by itself), and the gateway \
                     takes it at once; is this machine's clock right?";
const NAME: &str = "whoever runs srchat has it issued for the host of gateway.url, or sets gateway.url to a name that it has";
const AUTHORITY: &str = "where its authority is private, whoever runs srchat puts that authority's PEM into gateway.tls.ca, \
                         and sessions publish it";

/// Why the certificate of `host` was refused, where that is why a request failed.
pub(super) fn refused(host: &str, error: &(dyn Error + 'static)) -> Option<Failure> {
    let (why, hint) = words(host, found(error)?);
    Some(Failure::new(Code::Error, why).hint(hint))
}

/// The verdict on the certificate, wherever in the chain of causes it stands.
fn found<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CertificateError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(verdict)) = error.downcast_ref() {
            return Some(verdict);
        }
        // An I/O error is not the parent of the error that it carries: it has to be opened.
        let carried = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match carried {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn words(host: &str, verdict: &CertificateError) -> (String, &'static str) {
    match verdict {
        CertificateError::Expired => (format!("the certificate of {host} has expired"), RENEW),
        CertificateError::ExpiredContext { not_after, .. } => (
            format!("the certificate of {host} expired on {}", day(*not_after)),
            RENEW,
        ),
        CertificateError::NotValidYet => {
            (format!("the certificate of {host} is not valid yet"), RENEW)
        }
        CertificateError::NotValidYetContext { not_before, .. } => (
            format!(
                "the certificate of {host} is valid from {} only",
                day(*not_before)
            ),
            RENEW,
        ),
        CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
            let names: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
            (
                format!(
                    "the certificate is for {}, and not for {host}",
                    names.join(", ")
                ),
                NAME,
            )
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            format!("the certificate is for another name than {host}"),
            NAME,
        ),
        // A signature that does not fit is of another authority of the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            format!("the certificate of {host} is of an authority that nobody here trusts"),
            AUTHORITY,
        ),
        // rustls may grow more verdicts; its own words do for what is rare.
        other => (
            format!("the certificate of {host} is refused: {other}"),
            "`srchat doctor` looks for more that is wrong",
        ),
    }
}

fn day(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let time = Timestamp::from_second(seconds);
    time.map_or_else(
        |_| "a day out of reach".to_owned(),
        |time| time.strftime("%Y-%m-%d").to_string(),
    )
}

/// `DnsName("chat.example")`, as the verifier writes it, without its wrapping.
fn bare(name: &str) -> &str {
    let inside = name.split_once('(').map_or(name, |(_, inside)| inside);
    inside.trim_end_matches(')').trim_matches('"')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustls::pki_types::ServerName;
    use std::time::Duration;

    fn said(verdict: CertificateError) -> String {
        let inner = io::Error::other(rustls::Error::InvalidCertificate(verdict));
        // As a client wraps it: an error that carries an error that carries it.
        let outer = io::Error::other(io::Error::other(inner));
        refused("chat.example", &outer).unwrap().message
    }

    #[test]
    fn each_verdict_is_a_sentence_with_what_the_certificate_says_of_itself() {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(86_400 * 365));
        let expired = CertificateError::ExpiredContext {
            time: UnixTime::now(),
            not_after: time,
        };
        assert_eq!(
            said(expired),
            "the certificate of chat.example expired on 1971-01-01"
        );
        let other = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("chat.example").unwrap(),
            presented: vec!["DnsName(\"a.example\")".into(), "b.example".into()],
        };
        assert_eq!(
            said(other),
            "the certificate is for a.example, b.example, and not for chat.example"
        );
        assert_eq!(
            said(CertificateError::UnknownIssuer),
            "the certificate of chat.example is of an authority that nobody here trusts"
        );
    }

    #[test]
    fn a_connection_that_failed_otherwise_is_none_of_its_business() {
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(refused("chat.example", &reset), None);
        let alert = io::Error::other(rustls::Error::DecryptError);
        assert_eq!(refused("chat.example", &alert), None);
    }
}
