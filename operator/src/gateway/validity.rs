//! Until when the gateway's certificate may be used: read from its DER, told in the log and as a metric. An expired one is served on,
//! so that clients can say what is wrong instead of finding nobody.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::Gateway;

/// The controller's own certificates and cert-manager's are renewed weeks before: whoever is this late is late.
const SOON: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Often enough to be found in a log, and seldom enough not to fill it.
const REMIND: Duration = Duration::from_secs(3600);

// Tags of X.690, as RFC 5280 uses them.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

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

/// The last moment at which a certificate is valid (RFC 5280, 4.1.2.5); `None` where this is no certificate.
pub(super) fn not_after(der: &[u8]) -> Option<Timestamp> {
    let (_, certificate, _) = element(der)?;
    let (_, signed, _) = element(certificate)?;
    let (first, _, mut rest) = element(signed)?;
    if first == VERSION {
        // The serial number; without a version it was the first.
        (_, _, rest) = element(rest)?;
    }
    let (_, _signature, rest) = element(rest)?;
    let (_, _issuer, rest) = element(rest)?;
    let (_, validity, _) = element(rest)?;
    let (_, _not_before, rest) = element(validity)?;
    let (tag, time, _) = element(rest)?;
    let time = std::str::from_utf8(time).ok()?;
    let time = match tag {
        GENERALIZED_TIME => time.to_owned(),
        // Two digits of a year: 50 and above are of the last century.
        UTC_TIME if time < "50" => format!("20{time}"),
        UTC_TIME => format!("19{time}"),
        _ => return None,
    };
    let time = DateTime::strptime("%Y%m%d%H%M%SZ", time).ok()?;
    time.to_zoned(TimeZone::UTC)
        .ok()
        .map(|time| time.timestamp())
}

/// Tag, contents and what follows of the first element (X.690, 8.1).
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match *length {
        short @ 0..=0x7f => (usize::from(short), rest),
        long => {
            let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            // A certificate of 16 MB or more is none.
            let length = (bytes.len() <= 3).then(|| {
                bytes
                    .iter()
                    .fold(0, |length, byte| length << 8 | usize::from(*byte))
            });
            (length?, rest)
        }
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((*tag, contents, rest))
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
