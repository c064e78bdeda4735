//! What a session needs and which offer to take: pure, from what the user wished, what the Hub told and what is on offer.
//! It rents nothing and asks nobody; every offer that was not taken has one reason.

mod choose;
mod gpus;
mod memory;
mod serving;
mod startup;

use std::fmt::Write as _;
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use srchat_crds::conditions::Planned;
use srchat_crds::session::{self, ChatSessionSpec, Engine, Quantization};
use srchat_crds::status::{self, RejectedReason};
use srchat_crds::{Dollars, ModelId, Size};

use crate::host::deploy::{Deploy, WeightFile};
use crate::host::engine;
use crate::hub::{self, File};
pub use choose::plan;
pub use startup::limit as startup_limit;

use crate::provider::{Cloud, Offer};
use crate::route::{self, Abilities};
use crate::ssh::HostKey;

/// What the user asked for, parsed from the session's spec; what was left open is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// The model, with its variant and revision.
    pub model: ModelId,
    /// `runtime.engine`.
    pub engine: Engine,
    /// `runtime.quantization`.
    pub quantization: Quantization,
    /// `runtime.contextLength`.
    pub context: Option<u32>,
    /// `runtime.image`.
    pub image: Option<String>,
    /// `runtime.trustRemoteCode`.
    pub trust_remote_code: bool,
    /// `runtime.extraArgs`.
    pub extra_args: Vec<String>,
    /// `gpu.types`: ids or short names, in order of preference.
    pub gpu_types: Vec<String>,
    /// `gpu.count`, at least 1.
    pub gpu_count: u32,
    /// `gpu.minMemory`, compared with the number on a card's label.
    pub gpu_min_memory: Option<Size>,
    /// `disk`.
    pub disk: Option<Size>,
    /// `runpod.cloud`; `None` is any.
    pub cloud: Option<Cloud>,
    /// `runpod.dataCenters`; empty is any.
    pub data_centers: Vec<String>,
    /// `limits.maxHourlyCost`, for all GPUs together.
    pub max_hourly_cost: Dollars,
    /// `limits.startup`, when written.
    pub startup: Option<Duration>,
    /// `limits.lifetime`.
    pub lifetime: Duration,
}

impl Wish {
    /// What a spec asks for.
    pub fn of(spec: &ChatSessionSpec) -> Self {
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        Self {
            model: spec.model.clone(),
            engine: spec.runtime.engine,
            quantization: spec.runtime.quantization,
            context: spec.runtime.context_length,
            image: given(&spec.runtime.image),
            trust_remote_code: spec.runtime.trust_remote_code,
            extra_args: spec.runtime.extra_args.clone(),
            gpu_types: spec.gpu.types.clone(),
            gpu_count: spec.gpu.count.max(1),
            gpu_min_memory: spec.gpu.min_memory,
            disk: spec.disk,
            cloud: match spec.runpod.cloud {
                session::Cloud::Secure => Some(Cloud::Secure),
                session::Cloud::Community => Some(Cloud::Community),
                session::Cloud::Any => None,
            },
            data_centers: spec.runpod.data_centers.clone(),
            max_hourly_cost: spec.limits.max_hourly_cost,
            startup: spec.limits.startup.map(Duration::from),
            lifetime: spec.limits.lifetime.duration(),
        }
    }
}

/// What is rented and what is started on it: everything later steps need, so that none of them has a choice left.
/// Kept in the ledger while it is in force; `status.plan` is a projection of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// `owner/name`, as the Hub spells it.
    pub model: String,
    /// The commit: 40 hex digits.
    pub revision: String,
    /// The engine, resolved.
    pub engine: route::Engine,
    /// The precision that is served, resolved: never `Auto`.
    pub quantization: Quantization,
    /// The engine quantizes while loading; otherwise the weights are served as they are stored.
    pub quantize_online: bool,
    /// Takes images.
    pub vision: bool,
    /// What the engine can do with this model.
    pub abilities: Abilities,
    /// Tokens of context for each request.
    pub context_length: u32,
    /// Requests that llama.cpp serves at once, each with its own context; 1 for the others, which share theirs.
    pub slots: u32,
    /// How much memory is needed and for what.
    pub memory: Memory,
    /// The provider's id of the GPU.
    pub gpu: String,
    /// Its short name.
    pub gpu_name: String,
    /// How many of them.
    pub gpu_count: u32,
    /// Where it is rented.
    pub cloud: Cloud,
    /// Data centers the pod may run in: the wished ones that have stock; empty lets the provider choose.
    pub data_centers: Vec<String>,
    /// Dollars an hour for all GPUs.
    pub hourly_cost: Dollars,
    /// Container disk in whole GB.
    pub disk_gb: u32,
    /// What the pod runs; [`crate::host::image`] knows its ways.
    pub image: String,
    /// The lowest CUDA version of the machine's driver, as `major.minor`, where the image is ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_cuda: Option<String>,
    /// The files that the engine needs, and no others.
    pub files: Vec<File>,
    /// For llama.cpp: which of `files` it opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gguf: Option<GgufFiles>,
    /// `runtime.trustRemoteCode`.
    pub trust_remote_code: bool,
    /// `runtime.extraArgs`, after all other arguments.
    pub extra_args: Vec<String>,
    /// What serves the model instead, should this engine not start. Chosen with the plan, so that nothing is chosen later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Seconds from renting to a host that shows itself, estimated.
    #[serde(default)]
    pub boot_seconds: u64,
    /// Seconds from renting to the first answer, estimated.
    pub startup_seconds: u64,
    /// Every offer not taken, by GPU, with one reason each.
    pub rejected: Vec<Rejected>,
}

/// Another engine for the same files on the same GPU: all in which it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fallback {
    /// The engine.
    pub engine: route::Engine,
    /// The precision that it serves.
    pub quantization: Quantization,
    /// Whether it quantizes while loading.
    pub quantize_online: bool,
    /// Whether it takes images.
    pub vision: bool,
    /// What it can do with this model.
    pub abilities: Abilities,
}

/// Where the memory goes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// The weights, on all GPUs together.
    pub weights: u64,
    /// One token in the cache.
    pub kv_per_token: u64,
    /// The cache for the whole context, on all GPUs together.
    pub kv: u64,
    /// What engine and CUDA take beside them, on all GPUs together.
    pub overhead: u64,
    /// What each GPU must show.
    pub per_gpu: u64,
    /// `per_gpu` times the number of GPUs.
    pub required: u64,
}

/// Paths of `Plan::files` that llama.cpp opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GgufFiles {
    /// The weights: the first part when there are several.
    pub model: String,
    /// The vision projector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mmproj: Option<String>,
}

/// An offer that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// The GPU's short name.
    pub gpu: String,
    /// In which cloud.
    pub cloud: Cloud,
    /// The first thing that speaks against it.
    pub reason: RejectedReason,
}

/// Why nothing can be rented for this wish now. Displayed, it ends with the offers that came nearest and what speaks against them.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}{}", nearest(rejected))]
pub struct Refusal {
    /// The reason that the condition `Planned` gets.
    pub reason: Planned,
    /// One sentence for the user, with what would help.
    pub message: String,
    /// Every offer, with the reason against it; what has most memory comes first.
    pub rejected: Vec<Rejected>,
}

/// So many GPUs are named for each reason: the sentence is for people, and stands in the status.
const NAMED: usize = 4;

/// `; not taken: B200, H200 SXM and 9 more (too small), L4 (not in gpu.types)`.
fn nearest(all: &[Rejected]) -> String {
    let mut groups: Vec<(RejectedReason, Vec<String>)> = Vec::new();
    for status::Rejected { gpu, reason } in rejected(all, "") {
        match groups.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, gpus)) if gpus.contains(&gpu) => {}
            Some((_, gpus)) => gpus.push(gpu),
            None => groups.push((reason, vec![gpu])),
        }
    }
    let mut text = String::new();
    for (reason, gpus) in groups {
        text.push_str(if text.is_empty() {
            "; not taken: "
        } else {
            ", "
        });
        text.push_str(&gpus[..gpus.len().min(NAMED)].join(", "));
        if let Some(more) = gpus.len().checked_sub(NAMED).filter(|more| *more > 0) {
            let _ = write!(text, " and {more} more");
        }
        let _ = write!(text, " ({})", in_words(reason));
    }
    text
}

/// What speaks against an offer, in the names of the spec.
fn in_words(reason: RejectedReason) -> &'static str {
    match reason {
        RejectedReason::TooSmall => "too small",
        RejectedReason::OverPrice => "above limits.maxHourlyCost",
        RejectedReason::NoStock => "none in stock",
        RejectedReason::WrongType => "not in gpu.types",
        RejectedReason::WrongCloud => "not in runpod.cloud",
        RejectedReason::WrongDataCenter => "not in runpod.dataCenters",
        RejectedReason::Unsupported => "cannot run the engine",
        RejectedReason::Excluded => "failed a short while ago",
        RejectedReason::Dearer => "would do otherwise",
    }
}

/// An offer to leave out for now: this GPU in this cloud.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OfferKey {
    /// The provider's id of the GPU.
    pub gpu: String,
    /// In which cloud.
    pub cloud: Cloud,
}

impl OfferKey {
    /// The key of an offer.
    pub fn of(offer: &Offer) -> Self {
        Self {
            gpu: offer.gpu.clone(),
            cloud: offer.cloud,
        }
    }
}

impl From<&hub::Error> for Planned {
    fn from(error: &hub::Error) -> Self {
        match error {
            hub::Error::NotFound(_) => Self::ModelNotFound,
            hub::Error::Gated(_) => Self::GatedModel,
            hub::Error::Unsupported(_) => Self::UnsupportedModel,
            hub::Error::Unavailable { .. } => Self::HubUnavailable,
        }
    }
}

impl Plan {
    /// The same with the engine that serves instead; it has no other one in its turn.
    pub fn instead(&self) -> Option<Self> {
        let Fallback {
            engine,
            quantization,
            quantize_online,
            vision,
            abilities,
        } = self.fallback?;
        Some(Self {
            engine,
            quantization,
            quantize_online,
            vision,
            abilities,
            fallback: None,
            ..self.clone()
        })
    }

    /// What a host is told to serve. The token is for a gated model.
    ///
    /// # Errors
    /// When the user's own arguments would undo what keeps the engine private.
    pub fn deployment(
        &self,
        hub: &str,
        gateways_key: HostKey,
        token: Option<SecretString>,
    ) -> Result<Deploy, engine::ReservedArgument> {
        Ok(Deploy {
            model: self.model.clone(),
            revision: self.revision.clone(),
            hub: hub.to_owned(),
            token,
            files: self.weight_files(),
            launch: engine::launch(&self.engine_spec(&self.model))?,
            gateways_key,
        })
    }

    /// What the engine's command line is built from, with the name that the model is to answer to.
    pub fn engine_spec(&self, served_name: &str) -> engine::Spec {
        let (gguf, projector) = match &self.gguf {
            Some(GgufFiles { model, mmproj }) => (Some(model.clone()), mmproj.clone()),
            None => (None, None),
        };
        engine::Spec {
            engine: host_engine(self.engine),
            model: self.model.clone(),
            revision: self.revision.clone(),
            served_name: served_name.to_owned(),
            context: self.context_length,
            quantization: match self.quantization {
                Quantization::Fp8 if self.quantize_online => engine::Quantization::Fp8,
                Quantization::Int4 if self.quantize_online => engine::Quantization::Int4,
                Quantization::Auto
                | Quantization::None
                | Quantization::Fp8
                | Quantization::Int4 => engine::Quantization::None,
            },
            gpus: self.gpu_count,
            vision: self.vision,
            gguf,
            projector,
            slots: self.slots,
            trust_remote_code: self.trust_remote_code,
            extra_args: self.extra_args.clone(),
        }
    }

    /// The files as a deploy takes them.
    pub fn weight_files(&self) -> Vec<WeightFile> {
        let of = |File { path, size, sha256 }: &File| WeightFile {
            path: path.clone(),
            size: *size,
            sha256: sha256.clone(),
        };
        self.files.iter().map(of).collect()
    }
}

/// The engine as the host knows it.
fn host_engine(engine: route::Engine) -> engine::Engine {
    match engine {
        route::Engine::Vllm => engine::Engine::Vllm,
        route::Engine::Transformers => engine::Engine::Transformers,
        route::Engine::LlamaCpp => engine::Engine::LlamaCpp,
    }
}

impl From<&Plan> for status::Plan {
    fn from(plan: &Plan) -> Self {
        let engine = match plan.engine {
            route::Engine::Vllm => Engine::Vllm,
            route::Engine::Transformers => Engine::Transformers,
            route::Engine::LlamaCpp => Engine::LlamaCpp,
        };
        Self {
            revision: plan.revision.clone(),
            engine,
            quantization: plan.quantization,
            vision: plan.vision,
            context_length: plan.context_length,
            required_memory: Size::gib_for(plan.memory.per_gpu),
            gpu: plan.gpu.clone(),
            gpu_count: plan.gpu_count,
            // Disks are counted in GB by the provider; the size is kept as it is written there.
            disk: format!("{}G", plan.disk_gb)
                .parse()
                .unwrap_or_else(|_| Size::gib(plan.disk_gb)),
            hourly_cost: plan.hourly_cost,
            rejected: rejected(&plan.rejected, &plan.gpu_name),
        }
    }
}

/// For people, who do not think in offers: a card that is also in a cloud nobody asked for is not worth a line.
fn rejected(all: &[Rejected], chosen: &str) -> Vec<status::Rejected> {
    let elsewhere = |one: &Rejected| {
        one.reason == RejectedReason::WrongCloud
            && (one.gpu == chosen
                || all
                    .iter()
                    .any(|other| other.gpu == one.gpu && other.reason != one.reason))
    };
    let shown = all.iter().filter(|one| !elsewhere(one));
    shown
        .map(|one| status::Rejected {
            gpu: one.gpu.clone(),
            reason: one.reason,
        })
        .collect()
}
