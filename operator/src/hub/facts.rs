//! What a model is, as far as renting for it needs to know: parsed once from the Hub's answers, and then only read.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// Everything that the planner knows of one model at one commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// `owner/name`, spelled as the Hub spells it.
    pub id: String,
    /// The commit that the revision meant when it was asked for: 40 hex digits. Everything later uses this.
    pub sha: String,
    /// What the model is for, in the Hub's words (`text-generation`).
    pub pipeline: Option<String>,
    /// The classes that `config.json` names (`LlamaForCausalLM`).
    pub architectures: Vec<String>,
    /// Takes images.
    pub vision: bool,
    /// Needs Python code from the repository.
    pub remote_code: bool,
    /// Has a chat template, so that it can be chatted with.
    pub chat_template: bool,
    /// Only an adapter for another model.
    pub adapter: bool,
    /// Parameters by dtype, as the safetensors headers count them (`BF16` -> 8030261248); empty when the Hub does not know.
    pub parameters: BTreeMap<String, u64>,
    /// How the stored weights are quantized already.
    pub stored: Option<Stored>,
    /// What determines the cache; `None` when `config.json` is missing or says too little.
    pub shape: Option<Shape>,
    /// The GGUF file that would be served, when the repository has any.
    pub gguf: Option<Gguf>,
    /// Every file of the commit.
    pub files: Vec<File>,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    /// Path within the repository, with `/`; never absolute, without `..`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the content in hex; only files kept outside git (all large ones) have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A quantization that was applied before the weights were uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// `quant_method` of `config.json` (`awq`, `gptq`, `compressed-tensors`, `fp8`, `mxfp4`, `bitsandbytes` …).
    pub method: String,
    /// Bits of a weight, when told.
    pub bits: Option<u32>,
}

/// The part of a model's architecture on which memory for its context depends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The longest context it was made for, in tokens.
    pub context: Option<NonZeroU32>,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Query heads; tensor parallelism must divide them.
    pub heads: u64,
    /// Rows of the embedding.
    pub vocabulary: u64,
    /// Whether the head shares the embedding's weights.
    pub tied: bool,
    /// What one token leaves in the cache.
    pub cache: Cache,
    /// Layers that keep a state of constant size instead of a cache.
    pub state_layers: u64,
    /// Tokens that attention looks back, when every layer slides.
    pub window: Option<u64>,
}

/// What attention keeps of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Keys and values of each head (MHA, GQA, MQA).
    Heads {
        /// Key-value heads of each layer that has attention.
        kv_heads: Vec<u64>,
        /// Width of a head's key plus width of its value.
        widths: u64,
    },
    /// One compressed vector a layer (MLA). Every GPU holds all of it.
    Latent {
        /// Layers that have it.
        layers: u64,
        /// `kv_lora_rank + qk_rope_head_dim`.
        width: u64,
    },
}

/// The GGUF weights that a variant (or the default) picks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gguf {
    /// The file to open: the first part when there are several.
    pub file: String,
    /// Every part, the first included.
    pub parts: Vec<File>,
    /// The vision projector, when there is one.
    pub mmproj: Option<File>,
    /// What the variant is called (`Q4_K_M`).
    pub variant: String,
}

impl Gguf {
    /// Bytes of all parts and of the projector: what has to fit into memory.
    pub fn bytes(&self) -> u64 {
        self.parts
            .iter()
            .chain(&self.mmproj)
            .map(|file| file.size)
            .fold(0, u64::saturating_add)
    }
}
