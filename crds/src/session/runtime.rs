//! How the model is served: engine, precision, context, image.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::named::named;

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

impl Runtime {
    /// The longest context that is chosen by itself.
    pub const LONGEST_DEFAULT_CONTEXT: u32 = 32_768;

    /// The image given, if one is.
    pub fn image(&self) -> Option<&str> {
        Some(self.image.as_str()).filter(|image| !image.is_empty())
    }
}

fn context_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int32", "minimum": 256, "maximum": 16_777_216 })
}
