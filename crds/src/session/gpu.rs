//! What to rent, and from whom.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::one;
use crate::{Size, named::named};

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

impl Default for Gpu {
    fn default() -> Self {
        Self {
            types: Vec::new(),
            count: 1,
            min_memory: None,
        }
    }
}
