//! The status of a session: a projection of what the controller knows, never read back to decide anything.
//!
//! Users can edit it and an older CRD can drop parts of it, so each part that does not parse is read as absent.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use crate::{
    Dollars, Size,
    conditions::Wiped,
    named::named,
    session::{Engine, Quantization},
};

/// What the controller last knew of a session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ChatSessionStatus {
    /// The generation of the spec that this status describes.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "generation_schema")]
    pub observed_generation: Option<i64>,
    /// How many pods there are: 0 or 1.
    #[serde(deserialize_with = "lenient")]
    #[schemars(schema_with = "count_schema", transform = without_default)]
    pub replicas: u32,
    /// The label selector of the scale subresource.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub selector: Option<String>,
    /// What was chosen for the model.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Plan")]
    pub plan: Option<Plan>,
    /// The current run, or the last one.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Run")]
    pub run: Option<Run>,
    /// The rented pod.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Instance")]
    pub instance: Option<Instance>,
    /// How far starting has come.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Startup")]
    pub startup: Option<Startup>,
    /// Where the model answers.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Endpoint")]
    pub endpoint: Option<Endpoint>,
    /// What it costs.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Cost")]
    pub cost: Option<Cost>,
    /// When the run ends at the latest.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Expiry")]
    pub expiry: Option<Expiry>,
    /// How far the end has come.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Teardown")]
    pub teardown: Option<Teardown>,
    /// The nine conditions.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}

/// What was chosen for the model, and why not something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The commit of the model on the Hub.
    pub revision: String,
    /// The engine that serves it; never `Auto`.
    #[schemars(with = "String")]
    pub engine: Engine,
    /// The quantization in use; never `Auto`.
    #[schemars(with = "String")]
    pub quantization: Quantization,
    /// Whether it takes images.
    pub vision: bool,
    /// How many tokens a conversation may have.
    #[schemars(schema_with = "count_schema")]
    pub context_length: u32,
    /// The memory it needs on each GPU.
    pub required_memory: Size,
    /// The provider's name of the GPU.
    pub gpu: String,
    /// How many of them.
    #[schemars(schema_with = "count_schema")]
    pub gpu_count: u32,
    /// The pod's disk.
    pub disk: Size,
    /// Its price on offer, in dollars an hour, all GPUs together.
    pub hourly_cost: Dollars,
    /// The offers not taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub rejected: Vec<Rejected>,
}

/// An offer that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// The GPU on offer.
    pub gpu: String,
    /// Why it was not taken.
    #[schemars(with = "String")]
    pub reason: RejectedReason,
}

/// Why an offer was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RejectedReason {
    /// The model does not fit into its memory.
    TooSmall,
    /// It costs more than allowed.
    OverPrice,
    /// None is free.
    NoStock,
    /// `gpu.types` does not list it.
    WrongType,
    /// `runpod.cloud` does not allow it.
    WrongCloud,
    /// No data center of `runpod.dataCenters` has it.
    WrongDataCenter,
    /// The engine does not run on it.
    Unsupported,
    /// It failed this session a short while ago.
    Excluded,
    /// It would do, but another costs less or was listed first.
    Dearer,
}

named!(RejectedReason {
    TooSmall = "TooSmall",
    OverPrice = "OverPrice",
    NoStock = "NoStock",
    WrongType = "WrongType",
    WrongCloud = "WrongCloud",
    WrongDataCenter = "WrongDataCenter",
    Unsupported = "Unsupported",
    Excluded = "Excluded",
    Dearer = "Dearer",
});

/// One run: from `replicas` seen at 1 to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Which run of the session this is, from 1.
    #[schemars(schema_with = "count_schema")]
    pub number: u32,
    /// How many pods it has had.
    #[schemars(schema_with = "count_schema")]
    pub attempts: u32,
    /// When its first pod was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time_schema")]
    pub started: Option<Time>,
    /// Set once a limit has ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Ended")]
    pub ended: Option<Ended>,
}

/// When and why a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// When.
    #[schemars(schema_with = "time_schema")]
    pub time: Time,
    /// Why.
    #[schemars(with = "String")]
    pub reason: EndReason,
}

/// The limit that ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EndReason {
    /// `limits.lifetime` has passed.
    LifetimeReached,
    /// Nobody used it for `limits.idle`.
    IdleReached,
    /// `limits.maxTotalCost` is spent.
    CostReached,
    /// `limits.attempts` pods were used.
    AttemptsUsed,
    /// The controller was away for too long to rent again by itself.
    NeedsConfirmation,
}

named!(EndReason {
    LifetimeReached = "LifetimeReached",
    IdleReached = "IdleReached",
    CostReached = "CostReached",
    AttemptsUsed = "AttemptsUsed",
    NeedsConfirmation = "NeedsConfirmation",
});

impl From<EndReason> for crate::conditions::WithinLimits {
    fn from(reason: EndReason) -> Self {
        match reason {
            EndReason::LifetimeReached => Self::LifetimeReached,
            EndReason::IdleReached => Self::IdleReached,
            EndReason::CostReached => Self::CostReached,
            EndReason::AttemptsUsed => Self::AttemptsUsed,
            EndReason::NeedsConfirmation => Self::NeedsConfirmation,
        }
    }
}

/// The rented pod. What is not known yet is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// `runpod://` and the provider's id.
    #[serde(rename = "providerID")]
    pub provider_id: String,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub data_center: Option<String>,
    /// Host and port of its SSH server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub address: Option<String>,
    /// The fingerprint of its pinned key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub host_key: Option<String>,
    /// Its name at the provider.
    pub pod_name: String,
    /// What the provider bills, in dollars an hour.
    pub hourly_cost: Dollars,
    /// When the provider created it.
    #[schemars(schema_with = "time_schema")]
    pub created_time: Time,
    /// When the model first answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time_schema")]
    pub ready_time: Option<Time>,
    /// What uploads are kept on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub medium: Option<Medium>,
    /// How much may be uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub upload_quota: Option<Size>,
}

/// What uploads are kept on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Medium {
    /// Memory: nothing of it is ever on a disk of the provider.
    Memory,
    /// Disk, because there was too little memory.
    Disk,
}

named!(Medium {
    Memory = "Memory",
    Disk = "Disk",
});

/// How far starting has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Startup {
    /// What is being done.
    #[schemars(with = "String")]
    pub stage: Stage,
    /// How much of it, where that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "percent_schema")]
    pub percent: Option<u8>,
    /// The same in words.
    #[serde(default)]
    #[schemars(transform = without_default)]
    pub message: String,
    /// When the model will probably answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time_schema")]
    pub estimated_ready_time: Option<Time>,
}

/// What a session on its way to Ready is doing, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Stage {
    /// Choosing what to rent.
    Planning,
    /// Asking the provider for it.
    Renting,
    /// Waiting for the pod to start.
    Booting,
    /// Connecting to its host.
    Connecting,
    /// Installing the engine.
    Installing,
    /// Downloading the model.
    Downloading,
    /// Loading the model.
    Loading,
    /// The model answers.
    Serving,
}

named!(Stage {
    Planning = "Planning",
    Renting = "Renting",
    Booting = "Booting",
    Connecting = "Connecting",
    Installing = "Installing",
    Downloading = "Downloading",
    Loading = "Loading",
    Serving = "Serving",
});

/// Where the model answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The base URL for OpenAI clients.
    pub url: String,
    /// The Secret with URL, token and CA.
    pub credentials_secret_ref: SecretName,
}

/// The name of a Secret beside the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretName {
    /// The Secret's name.
    pub name: String,
}

/// What a session costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Dollars an hour, now.
    pub hourly: Dollars,
    /// Dollars spent, over all runs.
    pub accrued: Dollars,
    /// Where `accrued` comes from.
    #[schemars(with = "String")]
    pub source: CostSource,
    /// When `accrued` was right.
    #[schemars(schema_with = "time_schema")]
    pub as_of: Time,
}

/// Where a cost comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CostSource {
    /// Rate times time.
    Estimated,
    /// The provider's bill.
    Billed,
}

named!(CostSource {
    Estimated = "Estimated",
    Billed = "Billed",
});

/// When a run ends at the latest. Idleness may end it earlier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Expiry {
    /// When.
    #[schemars(schema_with = "time_schema")]
    pub time: Time,
    /// The limit that comes first.
    #[schemars(with = "String")]
    pub reason: ExpiryReason,
}

/// The limit that a running session will meet first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ExpiryReason {
    /// `limits.lifetime`.
    Lifetime,
    /// `limits.maxTotalCost`.
    Budget,
}

named!(ExpiryReason {
    Lifetime = "Lifetime",
    Budget = "Budget",
});

/// How far the end has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Teardown {
    /// What came of clearing the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub wipe: Option<Wiped>,
    /// When the host was cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time_schema")]
    pub wiped_time: Option<Time>,
    /// When the provider took the request to end the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time_schema")]
    pub terminated_time: Option<Time>,
    /// How often the pod was seen to be absent since.
    #[serde(default)]
    #[schemars(schema_with = "count_schema", transform = without_default)]
    pub absence_proofs: u32,
}

/// Reads a part of the status, or nothing where it is not what it should be.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    part: D,
) -> Result<T, D::Error> {
    let value = serde_json::Value::deserialize(part)?;
    Ok(T::deserialize(value).unwrap_or_default())
}

/// The API server shall add nothing to a status that one writer owns.
fn without_default(schema: &mut Schema) {
    schema.remove("default");
}

fn time_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time" })
}

fn count_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int32", "minimum": 0 })
}

fn generation_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int64", "minimum": 0 })
}

fn percent_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int32", "minimum": 0, "maximum": 100 })
}

/// As `metav1.Condition` has it.
fn conditions_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": { "type": "string", "maxLength": 316 },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                "reason": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": { "type": "string", "maxLength": 32768 },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
                "lastTransitionTime": { "type": "string", "format": "date-time" },
            },
        },
    })
}
