//! How much memory a model needs on each GPU, and how much of it is left for context. Formulas only: no model, no offer is named.

use crate::hub::{Cache, Shape};

use super::Memory;

const GIB: u64 = 1 << 30;
/// What torch, CUDA's context and the engine's own buffers take on each GPU.
const BASE: u64 = GIB;
/// What captured CUDA graphs take on each GPU.
const GRAPHS: u64 = GIB;
/// What NCCL, the driver and fragmentation take on each GPU.
const PER_GPU: u64 = GIB * 6 / 10;
/// What a vision tower and its largest batch of images take.
const VISION: u64 = GIB * 3 / 2;
/// Of what is visible, in percent: the engines' own `--gpu-memory-utilization 0.92`.
const USABLE: u64 = 92;
/// One state-space layer's state: 2 MiB a sequence (32 heads of 128 by 128 in 32 bits), for the 16 sequences that are admitted.
const STATE: u64 = 32 << 20;
/// A cache entry is 16 bits wide.
const CACHE_BYTES: u64 = 2;

/// What determines the need of one model as it will be served.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Need<'a> {
    /// Bytes of the weights in memory.
    pub weights: u64,
    /// What the cache depends on.
    pub shape: &'a Shape,
    /// Takes images.
    pub vision: bool,
    /// How many GPUs share the model.
    pub gpus: u32,
}

impl Need<'_> {
    /// What is needed for one sequence of so many tokens, or for so many sequences at once.
    pub fn memory(&self, context: u32, sequences: u32) -> Memory {
        let kv = self
            .cache(context)
            .saturating_mul(u64::from(sequences))
            .saturating_add(self.states());
        let per_gpu = self.with_cache(kv);
        Memory {
            weights: self.weights,
            kv_per_token: kv_per_token(self.shape),
            kv,
            overhead: self.overhead().saturating_mul(u64::from(self.gpus)),
            per_gpu,
            required: per_gpu.saturating_mul(u64::from(self.gpus)),
        }
    }

    /// The longest context, up to `most` tokens, that fits on GPUs which show so many bytes each; 0 when not even the weights do.
    pub fn longest_context(&self, visible: u64, most: u32) -> u32 {
        let fits = |context: u32| self.memory(context, 1).per_gpu <= visible;
        if fits(most) {
            return most;
        }
        // Need grows with context, so the boundary can be searched; 33 steps at most.
        let (mut good, mut bad) = (0, most);
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            if fits(middle) {
                good = middle
            } else {
                bad = middle
            }
        }
        // A round number: what is cut off is less than any conversation notices.
        if good >= 2048 {
            good / 1024 * 1024
        } else {
            good
        }
    }

    /// How many sequences of `context` tokens fit at once, up to `most`; 1 at least.
    pub fn sequences(&self, visible: u64, context: u32, most: u32) -> u32 {
        (2..=most)
            .rev()
            .find(|count| self.memory(context, *count).per_gpu <= visible)
            .unwrap_or(1)
    }

    /// What one GPU must show when all caches together take so many bytes.
    fn with_cache(&self, kv: u64) -> u64 {
        let share = self.share();
        let weights = share.saturating_add(share / 50);
        let used = weights
            .saturating_add(kv.div_ceil(self.split()))
            .saturating_add(self.overhead());
        u64::try_from((u128::from(used) * 100).div_ceil(u128::from(USABLE))).unwrap_or(u64::MAX)
    }

    fn share(&self) -> u64 {
        self.weights.div_ceil(u64::from(self.gpus.max(1)))
    }

    fn overhead(&self) -> u64 {
        let share = self.share();
        let vision = if self.vision { VISION } else { 0 };
        BASE + share / 100 * 3 + GRAPHS + PER_GPU + vision
    }

    /// On how many GPUs the cache is spread: heads cannot be split, and a latent vector is on all of them.
    fn split(&self) -> u64 {
        let heads = match &self.shape.cache {
            Cache::Heads { kv_heads, .. } => kv_heads
                .iter()
                .copied()
                .filter(|heads| *heads > 0)
                .min()
                .unwrap_or(1),
            Cache::Latent { .. } => 1,
        };
        u64::from(self.gpus.max(1)).min(heads.max(1))
    }

    fn cache(&self, context: u32) -> u64 {
        let tokens = self
            .shape
            .window
            .map_or(u64::from(context), |window| window.min(u64::from(context)));
        kv_per_token(self.shape).saturating_mul(tokens)
    }

    fn states(&self) -> u64 {
        self.shape.state_layers.saturating_mul(STATE)
    }
}

/// Bytes that one token leaves in the caches of all layers.
pub fn kv_per_token(shape: &Shape) -> u64 {
    let numbers = match &shape.cache {
        Cache::Heads { kv_heads, widths } => kv_heads.iter().fold(0, |sum: u64, heads| {
            sum.saturating_add(heads.saturating_mul(*widths))
        }),
        Cache::Latent { layers, width } => layers.saturating_mul(*width),
    };
    numbers.saturating_mul(CACHE_BYTES)
}

/// Bytes of `count` parameters of a safetensors dtype; `None` for one that is not known.
pub fn dtype_bytes(dtype: &str, count: u64) -> Option<u64> {
    Some(match dtype {
        "F64" | "I64" | "U64" | "C64" => count.saturating_mul(8),
        "F32" | "I32" | "U32" => count.saturating_mul(4),
        "F16" | "BF16" | "I16" | "U16" => count.saturating_mul(2),
        "I8" | "U8" | "BOOL" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "F8_E4M3FNUZ"
        | "F8_E5M2FNUZ" => count,
        "I4" | "U4" | "F4" | "F4_E2M1" => count.div_ceil(2),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    fn shape(cache: Cache) -> Shape {
        Shape {
            context: NonZeroU32::new(131_072),
            hidden: 4096,
            heads: 32,
            vocabulary: 128_256,
            tied: false,
            cache,
            state_layers: 0,
            window: None,
        }
    }

    fn llama() -> Shape {
        shape(Cache::Heads {
            kv_heads: vec![8; 32],
            widths: 256,
        })
    }

    #[test]
    fn llama_8b_takes_16_06_gb_and_131072_bytes_a_token() {
        assert_eq!(dtype_bytes("BF16", 8_030_261_248), Some(16_060_522_496));
        assert_eq!(kv_per_token(&llama()), 131_072);
    }

    #[test]
    fn deepseek_v3_takes_70272_bytes_a_token() {
        assert_eq!(
            kv_per_token(&shape(Cache::Latent {
                layers: 61,
                width: 512 + 64
            })),
            70_272
        );
    }

    #[test]
    fn the_need_is_the_documented_sum() {
        let shape = llama();
        let need = Need {
            weights: 16_060_522_496,
            shape: &shape,
            vision: false,
            gpus: 1,
        };
        let memory = need.memory(32_768, 1);
        assert_eq!(memory.kv, 4 * GIB);
        let overhead = 2.6 * GIB as f64 + 0.03 * 16_060_522_496.0;
        assert!(
            (memory.overhead as f64 - overhead).abs() < 100.0,
            "{}",
            memory.overhead
        );
        let sum = (16_060_522_496.0 * 1.02 + 4.0 * GIB as f64 + overhead) / 0.92;
        assert!(
            (memory.per_gpu as f64 - sum).abs() < 200.0,
            "{} is not {sum}",
            memory.per_gpu
        );
        let seeing = Need {
            vision: true,
            ..need
        }
        .memory(32_768, 1);
        assert!(seeing.per_gpu - memory.per_gpu > 3 * GIB / 2);
    }

    #[test]
    fn gpus_share_weights_and_whole_heads_but_no_latent_vector() {
        let grouped = shape(Cache::Heads {
            kv_heads: vec![2; 32],
            widths: 256,
        });
        let latent = shape(Cache::Latent {
            layers: 61,
            width: 576,
        });
        let cache_on_one_of = |shape: &Shape, gpus| {
            let with = |context| {
                Need {
                    weights: 80 * GIB,
                    shape,
                    vision: false,
                    gpus,
                }
                .memory(context, 1)
                .per_gpu as f64
            };
            ((with(65_536) - with(0)) * 0.92 / (kv_per_token(shape) as f64 * 65_536.0) * 100.0)
                .round()
        };
        assert_eq!(
            cache_on_one_of(&grouped, 4),
            50.0,
            "two heads fill two of four GPUs"
        );
        assert_eq!(cache_on_one_of(&latent, 4), 100.0);
    }

    #[test]
    fn a_window_bounds_the_cache_and_states_are_constant() {
        let mut sliding = llama();
        sliding.window = Some(4096);
        let kv = |shape: &Shape, context| {
            Need {
                weights: GIB,
                shape,
                vision: false,
                gpus: 1,
            }
            .memory(context, 1)
            .kv
        };
        assert_eq!(kv(&sliding, 131_072), 4096 * 131_072);
        assert_eq!(kv(&sliding, 1024), 1024 * 131_072);
        let mut states = shape(Cache::Heads {
            kv_heads: vec![],
            widths: 0,
        });
        states.state_layers = 64;
        assert_eq!(kv(&states, 1), kv(&states, 100_000));
        assert_eq!(kv(&states, 1), 2 * GIB);
    }

    #[test]
    fn context_is_what_is_left_after_weights_and_overhead() {
        let shape = llama();
        let need = Need {
            weights: 16_060_522_496,
            shape: &shape,
            vision: false,
            gpus: 1,
        };
        let visible = 24_217 << 20;
        let context = need.longest_context(visible, 131_072);
        assert!(
            context > 16_384 && context.is_multiple_of(1024),
            "{context}"
        );
        assert!(need.memory(context, 1).per_gpu <= visible);
        assert_eq!(need.longest_context(80 * GIB, 131_072), 131_072);
        assert_eq!(need.longest_context(16 * GIB, 131_072), 0);
    }

    #[test]
    fn sequences_fill_what_memory_allows_up_to_a_bound() {
        let shape = llama();
        let need = Need {
            weights: GIB,
            shape: &shape,
            vision: false,
            gpus: 1,
        };
        assert_eq!(need.sequences(80 * GIB, 8192, 4), 4);
        assert_eq!(need.sequences(0, 8192, 4), 1);
    }

    proptest! {
        #[test]
        fn nothing_overflows_and_more_context_never_needs_less(
            weights: u64, heads in 0u64..1 << 24, widths in 0u64..1 << 25, layers in 0usize..64, gpus in 1u32..9, context: u32, more: u32, sequences in 1u32..5,
        ) {
            let shape = shape(Cache::Heads { kv_heads: vec![heads; layers], widths });
            let need = Need { weights, shape: &shape, vision: true, gpus };
            prop_assert!(need.memory(context, sequences).per_gpu <= need.memory(context.saturating_add(more), sequences).per_gpu);
            prop_assert!(need.longest_context(weights, context) <= context);
        }
    }
}
