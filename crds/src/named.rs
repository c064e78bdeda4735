//! One list of names for an enum that is written by name: its text, its display, its reading.

/// Gives an enum `ALL`, `as_str`, `Display` and `FromStr` from one list of variants and names.
macro_rules! named {
    ($type:ident { $($variant:ident = $name:literal,)* }) => {
        impl $type {
            /// Every value there is.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name, as it stands in the resource.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::named::UnknownName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let known = [$($name),*];
                Self::ALL
                    .iter()
                    .copied()
                    .find(|value| value.as_str() == text)
                    .ok_or_else(|| $crate::named::UnknownName { given: text.to_owned(), known: known.join(", ") })
            }
        }
    };
}

pub(crate) use named;

/// A name that an enum does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is none of {known}")]
pub struct UnknownName {
    pub(crate) given: String,
    pub(crate) known: String,
}
