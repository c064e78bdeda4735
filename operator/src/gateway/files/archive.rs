//! Many files as one body: `?format=tar`. Up, they appear together when all of them are whole; down, they come one after another.

mod pack;
mod unpack;

use super::FileName;
use crate::gateway::refusal::Refusal;

pub(super) use pack::pack;
pub(super) use unpack::unpack;

/// Files up to this size are held in memory and move many at a time, so that distance costs no round trips for each of them.
const SMALL: u64 = 256 << 10;
/// So many at once: 8 MiB at most.
const AT_ONCE: usize = 32;

/// `?format=&under=&sums=`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Whether a tar is asked for.
    pub tar: bool,
    /// The folder below which the files lie.
    pub under: Option<FileName>,
    /// Whether a tar tells each file's SHA-256 (`sums=pax`). Programs that do not know the keyword complain of it, file by file.
    pub sums: bool,
}

/// Reads the query of a list of files.
pub fn parse(query: Option<&str>) -> Result<Ask, Refusal> {
    let mut ask = Ask::default();
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "format" => {
                ask.tar = match &*value {
                    "tar" => true,
                    "json" => false,
                    _ => return Err(Refusal::field("format", "It is json or tar.")),
                };
            }
            "sums" => ask.sums = value == "pax",
            "under" => {
                let folder = value.trim_end_matches('/');
                if !folder.is_empty() {
                    let bad = || Refusal::field("under", "This is no folder's name.");
                    ask.under = Some(FileName::parse(folder).ok_or_else(bad)?);
                }
            }
            _ => {}
        }
    }
    Ok(ask)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_query_is_read_and_a_folder_stays_below_the_root() {
        assert_eq!(parse(None), Ok(Ask::default()));
        let ask = parse(Some("format=tar&under=a+b%2Fc/&x=y")).unwrap();
        assert!(ask.tar);
        assert_eq!(ask.under.unwrap().as_str(), "a b/c");
        assert_eq!(parse(Some("under=")).unwrap().under, None);
        for bad in ["format=zip", "under=..", "under=/etc", "under=a/../../b"] {
            assert!(parse(Some(bad)).is_err(), "{bad}");
        }
    }
}
