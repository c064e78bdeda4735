//! Text, images and schemas inside a request, borrowed from its bytes where they stand.

use std::borrow::Cow;
use std::fmt;

use serde::de::{SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::gateway::refusal::Refusal;
use crate::route::RouteHost;

/// A string; copied only when it has escapes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }
        from.deserialize_str(Strings)
    }
}

/// A string, or a list of parts.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Content<'a, P> {
    Text(Text<'a>),
    Parts(Vec<P>),
}

impl<'de: 'a, 'a, P: Deserialize<'de>> Deserialize<'de> for Content<'a, P> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either<P>(std::marker::PhantomData<P>);
        impl<'de, P: Deserialize<'de>> Visitor<'de> for Either<P> {
            type Value = Content<'de, P>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Content::Text(Text(Cow::Borrowed(text))))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Content::Text(Text(Cow::Owned(text.to_owned()))))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, parts: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(parts)).map(Content::Parts)
            }
        }
        from.deserialize_any(Either(std::marker::PhantomData))
    }
}

/// One part of a chat message.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Part<'a> {
    Text {
        #[serde(borrow)]
        text: Text<'a>,
    },
    ImageUrl {
        #[serde(borrow)]
        image_url: ImageUrl<'a>,
    },
}

/// An image within the request.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct ImageUrl<'a> {
    #[serde(borrow)]
    pub url: Text<'a>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Detail>,
}

/// How closely to look.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Detail {
    Auto,
    Low,
    High,
}

/// Admits an image that lies in the request itself. An engine would fetch an http address from within the pod, or open a path there.
pub(super) fn image(url: &str, param: &str, host: &RouteHost) -> Result<(), Refusal> {
    if !host.abilities.vision {
        return Err(Refusal::field(
            param,
            "The model of this session does not see images.",
        ));
    }
    let data = ["png", "jpeg", "webp", "gif"].iter().find_map(|kind| {
        url.strip_prefix("data:image/")?
            .strip_prefix(kind)?
            .strip_prefix(";base64,")
    });
    let is_base64 = |data: &str| {
        !data.is_empty()
            && data
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"+/=".contains(&c))
    };
    match data {
        Some(data) if is_base64(data) => Ok(()),
        Some(_) | None => Err(Refusal::field(
            param,
            "An image must be given as data:image/png, jpeg, webp or gif, in base64.",
        )),
    }
}

/// A JSON schema: passed on as it was written, since the order of its properties is the order of the answer's.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Schema<'a>(&'a RawValue);

impl<'de: 'a, 'a> Deserialize<'de> for Schema<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(from)?;
        // Parsed once more only for serde_json's limit on nesting, which a raw value is exempt from; engines recurse.
        serde_json::from_str::<serde_json::Value>(raw.get()).map_err(serde::de::Error::custom)?;
        Ok(Self(raw))
    }
}

/// The one word for `type` of tools.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnlyFunction {
    Function,
}

/// Whether to use tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ToolMode {
    Auto,
    None,
    Required,
}

/// How much to think.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Effort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    Xhigh,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::gateway::rebuild::tests::host;
    use crate::route::Engine;

    fn admitted(url: &str) -> bool {
        image(url, "messages", &host(Engine::Vllm)).is_ok()
    }

    #[test]
    fn only_images_within_the_request_are_admitted() {
        for kind in ["png", "jpeg", "webp", "gif"] {
            assert!(
                admitted(&format!("data:image/{kind};base64,iVBORw0KGgo=")),
                "{kind}"
            );
        }
        for url in [
            "",
            "http://169.254.169.254/latest/meta-data",
            "https://example.com/cat.png",
            "file:///etc/passwd",
            "/etc/passwd",
            "data:image/svg+xml;base64,AAAA",
            "data:image/png;base64,",
            "data:image/png,AAAA",
            "DATA:image/png;base64,AAAA",
            "data:image/png;base64,AAAA\nhttp://x",
            "data:text/html;base64,AAAA",
            " data:image/png;base64,AAAA",
        ] {
            assert!(!admitted(url), "{url}");
        }
    }

    proptest! {
        #[test]
        fn nothing_with_a_colon_in_its_data_is_admitted(url in "(data:image/png;base64,)?[a-z:/.]{0,20}:[a-z/]{0,10}") {
            prop_assert!(!admitted(&url));
        }
    }
}
