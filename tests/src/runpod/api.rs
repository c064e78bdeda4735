//! REST v2 as RunPod answers it: who asks, may they, how often, and only then what.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Query, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use futures::stream;
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Shared, billing, catalog,
    faults::{Call, Kind, NOBODY, Of},
    log::{self, Log, Source},
    pod::EndedBy,
    problem::Problem,
    request,
    world::Caller,
};

/// More than the largest create.
const LARGEST_BODY: usize = 1 << 20;
/// Something is sent in a silent log this often, so that proxies keep it open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a request is about.
struct Asked {
    call: Call,
    /// The pod in the path.
    id: String,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    body: Bytes,
    now: Timestamp,
}

/// Every request of the API's port.
pub(super) async fn dispatch(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let now = shared.now();
    let (call, id) = match route(request.method(), request.uri().path()) {
        Ok(found) => found,
        Err(problem) => return problem.into_response(),
    };
    if shared.strike(Kind::Outage, call, &id) {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            Html("<html><h1>503 Service Unavailable</h1></html>"),
        )
            .into_response();
    }
    let caller = match authenticate(&shared, request.headers(), call, &id) {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    let mut response = match admit(&shared, &caller, call, &id, now) {
        Err(problem) => shared.refuse(&id, problem),
        Ok(()) => {
            let Query(query) = Query::try_from_uri(request.uri()).unwrap_or_default();
            let (head, body) = request.into_parts();
            match Limited::new(body, LARGEST_BODY).collect().await {
                Err(_) => shared.refuse(&id, Problem::new(413, "the request body is too large")),
                Ok(body) => {
                    let asked = Asked {
                        call,
                        id,
                        query,
                        headers: head.headers,
                        body: body.to_bytes(),
                        now,
                    };
                    answer(&shared, &caller, asked).await
                }
            }
        }
    };
    if let Some((limit, policy)) = shared.with_world(|world, now| world.rate_limit(&caller, now)) {
        for (name, value) in [("ratelimit", limit), ("ratelimit-policy", policy)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response
                    .headers_mut()
                    .insert(HeaderName::from_static(name), value);
            }
        }
    }
    response
}

/// Which call, and which pod.
fn route(method: &Method, path: &str) -> Result<(Call, String), Problem> {
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (allowed, id): (&[(&Method, Call)], &str) = match segments[..] {
        ["v2", "pods"] => (
            &[(&Method::GET, Call::List), (&Method::POST, Call::Create)],
            "",
        ),
        ["v2", "pods", id] => (
            &[(&Method::GET, Call::Get), (&Method::DELETE, Call::Delete)],
            id,
        ),
        ["v2", "pods", id, "action"] => (&[(&Method::POST, Call::Action)], id),
        ["v2", "pods", id, "logs"] => (&[(&Method::GET, Call::Logs)], id),
        ["v2", "catalog", "gpus"] => (&[(&Method::GET, Call::Catalog)], ""),
        ["v2", "catalog", "gpus", id] => (&[(&Method::GET, Call::Catalog)], id),
        ["v2", "billing", "pods"] => (&[(&Method::GET, Call::Billing)], ""),
        _ => return Err(Problem::new(404, "resource not found")),
    };
    let found = allowed.iter().find(|(known, _)| *known == method);
    found
        .map(|(_, call)| (*call, id.to_owned()))
        .ok_or_else(|| {
            let methods: Vec<&str> = allowed.iter().map(|(method, _)| method.as_str()).collect();
            let problem = Problem::new(405, "The requested method is not allowed for this path.");
            Problem {
                header: Some((header::ALLOW, methods.join(", "))),
                ..problem
            }
        })
}

fn authenticate(
    shared: &Shared,
    headers: &HeaderMap,
    call: Call,
    id: &str,
) -> Result<Caller, Problem> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let Some(key) = bearer.and_then(|value| value.strip_prefix("Bearer ")) else {
        return Err(Problem::new(401, "missing bearer token"));
    };
    let caller = shared.with_world(|world, _| world.caller(key));
    match caller {
        Some(caller) if !shared.strike(Kind::KeyRevoked, call, id) => Ok(caller),
        Some(_) | None => Err(Problem::new(401, "invalid API key")),
    }
}

fn admit(
    shared: &Shared,
    caller: &Caller,
    call: Call,
    id: &str,
    now: Timestamp,
) -> Result<(), Problem> {
    let wait = |detail: String, seconds: u64| {
        Err(Problem {
            header: Some((header::RETRY_AFTER, seconds.to_string())),
            ..Problem::new(429, detail)
        })
    };
    if let Err((window, seconds)) = shared.with_world(|world, _| world.count(caller, now)) {
        return wait(
            format!("rate limit exceeded for the {window} window"),
            seconds,
        );
    }
    if let Some(fault) = shared.fault(Kind::RateLimited, call, id) {
        return wait(
            "rate limit exceeded for the minute window".into(),
            fault.span().as_secs(),
        );
    }
    shared.with_world(|world, _| *world.calls.entry(call).or_default() += 1);
    if shared.strike(Kind::Forbidden, call, id) {
        Err(Problem::new(403, "access denied"))
    } else {
        Ok(())
    }
}

async fn answer(shared: &Arc<Shared>, caller: &Caller, asked: Asked) -> Response {
    let (call, id) = (asked.call, asked.id.clone());
    let result = match call {
        Call::Create => create(shared, caller, &asked).await,
        Call::List => list(shared, caller, &asked),
        Call::Get => shared
            .with_world(|world, now| world.get(caller, &id, now))
            .map(|pod| Json(pod).into_response()),
        Call::Delete => delete(shared, caller, &id).await,
        Call::Action => act(shared, caller, &asked),
        Call::Logs => logs(shared, caller, &asked),
        Call::Catalog => offered(shared, &asked),
        Call::Billing => billed(shared, caller, &asked),
    };
    let response = result.unwrap_or_else(|problem| shared.refuse(&id, problem));
    if !response.status().is_success() || call == Call::Logs {
        return response;
    }
    if shared.strike(Kind::Garbage, call, &id) {
        return (response.status(), Json::<Value>(Value::Null))
            .into_response()
            .map(|_| Body::from("{\"id\": \"7h9k2m"));
    }
    if shared.strike(Kind::Truncated, call, &id) {
        let half: [io::Result<&'static str>; 2] =
            [Ok("{\"id\": "), Err(io::ErrorKind::ConnectionReset.into())];
        return response.map(|_| Body::from_stream(stream::iter(half)));
    }
    response
}

async fn create(shared: &Arc<Shared>, caller: &Caller, asked: &Asked) -> Result<Response, Problem> {
    let request = request::parse(&asked.body)?;
    let name = request.name.clone();
    let strike = |kind| shared.fault_named(kind, Call::Create, &name);
    if strike(Kind::CreateLost).is_some() {
        return std::future::pending().await;
    }
    if strike(Kind::CreateErrorBefore).is_some() {
        return Err(Problem::new(500, "internal server error"));
    }
    if let Some(fault) = strike(Kind::CreateHangs) {
        let (later, caller) = (shared.clone(), caller.clone());
        shared.later(async move {
            later.sleep(Some(later.now() + fault.span())).await;
            // Refused or made: nobody is told.
            let _ = later.create(&caller, &request);
        });
        return std::future::pending().await;
    }
    if strike(Kind::TwoPods).is_some() {
        shared.create(caller, &request)?;
    }
    let id = shared.create(caller, &request)?;
    if strike(Kind::CreateErrorAfter).is_some() {
        return Err(Problem::new(500, "internal server error"));
    }
    // Described past every lag: this is the one answer that knows.
    let pod = shared.with_world(|world, now| {
        let super::world::World {
            pods,
            faults,
            decoys,
            ..
        } = world;
        pods.get_mut(&id)
            .map(|pod| pod.describe(faults, *decoys, now))
    });
    Ok((StatusCode::CREATED, Json(pod)).into_response())
}

fn list(shared: &Shared, caller: &Caller, asked: &Asked) -> Result<Response, Problem> {
    let clusters = asked.query.get("includeClusterPods");
    if let Some(value) = clusters.filter(|value| !matches!(value.as_str(), "true" | "false")) {
        return Err(Problem::invalid(vec![format!(
            "includeClusterPods: {value:?} is not a boolean"
        )]));
    }
    let pods = shared.with_world(|world, now| world.list(caller, now))?;
    let asked_for = asked.query.get("limit").map(|limit| {
        limit
            .parse::<usize>()
            .ok()
            .filter(|limit| (1..=1000).contains(limit))
    });
    let limit = match asked_for {
        None => shared.page,
        Some(Some(limit)) => Some(limit),
        Some(None) => {
            return Err(Problem::invalid(vec![
                "limit: must be an integer from 1 to 1000".into(),
            ]));
        }
    };
    let Some(limit) = limit else {
        return Ok(Json(json!({"pods": pods})).into_response());
    };
    // The cursor names the last pod of the page before: what is made or ended meanwhile moves nothing.
    let begin = match asked.query.get("cursor") {
        None => 0,
        Some(cursor) => {
            let after = parse_cursor(cursor).ok_or_else(|| Problem::new(400, "invalid cursor"))?;
            pods.iter()
                .position(|pod| place(pod) > after)
                .unwrap_or(pods.len())
        }
    };
    let end = (begin + limit).min(pods.len());
    let next = (end < pods.len()).then(|| hex::encode(place(&pods[end - 1])));
    Ok(Json(json!({"pods": pods[begin..end], "pagination": {"nextCursor": next}})).into_response())
}

/// Where a pod stands in the list.
fn place(pod: &Value) -> String {
    let created: Option<Timestamp> = pod["createdAt"].as_str().and_then(|text| text.parse().ok());
    format!(
        "{:030} {}",
        created.unwrap_or_default().as_nanosecond(),
        pod["id"].as_str().unwrap_or_default()
    )
}

fn parse_cursor(cursor: &str) -> Option<String> {
    String::from_utf8(hex::decode(cursor).ok()?).ok()
}

async fn delete(shared: &Shared, caller: &Caller, id: &str) -> Result<Response, Problem> {
    if shared.strike(Kind::DeleteHangs, Call::Delete, id) {
        return std::future::pending().await;
    }
    if shared.strike(Kind::DeleteErrorBefore, Call::Delete, id) {
        return Err(Problem::new(500, "internal server error"));
    }
    let error_after = shared.strike(Kind::DeleteErrorAfter, Call::Delete, id);
    shared.with_world(|world, now| world.terminate(caller, id, EndedBy::Delete, now))?;
    if error_after {
        Err(Problem::new(500, "internal server error"))
    } else {
        Ok(StatusCode::NO_CONTENT.into_response())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ActionRequest {
    action: Action,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Start,
    Stop,
    Restart,
    Terminate,
}

fn act(shared: &Shared, caller: &Caller, asked: &Asked) -> Result<Response, Problem> {
    let body: Value = serde_json::from_slice(&asked.body)
        .map_err(|_| Problem::new(400, "the request body is not valid JSON"))?;
    let ActionRequest { action } = serde_json::from_value(body)
        .map_err(|error| Problem::invalid(vec![format!("$: {error}")]))?;
    let verb = match action {
        Action::Start => "start",
        Action::Stop => "stop",
        Action::Restart => "restart",
        Action::Terminate => {
            shared.with_world(|world, now| {
                world.terminate(caller, &asked.id, EndedBy::Action, now)
            })?;
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    };
    shared
        .with_world(|world, now| world.act(caller, &asked.id, verb, now))
        .map(|pod| Json(pod).into_response())
}

fn offered(shared: &Shared, asked: &Asked) -> Result<Response, Problem> {
    let query = catalog::Query::parse(&asked.query)?;
    let answer = shared.with_world(|world, _| match asked.id.as_str() {
        "" => Some(catalog::list(&query, &world.stock)),
        id => catalog::find(&unescaped(id)).map(|gpu| catalog::describe(gpu, &query, &world.stock)),
    });
    answer
        .map(|answer| Json(answer).into_response())
        .ok_or_else(|| Problem::new(404, "GPU type not found"))
}

/// A path segment as it was meant: ids of GPUs have blanks in them.
fn unescaped(segment: &str) -> String {
    // As the value of a query, where a plus is a blank and has to be escaped itself.
    let query = format!("id={}", segment.replace('+', "%2B"));
    let pairs: Result<Query<BTreeMap<String, String>>, _> =
        Query::try_from_uri(&format!("/?{query}").parse().unwrap_or_default());
    pairs
        .ok()
        .and_then(|Query(mut pairs)| pairs.remove("id"))
        .unwrap_or_default()
}

fn billed(shared: &Shared, caller: &Caller, asked: &Asked) -> Result<Response, Problem> {
    let query = billing::Query::parse(&asked.query, asked.now)?;
    let answer = shared.with_world(|world, now| {
        world.refresh(now);
        billing::answer(&query, world.pods_of(caller), now)
    });
    Ok(Json(answer).into_response())
}

fn logs(shared: &Arc<Shared>, caller: &Caller, asked: &Asked) -> Result<Response, Problem> {
    let mut errors = Vec::new();
    let source = match asked.query.get("source").map(String::as_str) {
        None => None,
        Some("container") => Some(Source::Container),
        Some("system") => Some(Source::System),
        Some(other) => {
            errors.push(format!("source: {other:?} is not one of container, system"));
            None
        }
    };
    let tail = asked.query.get("tail").map_or(Some(100), |tail| {
        tail.parse().ok().filter(|tail| *tail <= 5_000usize)
    });
    if tail.is_none() {
        errors.push("tail: must be an integer from 0 to 5000".into());
    }
    let since = asked
        .query
        .get("since")
        .map(|since| since.parse::<Timestamp>());
    if let Some(Err(_)) = since {
        errors.push("since: must be a date-time".into());
    }
    let last = asked
        .headers
        .get("last-event-id")
        .map(|id| id.to_str().ok().and_then(Log::parse_id));
    if let Some(None) = last {
        errors.push("Last-Event-ID: must be an id of this endpoint".into());
    }
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let since = since
        .and_then(Result::ok)
        .map(|at| log::From::After(at - Duration::from_nanos(1), None));
    let from = last
        .flatten()
        .or(since)
        .unwrap_or(log::From::Tail(tail.unwrap_or_default()));
    let id = asked.id.clone();
    shared.with_world(|world, now| world.get(caller, &id, now))?;
    let (position, written, changes) = shared
        .with_world(|world, _| {
            let log = &world.pods.get(&id)?.log;
            Some((log.begin(from, source), log.subscribe(), world.changes()))
        })
        .ok_or_else(Problem::not_found)?;
    let follow = Follow {
        shared: shared.clone(),
        id,
        source,
        position,
        written,
        changes,
    };
    let body = Body::from_stream(stream::unfold(follow, |mut follow| async move {
        let events = follow.next().await?;
        Some((Ok::<_, io::Error>(events), follow))
    }));
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, body).into_response())
}

/// A log being streamed.
struct Follow {
    shared: Arc<Shared>,
    id: String,
    source: Option<Source>,
    position: u64,
    written: tokio::sync::watch::Receiver<u64>,
    changes: tokio::sync::watch::Receiver<u64>,
}

impl Follow {
    /// What comes next; `None` when the pod has ended and everything was said.
    async fn next(&mut self) -> Option<String> {
        loop {
            self.written.borrow_and_update();
            self.changes.borrow_and_update();
            let (position, source) = (self.position, self.source);
            let (lines, over) = self.shared.with_pod(&self.id, |pod, _, now| {
                (pod.log.after(position, source), pod.ended(now))
            })?;
            if let Some(last) = lines.last() {
                self.position = last.number;
                return Some(lines.iter().map(log::Line::event).collect());
            }
            if over {
                return None;
            }
            tokio::select! {
                _ = self.written.changed() => {}
                _ = self.changes.changed() => {}
                () = tokio::time::sleep(KEEP_ALIVE) => return Some(": keep-alive\n\n".into()),
            }
        }
    }
}

impl Shared {
    /// The fault of this kind that is about this call, by the pod's id.
    fn fault(&self, kind: Kind, call: Call, id: &str) -> Option<super::Fault> {
        self.with_world(|world, now| {
            let super::world::World { pods, faults, .. } = world;
            let of = pods.get(id).map_or(NOBODY, |pod| Of {
                id,
                name: &pod.request.name,
            });
            faults.strike(kind, call, of, now)
        })
    }

    fn strike(&self, kind: Kind, call: Call, id: &str) -> bool {
        self.fault(kind, call, id).is_some()
    }

    /// The same for a pod that does not exist yet.
    fn fault_named(&self, kind: Kind, call: Call, name: &str) -> Option<super::Fault> {
        self.with_world(|world, now| world.faults.strike(kind, call, Of { id: "", name }, now))
    }

    /// Answers with a problem, or with a bare error where that fault is on.
    fn refuse(&self, id: &str, problem: Problem) -> Response {
        let bare = self.strike(Kind::BareErrors, Call::Get, id);
        if bare { problem.bare() } else { problem }.into_response()
    }
}
