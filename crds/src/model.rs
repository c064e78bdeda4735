//! Which model: `owner/name[:variant][@revision]`, as the Hugging Face Hub names it.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The text form that [`ModelId`] parses and the CRD admits; two dots or two hyphens in a row are refused besides, as the Hub
/// does in owners and names (in revisions, `..` is not a Git reference).
pub const PATTERN: &str = concat!(
    "^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?",
    "/[A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?",
    "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?",
    "(@[A-Za-z0-9_][A-Za-z0-9_./-]{0,127})?$"
);

/// A model on the Hub, perhaps one GGUF file of it, perhaps at one revision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelId {
    text: String,
    repository: usize,
    variant: Option<usize>,
}

/// A text that is not the name of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a model: write owner/name as on the Hub, with :variant for a GGUF file and @revision where wanted"
)]
pub struct NotAModel(String);

impl ModelId {
    /// `owner/name`.
    pub fn repository(&self) -> &str {
        &self.text[..self.repository]
    }

    /// The first half of the repository.
    pub fn owner(&self) -> &str {
        self.repository()
            .split_once('/')
            .map_or("", |(owner, _)| owner)
    }

    /// The second half of the repository.
    pub fn name(&self) -> &str {
        self.repository()
            .split_once('/')
            .map_or("", |(_, name)| name)
    }

    /// Which GGUF file, for example `Q4_K_M`.
    pub fn variant(&self) -> Option<&str> {
        let end = self.variant?;
        Some(&self.text[self.repository + 1..end])
    }

    /// The branch, tag or commit asked for.
    pub fn revision(&self) -> Option<&str> {
        self.text.get(self.variant.unwrap_or(self.repository) + 1..)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Whether `part` starts as it must, has only letters, digits, `_` and the `more` characters, and is short enough.
fn well_formed(part: &str, more: &str, most: usize) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    part.len() <= most
        && part.starts_with(word)
        && part.chars().all(|c| word(c) || more.contains(c))
}

impl FromStr for ModelId {
    type Err = NotAModel;

    fn from_str(text: &str) -> Result<Self, NotAModel> {
        let refused = || NotAModel(text.to_owned());
        let (rest, revision) = match text.split_once('@') {
            Some((rest, revision)) => (rest, Some(revision)),
            None => (text, None),
        };
        let (repository, variant) = match rest.split_once(':') {
            Some((repository, variant)) => (repository, Some(variant)),
            None => (rest, None),
        };
        let (owner, name) = repository.split_once('/').ok_or_else(refused)?;
        let ends = |part: &str| !part.ends_with(['.', '-']);
        let good = [owner, name]
            .iter()
            .all(|part| well_formed(part, ".-", 96) && ends(part))
            && !repository.contains("--")
            && variant.is_none_or(|variant| well_formed(variant, ".-", 64))
            && revision.is_none_or(|revision| well_formed(revision, "./-", 128))
            && !text.contains("..");
        if !good {
            return Err(refused());
        }
        let variant = variant.map(|variant| repository.len() + 1 + variant.len());
        Ok(Self {
            repository: repository.len(),
            variant,
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl Serialize for ModelId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for ModelId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl JsonSchema for ModelId {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ModelId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 400 })
    }
}
