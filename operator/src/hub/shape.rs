//! Reads [`Shape`] out of a `config.json`. Its text was written by strangers: whatever is missing or absurd is `None`, never a panic.

use std::num::NonZeroU32;

use serde_json::Value;

use super::facts::{Cache, Shape};

/// More layers than any model has; what claims more is not believed (and would only cost us memory).
const MOST_LAYERS: u64 = 4096;
/// Wider than any head, stream or rank, and small enough that no product of ours overflows.
const WIDEST: u64 = 1 << 24;

/// Where multimodal models keep the part that reads and writes text. Only that part has a cache.
const TEXT_PARTS: [&str; 5] = [
    "text_config",
    "llm_config",
    "language_config",
    "language_model_config",
    "thinker_config",
];

/// The shape that a whole `config.json` describes; `None` when it says too little to know the cache.
pub fn of_config(config: &Value) -> Option<Shape> {
    of_text(text_part(config), config)
}

/// The text model within a configuration, however deep (`thinker_config.text_config`).
pub fn text_part(config: &Value) -> &Value {
    let inner = TEXT_PARTS
        .iter()
        .find_map(|key| config.get(key).filter(|part| part.is_object()));
    match inner {
        // Some nest an empty or partial object and leave the numbers outside.
        Some(part)
            if layers(part).is_some() || TEXT_PARTS.iter().any(|key| part.get(key).is_some()) =>
        {
            text_part(part)
        }
        Some(_) | None => config,
    }
}

fn of_text(text: &Value, whole: &Value) -> Option<Shape> {
    let layers = layers(text)?;
    let hidden = number(text, &["hidden_size", "n_embd", "d_model", "dim"])?;
    let kinds = kinds(text, layers)?;
    let attention = kinds.iter().filter(|kind| **kind != Kind::State).count() as u64;
    let heads = number(
        text,
        &["num_attention_heads", "n_head", "num_heads", "n_heads"],
    );
    let cache = match (number(text, &["kv_lora_rank"]), attention) {
        (_, 0) => Cache::Heads {
            kv_heads: Vec::new(),
            widths: 0,
        },
        (Some(rank), _) => Cache::Latent {
            layers: attention,
            width: rank + number(text, &["qk_rope_head_dim"])?,
        },
        (None, _) => {
            let heads = heads?;
            let width = number(text, &["head_dim", "attention_head_dim"])
                .or_else(|| hidden.checked_div(heads))?;
            Cache::Heads {
                kv_heads: kv_heads(text, heads, layers, &kinds)?,
                widths: 2 * width,
            }
        }
    };
    let window = number(text, &["sliding_window"])
        .filter(|_| text.get("use_sliding_window") != Some(&Value::Bool(false)))
        .filter(|_| kinds.iter().all(|kind| *kind == Kind::Sliding));
    Some(Shape {
        context: number(
            text,
            &[
                "max_position_embeddings",
                "n_positions",
                "max_seq_len",
                "seq_length",
                "n_ctx",
            ],
        )
        .and_then(|tokens| NonZeroU32::new(u32::try_from(tokens).ok()?)),
        hidden,
        heads: heads.unwrap_or(1),
        vocabulary: number(text, &["vocab_size"])
            .or_else(|| number(whole, &["vocab_size"]))
            .unwrap_or(0),
        tied: tied(text).or_else(|| tied(whole)).unwrap_or(false),
        cache,
        state_layers: layers - attention,
        window,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Attends to everything.
    Full,
    /// Attends to a window.
    Sliding,
    /// Has no cache that grows: linear attention, Mamba, or only a feed-forward part.
    State,
}

/// What each layer is. Absent lists mean that all are alike.
fn kinds(text: &Value, layers: u64) -> Option<Vec<Kind>> {
    let count = usize::try_from(layers).ok()?;
    if let Some(names) = ["layer_types", "layers_block_type"]
        .iter()
        .find_map(|key| text.get(key)?.as_array())
    {
        let mut kinds: Vec<Kind> = names
            .iter()
            .take(count)
            .map(|name| kind(name.as_str().unwrap_or_default()))
            .collect();
        kinds.resize(count, Kind::Full);
        return Some(kinds);
    }
    let attending = |attends: &dyn Fn(u64) -> bool| {
        let kind = |layer| {
            if attends(layer) {
                Kind::Full
            } else {
                Kind::State
            }
        };
        Some((0..layers).map(kind).collect())
    };
    // NemotronH: one letter a layer; `*` is attention, `M` Mamba, `-` a feed-forward part. What it leaves out counts as the dearest.
    if let Some(pattern) = text.get("hybrid_override_pattern").and_then(Value::as_str) {
        let letters: Vec<char> = pattern.chars().take(count).collect();
        let letter = |layer| letters.get(usize::try_from(layer).ok()?);
        return attending(&|layer| letter(layer).is_none_or(|letter| *letter == '*'));
    }
    if let Some(indices) = ["attn_layer_indices", "full_attn_idxs"]
        .iter()
        .find_map(|key| text.get(key)?.as_array())
    {
        return attending(&|layer| indices.iter().any(|index| index.as_u64() == Some(layer)));
    }
    // Jamba: every n-th layer attends, starting at an offset. Qwen3-Next: every n-th, the last of each group.
    if let Some(period) = number(text, &["attn_layer_period"]) {
        let offset = text
            .get("attn_layer_offset")
            .and_then(Value::as_u64)
            .unwrap_or(0);
        return attending(&|layer| layer % period == offset % period);
    }
    if let Some(interval) = number(text, &["full_attention_interval"]) {
        return attending(&|layer| (layer + 1).is_multiple_of(interval));
    }
    let model_type = text
        .get("model_type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if matches!(
        model_type,
        "mamba" | "mamba2" | "falcon_mamba" | "rwkv" | "rwkv7"
    ) {
        return Some(vec![Kind::State; count]);
    }
    // Without a list, a pattern (Gemma: every n-th is full) or a first full layer (Qwen2) mixes both kinds.
    let mixed = ["sliding_window_pattern", "max_window_layers"]
        .iter()
        .any(|key| number(text, &[key]).is_some());
    let all = if number(text, &["sliding_window"]).is_some() && !mixed {
        Kind::Sliding
    } else {
        Kind::Full
    };
    Some(vec![all; count])
}

fn kind(name: &str) -> Kind {
    match name {
        "full_attention" | "attention" | "chunked_attention" | "hybrid" => Kind::Full,
        "sliding_attention" => Kind::Sliding,
        "linear_attention" | "mamba" | "mamba2" | "conv" | "recurrent" | "moe" | "mlp" => {
            Kind::State
        }
        // Unknown kinds count as the dearest.
        _ => Kind::Full,
    }
}

/// Key-value heads of every layer that attends.
fn kv_heads(text: &Value, heads: u64, layers: u64, kinds: &[Kind]) -> Option<Vec<u64>> {
    let key = [
        "num_key_value_heads",
        "num_kv_heads",
        "n_head_kv",
        "n_kv_heads",
    ]
    .into_iter()
    .find(|key| text.get(key).is_some());
    let attends = |layer: &usize| kinds.get(*layer).is_some_and(|kind| *kind != Kind::State);
    let each = |of: &dyn Fn(usize) -> Option<u64>| {
        (0..usize::try_from(layers).ok()?)
            .filter(attends)
            .map(of)
            .collect()
    };
    // DeciLM states attention block by block; a block without it says null.
    if let Some(blocks) = text.get("block_configs").and_then(Value::as_array) {
        let of = |layer: usize| {
            let group = blocks
                .get(layer)?
                .get("attention")?
                .get("n_heads_in_group")
                .and_then(Value::as_u64);
            Some(
                group
                    .and_then(|group| heads.checked_div(group))
                    .unwrap_or(0),
            )
        };
        return each(&of);
    }
    match key.and_then(|key| text.get(key)) {
        Some(Value::Array(list)) => {
            each(&|layer| list.get(layer)?.as_u64().filter(|heads| *heads <= WIDEST))
        }
        Some(Value::Number(one)) => {
            let one = one.as_u64().filter(|heads| (1..=WIDEST).contains(heads))?;
            each(&|_| Some(one))
        }
        // Falcon's and GPT-BigCode's single key-value head.
        _ if text.get("multi_query") == Some(&Value::Bool(true)) => each(&|_| Some(1)),
        _ => each(&|_| Some(heads)),
    }
}

fn layers(text: &Value) -> Option<u64> {
    number(
        text,
        &["num_hidden_layers", "n_layer", "num_layers", "n_layers"],
    )
    .filter(|layers| *layers <= MOST_LAYERS)
}

fn tied(config: &Value) -> Option<bool> {
    config.get("tie_word_embeddings")?.as_bool()
}

/// The first of `keys` that holds a positive number that can be believed.
fn number(config: &Value, keys: &[&str]) -> Option<u64> {
    keys.iter()
        .find_map(|key| config.get(key)?.as_u64())
        .filter(|number| (1..=WIDEST).contains(number))
}

#[cfg(test)]
mod tests;
