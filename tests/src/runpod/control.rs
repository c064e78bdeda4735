//! The second port: the ledger and the switches. It is the tests' and the demo's, never srchat's.
//!
//! `GET /_sim/ledger`; `GET POST DELETE /_sim/faults`; `POST /_sim/clock {"advance": seconds}`; `POST /_sim/stock {"gpu", "level"}`;
//! `POST /_sim/pods/{id}/vanish`; `GET /_sim/pods/{id}/ports/{port}`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Shared, catalog::Level, faults::Fault, ledger::Ledger};

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/_sim/ledger", get(ledger))
        .route(
            "/_sim/faults",
            get(faults).post(add_fault).delete(clear_faults),
        )
        .route("/_sim/clock", post(advance))
        .route("/_sim/stock", post(stock))
        .route("/_sim/pods/{id}/vanish", post(vanish))
        .route("/_sim/pods/{id}/ports/{port}", get(port))
        .with_state(shared)
}

async fn ledger(State(shared): State<Arc<Shared>>) -> Json<Ledger> {
    Json(shared.ledger())
}

async fn faults(State(shared): State<Arc<Shared>>) -> Json<Vec<Value>> {
    Json(shared.active_faults())
}

async fn add_fault(State(shared): State<Arc<Shared>>, Json(fault): Json<Fault>) -> StatusCode {
    shared.add_fault(fault);
    StatusCode::CREATED
}

async fn clear_faults(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.clear_faults();
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance: u64,
}

async fn advance(
    State(shared): State<Arc<Shared>>,
    Json(Advance { advance }): Json<Advance>,
) -> Json<Value> {
    shared.clock.advance(Duration::from_secs(advance));
    Json(json!({"now": shared.now().to_string()}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetStock {
    gpu: String,
    level: Level,
}

async fn stock(
    State(shared): State<Arc<Shared>>,
    Json(SetStock { gpu, level }): Json<SetStock>,
) -> StatusCode {
    shared.with_world(|world, _| world.stock.0.insert(gpu, level));
    StatusCode::NO_CONTENT
}

async fn vanish(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> StatusCode {
    shared.vanish(&id);
    StatusCode::NO_CONTENT
}

async fn port(
    State(shared): State<Arc<Shared>>,
    Path((id, port)): Path<(String, u16)>,
) -> Json<Value> {
    let reachable = shared.port_reachable(&id, port).await;
    Json(json!({"reachable": reachable, "isolation": shared.hosts.isolation()}))
}
