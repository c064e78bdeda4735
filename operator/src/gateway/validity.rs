//! Until when the gateway's certificate may be used: told in the log and as a metric. An expired one is served on,
//! so that clients can say what is wrong instead of finding nobody.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use super::Gateway;

/// The controller's own certificates and cert-manager's are renewed weeks before: whoever is this late is late.
const SOON: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Often enough to be found in a log, and seldom enough not to fill it.
const REMIND: Duration = Duration::from_secs(3600);

/// Says it again each hour, until dropped; `secret` is where the certificate stands.
pub(super) async fn remind(gateway: &Gateway, secret: &str) {
    let mut ticks = tokio::time::interval(REMIND);
    // The first is due at once, when there is nothing to tell yet.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        tell(gateway, secret, Timestamp::now());
    }
}

/// Sets the metric, and complains where clients refuse the certificate or soon will.
pub(super) fn tell(gateway: &Gateway, secret: &str, now: Timestamp) {
    let Some(until) = gateway.leaf.until() else {
        return;
    };
    gateway.metrics.certificate_expires.set(until.as_second());
    if until <= now {
        tracing::error!(%until, secret, "the certificate has expired and clients refuse it: renew the Secret");
    } else if until.duration_since(now) < SOON {
        tracing::warn!(%until, secret, "the certificate expires soon: renew the Secret");
    }
}

/// The last moment at which a certificate is valid; `None` where this is no certificate.
pub(super) fn not_after(der: &[u8]) -> Option<Timestamp> {
    let certificate = Certificate::from_der(der).ok()?;
    let validity = certificate.tbs_certificate().validity();
    let until = validity.not_after.to_unix_duration();
    Timestamp::from_second(until.as_secs().try_into().ok()?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn until(year: i32) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(["chat.example".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 2, 3);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_last_day_is_read_in_both_of_its_forms() {
        for (year, expected) in [
            (1999, "1999-02-03T00:00:00Z"),
            (2031, "2031-02-03T00:00:00Z"),
            // From 2050 on years have four digits.
            (2077, "2077-02-03T00:00:00Z"),
        ] {
            assert_eq!(not_after(&until(year)).unwrap().to_string(), expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_no_certificate_has_no_last_day(cut in 0usize..200) {
            prop_assert_eq!(not_after(&until(2031)[..cut]), None);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            not_after(&bytes);
        }
    }
}
