//! Names of files: what a client may say, and what of a host's listing may be believed.

/// Ours: unfinished uploads. Clients can neither see nor name them.
const RESERVED: &str = ".srchat-";
/// Linux refuses longer components.
const COMPONENT_BYTES: usize = 255;
/// Generous for people, far below PATH_MAX.
const PATH_BYTES: usize = 1024;

/// A relative path that stays below its root: no empty component, `.`, `..`, or control character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName(String);

impl FileName {
    /// Reads a path; `None` for all that is not one.
    pub fn parse(path: &str) -> Option<Self> {
        let formed = path.len() <= PATH_BYTES
            && path.split('/').count() <= super::DEPTH
            && path.split('/').all(is_component)
            && !path.starts_with(RESERVED);
        formed.then(|| Self(path.to_owned()))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a path lies below this one, taken as a folder.
    pub fn holds(&self, path: &str) -> bool {
        path.strip_prefix(self.as_str())
            .is_some_and(|rest| rest.starts_with('/'))
    }

    /// The folders on the way to it, outermost first.
    pub fn folders(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }

    /// Where an upload lies until it is whole. The same content under the same name goes on where it broke off.
    pub(super) fn unfinished(&self, digest: Option<&str>) -> String {
        use sha2::{Digest as _, Sha256};
        let sum = Sha256::new()
            .chain_update(&self.0)
            .chain_update([0])
            .chain_update(digest.unwrap_or_default())
            .finalize();
        format!("{RESERVED}{}", hex::encode(&sum[..16]))
    }
}

/// Whether a path in a listing is an upload that is not whole.
pub(super) fn is_unfinished(path: &str) -> bool {
    path.starts_with(RESERVED)
}

/// One component of a path.
pub(super) fn is_component(name: &str) -> bool {
    !name.is_empty()
        && name != "."
        && name != ".."
        && name.len() <= COMPONENT_BYTES
        && !name.contains('/')
        && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_names_are_names() {
        for name in [
            "a",
            "a/b c/ü.txt",
            "...",
            ".hidden",
            "a..b",
            "-rf",
            "a\\b",
            "a;b",
        ] {
            assert!(FileName::parse(name).is_some(), "{name}");
        }
    }

    #[test]
    fn what_leaves_the_folder_or_hides_is_no_name() {
        for name in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "a/./b",
            "a//b",
            "a/",
            "a\nb",
            "a\0b",
            "a\u{7f}",
            ".srchat-x",
        ] {
            assert!(FileName::parse(name).is_none(), "{name:?}");
        }
        assert!(FileName::parse(&"a".repeat(256)).is_none());
        assert!(FileName::parse(&"a/".repeat(17)).is_none());
    }

    #[test]
    fn folders_come_outermost_first() {
        let name = FileName::parse("a/b/c").unwrap();
        assert_eq!(name.folders().collect::<Vec<_>>(), ["a", "a/b"]);
        assert_eq!(FileName::parse("c").unwrap().folders().count(), 0);
    }

    #[test]
    fn an_upload_goes_on_only_as_the_same_content() {
        let name = FileName::parse("a").unwrap();
        assert_eq!(name.unfinished(Some("1")), name.unfinished(Some("1")));
        assert_ne!(name.unfinished(Some("1")), name.unfinished(Some("2")));
        assert!(FileName::parse(&name.unfinished(None)).is_none());
    }

    proptest! {
        #[test]
        fn whatever_is_a_name_stays_below_its_root(path in "[a./\\n]{0,12}|\\PC{0,20}") {
            if let Some(name) = FileName::parse(&path) {
                let mut depth = 0i32;
                for part in std::path::Path::new(name.as_str()).components() {
                    prop_assert!(matches!(part, std::path::Component::Normal(_)), "{part:?}");
                    depth += 1;
                }
                prop_assert!(depth > 0);
            }
        }
    }
}
