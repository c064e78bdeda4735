//! Bodies: what the gateway answers with, and reading a client's JSON within its limits.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::refusal::Refusal;

/// Any body of ours.
pub type AnswerBody = UnsyncBoxBody<Bytes, io::Error>;
/// Any answer of ours.
pub type Answer = Response<AnswerBody>;

/// The largest JSON body: a few photographs in base64.
pub const JSON_BYTES: u64 = 32 << 20;
/// All JSON bodies that are being read and rebuilt at one time, over all sessions: what bounds the gateway's memory.
const JSON_BUDGET: usize = 192 << 20;
/// A body of 32 MiB comes within this over 3 Mbit/s.
const JSON_TIMEOUT: Duration = Duration::from_secs(90);
/// What is read of a refused body, at most.
const DRAIN_BYTES: u64 = 64 << 20;
/// And for how long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The unit of the budget.
const UNIT: u64 = 64 << 10;

/// A body that is known whole.
pub fn full(bytes: impl Into<Bytes>) -> AnswerBody {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// An answer of JSON.
pub fn json(value: &impl serde::Serialize) -> Answer {
    let bytes =
        serde_json::to_vec(value).expect("what we answer has string keys and finite numbers only");
    let mut answer = Response::new(full(bytes));
    let kind = http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

/// `Content-Length`, where there is one. hyper has refused those that disagree or are no number.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Reads on what a refused request still sends: an answer to a client that is writing is lost when we close before it has written.
/// Bounded, and not for clients that wait to be asked for the body.
pub async fn drain(headers: &HeaderMap, body: &mut Incoming) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let mut left = DRAIN_BYTES;
    let drained = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len) as u64;
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    // At the limit the connection is closed as it would have been at once.
    let _ = timeout(DRAIN_TIMEOUT, drained).await;
}

/// Memory for JSON bodies, shared by all requests.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(JSON_BUDGET / UNIT as usize)))
    }
}

/// A body read whole, and its share of the budget.
pub struct Json {
    /// The bytes.
    pub bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

impl Budget {
    /// Reads a JSON body. A body without a length counts as one of the largest.
    pub async fn read(&self, headers: &HeaderMap, mut body: Incoming) -> Result<Json, Refusal> {
        let read = self.read_within(headers, &mut body).await;
        if read.is_err() {
            drain(headers, &mut body).await;
        }
        read
    }

    async fn read_within(&self, headers: &HeaderMap, body: &mut Incoming) -> Result<Json, Refusal> {
        let length = content_length(headers);
        if length.is_some_and(|length| length > JSON_BYTES) {
            return Err(Refusal::TooLarge(JSON_BYTES));
        }
        let deadline = Instant::now() + JSON_TIMEOUT;
        let units =
            u32::try_from(length.unwrap_or(JSON_BYTES).div_ceil(UNIT)).expect("at most 512 units");
        let share = timeout_at(deadline, self.0.clone().acquire_many_owned(units))
            .await
            .map_err(|_elapsed| Refusal::Busy)?
            .expect("the semaphore is never closed");
        let bytes = timeout_at(deadline, collect(body, length))
            .await
            .map_err(|_elapsed| Refusal::BodyTimeout)??;
        Ok(Json {
            bytes,
            _share: share,
        })
    }
}

async fn collect<B>(body: B, length: Option<u64>) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut body = body;
    // What is announced is not reserved in advance: memory is for bytes that have come.
    let mut bytes = BytesMut::with_capacity(length.unwrap_or(0).min(UNIT) as usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_error| Refusal::Invalid {
            message: "The body broke off.".into(),
            param: None,
        })?;
        if let Ok(data) = frame.into_data() {
            if bytes.len() as u64 + data.len() as u64 > JSON_BYTES {
                return Err(Refusal::TooLarge(JSON_BYTES));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_body_of_unknown_length_is_cut_off_at_the_limit() {
        let chunk = Bytes::from(vec![b' '; 1 << 20]);
        let frames = futures::stream::iter(
            (0..40).map(move |_| Ok::<_, io::Error>(hyper::body::Frame::data(chunk.clone()))),
        );
        let body = http_body_util::StreamBody::new(frames);
        assert_eq!(
            collect(body, None).await,
            Err(Refusal::TooLarge(JSON_BYTES))
        );
    }
}
