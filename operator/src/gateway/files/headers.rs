//! The headers of transfers: parts of files, and what the whole must hash to.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::gateway::refusal::Refusal;

/// Hex, short to write with curl.
const SHA256: HeaderName = HeaderName::from_static("x-content-sha256");
/// RFC 9530: `sha-256=:BASE64:`.
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// RFC 3230, its predecessor: `sha-256=BASE64`.
const DIGEST: HeaderName = HeaderName::from_static("digest");

/// The SHA-256 of the whole file that a client announces, in lower-case hex.
pub(super) fn announced(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let bad = |name: &HeaderName| Refusal::field(name.as_str(), "This is no SHA-256.");
    if let Some(value) = headers.get(SHA256) {
        let sum = value.to_str().ok().and_then(|text| hex::decode(text).ok());
        return checked(sum).map(Some).ok_or_else(|| bad(&SHA256));
    }
    for name in [REPR_DIGEST, DIGEST] {
        let Some(value) = headers.get(&name) else {
            continue;
        };
        // A list of digests by algorithm; of others than SHA-256 we know nothing.
        let text = value.to_str().map_err(|_error| bad(&name))?;
        let ours = text
            .split(',')
            .filter_map(|one| one.trim().split_once('='))
            .find(|(kind, _)| kind.eq_ignore_ascii_case("sha-256"));
        if let Some((_, encoded)) = ours {
            let sum = STANDARD.decode(encoded.trim_matches(':')).ok();
            return checked(sum).map(Some).ok_or_else(|| bad(&name));
        }
    }
    Ok(None)
}

fn checked(sum: Option<Vec<u8>>) -> Option<String> {
    sum.filter(|sum| sum.len() == 32).map(hex::encode)
}

/// Tells the SHA-256 of the whole file.
pub(super) fn announce(headers: &mut HeaderMap, sum: &str) {
    let Ok(bytes) = hex::decode(sum) else { return };
    let digest = format!("sha-256=:{}:", STANDARD.encode(bytes));
    for (name, value) in [
        (SHA256, sum),
        (REPR_DIGEST, &*digest),
        (header::ETAG, &*tag(sum)),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
}

/// The entity tag: a file is what its bytes are.
fn tag(sum: &str) -> String {
    format!("\"{sum}\"")
}

/// The part of a file that is asked for: first byte and length; `None` for the whole. Several ranges are answered with the whole, and
/// so is one of a file that `If-Range` knows by another SHA-256: its parts do not fit together.
pub(super) fn range(
    headers: &HeaderMap,
    (size, sum): (u64, &str),
) -> Result<Option<(u64, u64)>, Refusal> {
    let Some(value) = headers.get(header::RANGE) else {
        return Ok(None);
    };
    if let Some(known) = headers.get(header::IF_RANGE)
        && known.as_bytes() != tag(sum).as_bytes()
    {
        return Ok(None);
    }
    let Some((first, last)) = value
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("bytes="))
        .filter(|text| !text.contains(','))
        .and_then(|text| text.split_once('-'))
    else {
        // RFC 9110: a Range that cannot be read is ignored.
        return Ok(None);
    };
    let (start, end) = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.saturating_add(1).min(size)),
        (Ok(first), Err(_)) if last.trim().is_empty() => (first, size),
        (Err(_), Ok(suffix)) if first.trim().is_empty() => (size.saturating_sub(suffix), size),
        _ => return Ok(None),
    };
    if start >= end {
        Err(Refusal::Range(size))
    } else {
        Ok(Some((start, end - start)))
    }
}

/// `Content-Range: bytes FIRST-LAST/TOTAL` of an upload in parts: where this part begins, its length, and the whole's.
pub(super) fn content_range(headers: &HeaderMap) -> Result<Option<(u64, u64, u64)>, Refusal> {
    let Some(value) = headers.get(header::CONTENT_RANGE) else {
        return Ok(None);
    };
    let parsed = value.to_str().ok().and_then(|text| {
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last, total): (u64, u64, u64) =
            (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
        (first <= last && last < total).then(|| (first, last - first + 1, total))
    });
    parsed
        .map(Some)
        .ok_or_else(|| Refusal::field("content-range", "It must read: bytes FIRST-LAST/TOTAL."))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn one(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_digest_is_read_in_all_three_forms() {
        let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let encoded = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
        for headers in [
            one(SHA256, &sum.to_uppercase()),
            one(REPR_DIGEST, &format!("sha-512=:AAAA:, sha-256=:{encoded}:")),
            one(DIGEST, &format!("SHA-256={encoded}")),
        ] {
            assert_eq!(announced(&headers).unwrap().as_deref(), Some(sum));
        }
        assert_eq!(announced(&HeaderMap::new()).unwrap(), None);
        assert!(announced(&one(SHA256, "abc")).is_err());
        assert!(announced(&one(REPR_DIGEST, "sha-256=:AAAA:")).is_err());
        let mut told = HeaderMap::new();
        announce(&mut told, sum);
        assert_eq!(announced(&told).unwrap().as_deref(), Some(sum));
    }

    #[test]
    fn ranges_are_read_as_http_says() {
        let asked = |value| range(&one(header::RANGE, value), (10, "ab"));
        assert_eq!(asked("bytes=0-"), Ok(Some((0, 10))));
        assert_eq!(asked("bytes=3-4"), Ok(Some((3, 2))));
        assert_eq!(asked("bytes=3-99"), Ok(Some((3, 7))));
        assert_eq!(asked("bytes=-4"), Ok(Some((6, 4))));
        assert_eq!(asked("bytes=-99"), Ok(Some((0, 10))));
        assert_eq!(asked("bytes=10-"), Err(Refusal::Range(10)));
        assert_eq!(asked("bytes=-0"), Err(Refusal::Range(10)));
        for ignored in [
            "bytes=4-3",
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=a-b",
            "bytes=-",
        ] {
            assert_eq!(asked(ignored), Ok(None), "{ignored}");
        }
        assert_eq!(range(&HeaderMap::new(), (10, "ab")), Ok(None));
    }

    #[test]
    fn a_part_of_a_file_that_has_changed_is_not_given() {
        let mut headers = one(header::RANGE, "bytes=3-");
        headers.insert(header::IF_RANGE, HeaderValue::from_static("\"ab\""));
        assert_eq!(range(&headers, (10, "ab")), Ok(Some((3, 7))));
        assert_eq!(range(&headers, (10, "cd")), Ok(None));
    }

    #[test]
    fn a_part_says_where_it_belongs() {
        let part = |value| content_range(&one(header::CONTENT_RANGE, value));
        assert_eq!(part("bytes 5-9/20"), Ok(Some((5, 5, 20))));
        for bad in [
            "bytes 5-9/*",
            "bytes 9-5/20",
            "bytes 5-20/20",
            "5-9/20",
            "bytes */20",
            "bytes -1-2/3",
        ] {
            assert!(part(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_range_stays_within_the_file(first in 0u64..30, last in 0u64..30, size in 0u64..30) {
            if let Ok(Some((start, length))) = range(&one(header::RANGE, &format!("bytes={first}-{last}")), (size, "ab")) {
                prop_assert!(length > 0 && start + length <= size);
            }
        }

        #[test]
        fn no_header_panics(text in "[ -~]{0,40}") {
            let _ = range(&one(header::RANGE, &text), (10, "ab"));
            let _ = content_range(&one(header::CONTENT_RANGE, &text));
            let _ = announced(&one(DIGEST, &text));
        }
    }
}
