//! What a user may ask for: the spec of a `ChatSession`, its defaults, and the rules that answer `kubectl apply` at once.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Dollars, ModelId, Size, Span,
    conditions::{self, Type},
    named::named,
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

/// How the model is served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.quantization != 'FP8' || self.engine == 'Auto' || self.engine == 'VLLM'")
        .message("quantization: FP8 needs engine: VLLM or Auto")
)]
pub struct Runtime {
    /// The model server. Auto takes the first that supports the model: llama.cpp for GGUF, vLLM, transformers.
    #[serde(default)]
    #[schemars(extend("default" = "Auto"))]
    pub engine: Engine,
    /// How weights are kept in memory. Auto keeps them as published.
    #[serde(default)]
    #[schemars(extend("default" = "Auto"))]
    pub quantization: Quantization,
    /// How many tokens a conversation may have; without it, what the model allows, at most 32768, and what fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "context_schema")]
    pub context_length: Option<u32>,
    /// A pod image instead of the engine's own.
    #[serde(default)]
    #[schemars(length(max = 512), extend("default" = ""))]
    #[x_kube(validation = Rule::new(r"!self.matches('\\s')").message("an image's name has no spaces"))]
    pub image: String,
    /// Whether code that comes with the model may run.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub trust_remote_code: bool,
    /// More arguments for the engine, one an item; no shell ever sees them.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 512)))]
    #[schemars(extend("default" = [], "x-kubernetes-list-type" = "atomic"))]
    #[x_kube(
        validation = Rule::new("self.all(arg, !arg.matches('^--?(host|port|uds)(=|$)'))")
            .message("the engine listens on the pod's loopback only: --host, --port and --uds are not accepted")
    )]
    pub extra_args: Vec<String>,
}

/// A model server.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum Engine {
    /// The first that supports the model.
    #[default]
    Auto,
    /// vLLM.
    #[serde(rename = "VLLM")]
    Vllm,
    /// transformers serve.
    Transformers,
    /// llama.cpp's server, for GGUF files.
    LlamaCpp,
}

named!(Engine {
    Auto = "Auto",
    Vllm = "VLLM",
    Transformers = "Transformers",
    LlamaCpp = "LlamaCpp",
});

/// How weights are kept in memory.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum Quantization {
    /// As they were published.
    #[default]
    Auto,
    /// As they were published, and refused when that is quantized.
    None,
    /// Eight bits.
    #[serde(rename = "FP8")]
    Fp8,
    /// Four bits.
    Int4,
}

named!(Quantization {
    Auto = "Auto",
    None = "None",
    Fp8 = "FP8",
    Int4 = "Int4",
});

/// What the GPU must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// GPUs to choose from, by the provider's ids or short names, the most wanted first; empty means any.
    #[serde(default)]
    #[schemars(length(max = 32), inner(length(min = 1, max = 64)))]
    #[schemars(extend("default" = [], "x-kubernetes-list-type" = "atomic"))]
    pub types: Vec<String>,
    /// How many GPUs share the model.
    #[serde(default = "one")]
    #[schemars(extend("default" = 1, "format" = "int32", "minimum" = 1, "maximum" = 8))]
    pub count: u32,
    /// The least memory a GPU must have, by the number on its label: 24Gi admits a card that is sold as 24 GB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::size::written_schema")]
    #[x_kube(
        validation = Rule::new(format!("self.matches('{}')", crate::size::PATTERN))
            .message("memory is a whole number with a unit, such as 24Gi")
    )]
    pub min_memory: Option<Size>,
}

/// Who rents pods out.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum Provider {
    /// runpod.io.
    #[default]
    RunPod,
}

named!(Provider {
    RunPod = "RunPod",
});

/// What only RunPod has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RunPod {
    /// Which of RunPod's clouds.
    #[schemars(extend("default" = "Secure"))]
    pub cloud: Cloud,
    /// Data centers to choose from, by RunPod's ids; empty means any.
    #[schemars(length(max = 64), inner(length(min = 1, max = 32)))]
    #[schemars(extend("default" = [], "x-kubernetes-list-type" = "atomic"))]
    pub data_centers: Vec<String>,
}

/// One of RunPod's clouds.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum Cloud {
    /// RunPod's own data centers.
    #[default]
    Secure,
    /// Machines of others.
    Community,
    /// Either.
    Any,
}

named!(Cloud {
    Secure = "Secure",
    Community = "Community",
    Any = "Any",
});

/// What a session may cost and how long it may live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.idle) || self.idle <= self.lifetime")
        .message("idle may not be longer than lifetime (4h when not given)"),
    validation = Rule::new("!has(self.startup) || self.startup < self.lifetime")
        .message("startup must be shorter than lifetime (4h when not given)")
)]
pub struct Limits {
    /// The most that an hour may cost, in dollars. Quote it: "0.79".
    #[serde(default = "default_hourly")]
    #[schemars(schema_with = "crate::money::written_schema", extend("default" = "1"))]
    #[x_kube(
        validation = Rule::new(
            "quantity(string(self)).isGreaterThan(quantity('0')) && quantity(string(self)).compareTo(quantity('1000')) <= 0"
        )
        .message("maxHourlyCost is more than 0 and at most 1000 dollars")
    )]
    pub max_hourly_cost: Dollars,
    /// The most that the session may cost over all its runs, in dollars; without it, maxHourlyCost and lifetime bound a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::money::written_schema")]
    #[x_kube(
        validation = Rule::new(
            "quantity(string(self)).isGreaterThan(quantity('0')) && quantity(string(self)).compareTo(quantity('100000')) <= 0"
        )
        .message("maxTotalCost is more than 0 and at most 100000 dollars")
    )]
    pub max_total_cost: Option<Dollars>,
    /// How long a run may last, counted from its first pod.
    #[serde(default = "default_lifetime")]
    #[schemars(schema_with = "crate::duration::schema", extend("default" = "4h"))]
    #[x_kube(
        validation = Rule::new("self > duration('0s') && self <= duration('168h')")
            .message("lifetime is more than 0s and at most 168h")
    )]
    pub lifetime: Span,
    /// How long nobody may use it before it ends; 0s turns this off. Without it, 30m, or lifetime when that is shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::duration::schema")]
    pub idle: Option<Span>,
    /// How long a pod may take until the model answers; without it, 20m, or three times the plan's estimate when that is longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::duration::schema")]
    #[x_kube(
        validation = Rule::new("self > duration('0s')").message("startup is more than 0s")
    )]
    pub startup: Option<Span>,
    /// How many pods a run may use.
    #[serde(default = "default_attempts")]
    #[schemars(extend("default" = 3, "format" = "int32", "minimum" = 1, "maximum" = 10))]
    pub attempts: u32,
}

/// How a session ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Teardown {
    /// How long clearing the host may take before it is terminated anyway.
    #[serde(default = "default_wipe")]
    #[schemars(schema_with = "crate::duration::schema", extend("default" = "60s"))]
    #[x_kube(
        validation = Rule::new("self <= duration('10m')").message("wipeTimeout is at most 10m")
    )]
    pub wipe_timeout: Span,
}

impl Default for Gpu {
    fn default() -> Self {
        Self {
            types: Vec::new(),
            count: 1,
            min_memory: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_hourly_cost: default_hourly(),
            max_total_cost: None,
            lifetime: default_lifetime(),
            idle: None,
            startup: None,
            attempts: default_attempts(),
        }
    }
}

impl Default for Teardown {
    fn default() -> Self {
        Self {
            wipe_timeout: Span::seconds(60),
        }
    }
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

impl Limits {
    /// How long nobody may use the session before it ends; `None` when idleness never ends it.
    pub fn idle_in_force(&self) -> Option<Span> {
        const DEFAULT: Span = Span::minutes(30);
        Some(self.idle.unwrap_or(DEFAULT.min(self.lifetime))).filter(|idle| !idle.is_zero())
    }

    /// How long a pod may take until the model answers, for a plan that expects `estimate`.
    pub fn startup_in_force(&self, estimate: Span) -> Span {
        const DEFAULT: Span = Span::minutes(20);
        self.startup
            .unwrap_or(DEFAULT.max(Span::seconds(estimate.as_secs().saturating_mul(3))))
    }
}

impl Runtime {
    /// The longest context that is chosen by itself.
    pub const LONGEST_DEFAULT_CONTEXT: u32 = 32_768;

    /// The image given, if one is.
    pub fn image(&self) -> Option<&str> {
        Some(self.image.as_str()).filter(|image| !image.is_empty())
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

fn default_hourly() -> Dollars {
    Dollars::whole(1)
}

fn default_lifetime() -> Span {
    Span::hours(4)
}

fn default_attempts() -> u32 {
    3
}

fn default_wipe() -> Span {
    Span::seconds(60)
}

fn token() -> String {
    "token".to_owned()
}

fn context_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "integer", "format": "int32", "minimum": 256, "maximum": 16_777_216 })
}
