//! What a user may ask for: the spec of a `ChatSession`, its defaults, and the rules that answer `kubectl apply` at once.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod gpu;
mod limits;
mod runtime;

pub use gpu::{Cloud, Gpu, Provider, RunPod};
pub use limits::{Limits, Teardown};
pub use runtime::{Engine, Quantization, Runtime};

use crate::{
    ModelId, Size,
    conditions::{self, Type},
    status::ChatSessionStatus,
};

/// A private chat with one model on a GPU that is rented for it, and proved gone when it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "srchat.dev",
    version = "v1alpha1",
    kind = "ChatSession",
    plural = "chatsessions",
    singular = "chatsession",
    shortname = "chat",
    category = "all",
    category = "srchat",
    namespaced,
    status = "ChatSessionStatus",
    derive = "PartialEq",
    doc = "A private chat with one model on a GPU that is rented for it, and proved gone when it ends.",
    annotation("helm.sh/resource-policy", "keep"),
    label("app.kubernetes.io/name", "srchat"),
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    validation = Rule::new("size(self.metadata.name) <= 52")
        .message("the name may have at most 52 characters: the objects made for the session are named after it"),
    printcolumn(name = "MODEL", type_ = "string", json_path = ".spec.model"),
    printcolumn(name = "GPU", type_ = "string", json_path = ".status.plan.gpu"),
    printcolumn(name = "$/H", type_ = "string", json_path = ".status.cost.hourly"),
    printcolumn(name = "SPENT", type_ = "string", json_path = ".status.cost.accrued"),
    printcolumn(name = "STATE", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "EXPIRES", type_ = "string", json_path = ".status.expiry.time"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "INSTANCE", type_ = "string", json_path = ".status.instance.providerID", priority = 1),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.endpoint.url", priority = 1),
    printcolumn(
        name = "MESSAGE",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[x_kube(
    validation = Rule::new("self.model == oldSelf.model")
        .message("the model cannot be changed: delete this session, or make another one beside it")
        .field_path(".model"),
    validation = Rule::new(
        "has(self.modelTokenSecretRef) == has(oldSelf.modelTokenSecretRef) && \
         (!has(self.modelTokenSecretRef) || self.modelTokenSecretRef == oldSelf.modelTokenSecretRef)"
    )
    .message("modelTokenSecretRef can be neither changed nor added nor removed: make another session"),
    validation = Rule::new("self.provider == oldSelf.provider")
        .message("the provider cannot be changed: make another session")
        .field_path(".provider"),
    validation = Rule::new(
        "oldSelf.replicas == 0 || (has(self.runtime) == has(oldSelf.runtime) && \
         (!has(self.runtime) || self.runtime == oldSelf.runtime))"
    )
    .message("runtime cannot be changed while something is rented: set replicas to 0 first"),
    validation = Rule::new(
        "oldSelf.replicas == 0 || (has(self.gpu) == has(oldSelf.gpu) && (!has(self.gpu) || self.gpu == oldSelf.gpu))"
    )
    .message("gpu cannot be changed while something is rented: set replicas to 0 first"),
    validation = Rule::new(
        "oldSelf.replicas == 0 || (has(self.disk) == has(oldSelf.disk) && (!has(self.disk) || self.disk == oldSelf.disk))"
    )
    .message("disk cannot be changed while something is rented: set replicas to 0 first"),
    validation = Rule::new(
        "oldSelf.replicas == 0 || (has(self.runpod) == has(oldSelf.runpod) && \
         (!has(self.runpod) || self.runpod == oldSelf.runpod))"
    )
    .message("runpod cannot be changed while something is rented: set replicas to 0 first"),
)]
#[serde(rename_all = "camelCase")]
pub struct ChatSessionSpec {
    /// The model, as owner/name on the Hugging Face Hub, with :variant to pick a GGUF file (such as :Q4_K_M) and @revision to
    /// pin a branch, tag or commit.
    #[x_kube(
        validation = Rule::new(format!("self.matches('{}')", crate::model::PATTERN))
            .message("a model is written owner/name as on the Hub, with :variant to pick a GGUF file and @revision where wanted"),
        validation = Rule::new("!self.contains('..') && !self.split(':')[0].split('@')[0].contains('--')")
            .message("a model's name has no two dots and no two hyphens in a row")
    )]
    pub model: ModelId,

    /// A Secret beside the session with a Hub token, for models that need one. The Secret must be offered by the label
    /// srchat.dev/model-token: "true".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SecretKey")]
    pub model_token_secret_ref: Option<SecretKey>,

    /// 1 runs the session; 0 keeps its name, URL and token, and rents nothing.
    #[serde(default = "one")]
    #[schemars(extend("default" = 1, "format" = "int32", "minimum" = 0, "maximum" = 1))]
    pub replicas: u32,

    /// How the model is served.
    #[serde(default)]
    #[schemars(extend("default" = {
        "engine": "Auto", "quantization": "Auto", "image": "", "trustRemoteCode": false, "extraArgs": []
    }))]
    pub runtime: Runtime,

    /// What the GPU must be.
    #[serde(default)]
    #[schemars(extend("default" = { "types": [], "count": 1 }))]
    pub gpu: Gpu,

    /// The pod's disk; without it, as much as the model needs, 50Gi at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::size::written_schema")]
    #[x_kube(
        validation = Rule::new(format!("self.matches('{}')", crate::size::PATTERN))
            .message("a disk is a whole number with a unit, such as 50Gi or 100G"),
        validation = Rule::new(format!(
            "!self.matches('{}') || \
             (quantity(self).compareTo(quantity('20G')) >= 0 && quantity(self).compareTo(quantity('10Ti')) <= 0)",
            crate::size::PATTERN
        ))
        .message("a disk has at least 20G and at most 10Ti")
    )]
    pub disk: Option<Size>,

    /// Who rents the pod out.
    #[serde(default)]
    pub provider: Provider,

    /// What only RunPod has.
    #[serde(default)]
    #[schemars(extend("default" = { "cloud": "Secure", "dataCenters": [] }))]
    pub runpod: RunPod,

    /// What the session may cost and how long it may live. Nothing is unlimited.
    #[serde(default)]
    #[schemars(extend("default" = { "maxHourlyCost": "1", "lifetime": "4h", "attempts": 3 }))]
    pub limits: Limits,

    /// How it ends.
    #[serde(default)]
    #[schemars(extend("default" = { "wipeTimeout": "60s" }))]
    pub teardown: Teardown,
}

/// One key of a Secret in the session's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKey {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[serde(default = "token")]
    #[schemars(length(min = 1, max = 253), extend("default" = "token"))]
    pub key: String,
}

impl ChatSessionSpec {
    /// The spec of somebody who wrote nothing but the model.
    pub fn of(model: ModelId) -> Self {
        Self {
            model,
            model_token_secret_ref: None,
            replicas: one(),
            runtime: Runtime::default(),
            gpu: Gpu::default(),
            disk: None,
            provider: Provider::default(),
            runpod: RunPod::default(),
            limits: Limits::default(),
            teardown: Teardown::default(),
        }
    }
}

impl ChatSession {
    /// One of the conditions in the status.
    pub fn condition(&self, type_: Type) -> Option<&Condition> {
        conditions::find(&self.status.as_ref()?.conditions, type_)
    }

    /// The name of the Secret that this session publishes.
    pub fn published_secret(&self) -> String {
        format!(
            "{}{}",
            self.metadata.name.as_deref().unwrap_or_default(),
            crate::PUBLISHED_SUFFIX
        )
    }
}

fn one() -> u32 {
    1
}

fn token() -> String {
    "token".to_owned()
}
