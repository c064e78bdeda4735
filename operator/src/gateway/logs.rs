//! The end of the engine's log, as the host keeps it.

use std::io;

use futures::StreamExt as _;
use http::{HeaderValue, Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use super::body::Answer;
use super::refusal::Refusal;
use super::sessions::Admitted;
use crate::host::gate;

/// Lines shown when nothing else is asked for.
const TAIL: u32 = 200;

/// `?tail=&follow=`.
#[derive(Debug, PartialEq, Eq)]
struct Ask {
    tail: u32,
    follow: bool,
}

/// `GET …/logs`.
pub async fn answer(
    query: Option<&str>,
    admitted: Admitted,
    ending: &CancellationToken,
) -> Result<Answer, Refusal> {
    let Ask { tail, follow } = parse(query.unwrap_or_default())?;
    let tunnel = admitted.known.deployed()?;
    let log = tunnel
        .start(&gate::log(tail, follow))
        .await
        .map_err(|_error| Refusal::Unreachable)?;
    let (revoked, ending) = (admitted.known.revoked.clone(), ending.clone());
    let end = Box::pin(async move {
        tokio::select! {
            () = revoked.cancelled() => {}
            () = ending.cancelled() => {}
        }
    });
    let lines = ReaderStream::new(log)
        .take_until(end)
        .map(move |piece: io::Result<_>| {
            // The slot is held until the end.
            let _held = &admitted;
            piece.map(Frame::data)
        });
    let mut answer = Response::new(StreamBody::new(lines).boxed_unsync());
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    Ok(answer)
}

fn parse(query: &str) -> Result<Ask, Refusal> {
    let mut ask = Ask {
        tail: TAIL,
        follow: false,
    };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "tail" => {
                ask.tail = value
                    .parse()
                    .map_err(|_error| Refusal::field("tail", "A number of lines."))?
            }
            "follow" => {
                ask.follow = match &*value {
                    "true" | "1" | "" => true,
                    "false" | "0" => false,
                    _ => return Err(Refusal::field("follow", "true or false.")),
                }
            }
            _ => {}
        }
    }
    Ok(ask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_read_and_the_rest_ignored() {
        assert_eq!(
            parse(""),
            Ok(Ask {
                tail: 200,
                follow: false
            })
        );
        assert_eq!(
            parse("tail=5&follow=true&x=y"),
            Ok(Ask {
                tail: 5,
                follow: true
            })
        );
        assert!(parse("follow").is_ok_and(|ask| ask.follow));
        assert!(parse("tail=-1").is_err());
        assert!(parse("follow=maybe").is_err());
    }
}
