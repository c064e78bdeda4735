//! What an answer means: one table from statuses and failures to the closed [`Error`]. Pure.

use std::{error::Error as _, time::Duration};

use reqwest::StatusCode;

use super::wire::{self, Unreadable};
use crate::provider::{Error, Scope};

/// What was asked for; the same failure means different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Changes nothing.
    Read,
    /// May make a pod that costs money.
    Create,
    /// May end a pod.
    End,
}

impl Act {
    /// The statuses that say that it was done.
    pub(super) fn succeeded(self, status: StatusCode) -> bool {
        match self {
            Self::Read => status == StatusCode::OK,
            Self::Create => matches!(status, StatusCode::CREATED | StatusCode::OK),
            Self::End => matches!(status, StatusCode::NO_CONTENT | StatusCode::OK),
        }
    }
}

/// What a status that is no success means. `after` is how long a 429 asks us to wait.
pub(super) fn refusal(act: Act, status: StatusCode, body: &str, after: Option<Duration>) -> Error {
    let said = wire::detail(body);
    let said = if said.is_empty() {
        status.to_string()
    } else {
        said
    };
    let detail = said.as_str().into();
    match status.as_u16() {
        400 if act == Act::Create && says_no_capacity(&said) => Error::NoCapacity { detail },
        400 => Error::Rejected {
            scope: Scope::Candidate,
            detail,
        },
        401 => Error::Unauthorized { detail },
        402 => Error::InsufficientBalance { detail },
        403 => Error::Forbidden { detail },
        // Creating names nothing that could be missing: the URL is wrong.
        404 if act == Act::Create => Error::Rejected {
            scope: Scope::Request,
            detail,
        },
        404 => Error::NotFound,
        409 => Error::Conflict { detail },
        // A timeout at their side, and a refusal of replayed data: neither says that nothing was done.
        408 | 425 => lost(act, &format!("{status}: {said}")),
        429 => Error::RateLimited {
            after: after.unwrap_or(Duration::from_secs(10)),
        },
        _ if status.is_client_error() => Error::Rejected {
            scope: Scope::Request,
            detail,
        },
        _ => lost(act, &format!("{status}: {said}")),
    }
}

/// RunPod has no code for "no machine is free", only sentences in a 400. These were seen, or are in its documentation.
fn says_no_capacity(said: &str) -> bool {
    const SENTENCES: [&str; 7] = [
        "no longer any instances",
        "no instances",
        "instances available",
        "could not be placed",
        "not enough free gpu",
        "does not have the resources",
        "no capacity",
    ];
    let said = said.to_lowercase();
    SENTENCES.iter().any(|sentence| said.contains(sentence))
}

/// A request that got no (whole) answer. A connection that was never made carried nothing.
pub(super) fn unsent_or_lost(act: Act, error: &reqwest::Error) -> Error {
    let seen = cause(error);
    if error.is_connect() || error.is_builder() {
        unavailable(&seen)
    } else {
        lost(act, &seen)
    }
}

/// No answer, or one that says nothing about what was done.
pub(super) fn lost(act: Act, seen: &str) -> Error {
    match act {
        Act::Read => unavailable(seen),
        Act::Create | Act::End => Error::Ambiguous {
            detail: seen.into(),
        },
    }
}

/// A success whose body says too little.
pub(super) fn unreadable(act: Act, error: &Unreadable) -> Error {
    lost(act, &error.to_string())
}

/// Nothing was learned and nothing was done.
pub(super) fn unavailable(seen: &str) -> Error {
    Error::Unavailable {
        detail: seen.into(),
    }
}

/// The innermost cause of a failure, without the URL: that one is ours and known.
pub(super) fn cause(error: &reqwest::Error) -> String {
    let mut innermost = error.source();
    while let Some(next) = innermost.and_then(|error| error.source()) {
        innermost = Some(next);
    }
    match innermost {
        Some(cause) => cause.to_string(),
        None => "the request failed".into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(act: Act, status: u16, body: &str) -> Error {
        let status = StatusCode::from_u16(status).expect("a status");
        refusal(act, status, body, None)
    }

    #[test]
    fn every_documented_status_of_a_create_has_its_own_meaning() {
        let body = |status: u16, detail: &str| {
            format!(r#"{{"title":"t","status":{status},"detail":"{detail}"}}"#)
        };
        let seen = |status| refused(Act::Create, status, &body(status, "why"));
        let detail: std::sync::Arc<str> = "why".into();
        assert_eq!(
            seen(400),
            Error::Rejected {
                scope: Scope::Candidate,
                detail: detail.clone()
            }
        );
        assert_eq!(
            seen(401),
            Error::Unauthorized {
                detail: detail.clone()
            }
        );
        assert_eq!(
            seen(402),
            Error::InsufficientBalance {
                detail: detail.clone()
            }
        );
        assert_eq!(
            seen(403),
            Error::Forbidden {
                detail: detail.clone()
            }
        );
        assert_eq!(
            seen(404),
            Error::Rejected {
                scope: Scope::Request,
                detail: detail.clone()
            }
        );
        assert_eq!(
            seen(409),
            Error::Conflict {
                detail: detail.clone()
            }
        );
        assert_eq!(
            seen(422),
            Error::Rejected {
                scope: Scope::Request,
                detail
            }
        );
        for lost in [302, 408, 500, 502, 503, 504, 599] {
            assert!(matches!(seen(lost), Error::Ambiguous { .. }), "{lost}");
        }
    }

    #[test]
    fn no_capacity_is_read_from_the_sentence_of_a_400_only() {
        let body = r#"{"detail":"There are no longer any instances available with the requested specifications. Please refresh and try again."}"#;
        assert!(matches!(
            refused(Act::Create, 400, body),
            Error::NoCapacity { .. }
        ));
        assert!(matches!(
            refused(Act::Create, 422, body),
            Error::Rejected {
                scope: Scope::Request,
                ..
            }
        ));
        assert!(matches!(
            refused(Act::Create, 500, body),
            Error::Ambiguous { .. }
        ));
        assert!(matches!(
            refused(Act::Read, 400, body),
            Error::Rejected { .. }
        ));
    }

    #[test]
    fn a_read_is_never_ambiguous_and_a_change_that_got_an_answer_is_never_unavailable() {
        for status in 100..1000 {
            let Ok(status) = StatusCode::from_u16(status) else {
                continue;
            };
            assert!(
                !matches!(
                    refusal(Act::Read, status, "", None),
                    Error::Ambiguous { .. }
                ),
                "{status}"
            );
            for act in [Act::Create, Act::End] {
                assert!(
                    !matches!(refusal(act, status, "", None), Error::Unavailable { .. }),
                    "{status}"
                );
            }
        }
    }

    #[test]
    fn the_sentence_is_found_wherever_it_is() {
        let seen = |body: &str| wire::detail(body);
        assert_eq!(seen(r#"{"title":"Bad","detail":"d","error":"e"}"#), "d");
        assert_eq!(seen(r#"{"error":"e","message":"m"}"#), "e");
        assert_eq!(seen(r#"{"error":{"message":"inner"}}"#), "inner");
        assert_eq!(seen(r#"{"message":"m"}"#), "m");
        assert_eq!(seen(r#"{"title":"only"}"#), "only");
        assert_eq!(
            seen("<h1>\n Bad\u{7}  Gateway</h1>"),
            "<h1> Bad Gateway</h1>"
        );
        assert_eq!(
            seen(r#"{"detail":"invalid","errors":["$.x: no"]}"#),
            "invalid; $.x: no"
        );
    }

    proptest! {
        #[test]
        fn any_body_of_any_status_has_a_short_meaning(status in 100u16..1000, body in ".{0,600}") {
            let status = StatusCode::from_u16(status).expect("in range");
            for act in [Act::Read, Act::Create, Act::End] {
                prop_assert!(refusal(act, status, &body, None).to_string().chars().count() < 500);
            }
        }
    }
}
