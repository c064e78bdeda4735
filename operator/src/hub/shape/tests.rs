//! Configurations as models have them, and absurd ones.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn llama_has_grouped_heads() {
    let shape = of_config(&json!({
        "model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "max_position_embeddings": 131072, "vocab_size": 128256, "tie_word_embeddings": false
    }))
    .unwrap();
    assert_eq!(
        shape.cache,
        Cache::Heads {
            kv_heads: vec![8; 32],
            widths: 256
        }
    );
    assert_eq!(
        (
            shape.context.unwrap().get(),
            shape.heads,
            shape.vocabulary,
            shape.tied
        ),
        (131_072, 32, 128_256, false)
    );
    assert_eq!((shape.window, shape.state_layers), (None, 0));
}

#[test]
fn deepseek_keeps_one_latent_vector() {
    let shape = of_config(&json!({
        "hidden_size": 7168, "num_attention_heads": 128, "num_key_value_heads": 128, "num_hidden_layers": 61,
        "kv_lora_rank": 512, "qk_rope_head_dim": 64
    }));
    assert_eq!(
        shape.unwrap().cache,
        Cache::Latent {
            layers: 61,
            width: 576
        }
    );
}

#[test]
fn a_vision_models_cache_is_its_text_models() {
    let shape = of_config(&json!({
        "model_type": "gemma3", "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16},
        "text_config": {"hidden_size": 2560, "num_hidden_layers": 34, "num_attention_heads": 8, "num_key_value_heads": 4,
                        "head_dim": 256, "sliding_window": 1024, "sliding_window_pattern": 6}
    }))
    .unwrap();
    assert_eq!(
        shape.cache,
        Cache::Heads {
            kv_heads: vec![4; 34],
            widths: 512
        }
    );
    assert_eq!(shape.window, None, "every sixth layer sees everything");
}

#[test]
fn a_window_counts_only_when_every_layer_slides() {
    let mistral = json!({"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32, "sliding_window": 4096});
    assert_eq!(of_config(&mistral).unwrap().window, Some(4096));
    let mut turned_off = mistral.clone();
    turned_off["use_sliding_window"] = json!(false);
    assert_eq!(of_config(&turned_off).unwrap().window, None);
    let mut mixed = mistral;
    mixed["layer_types"] = json!(["sliding_attention", "full_attention"]);
    assert_eq!(of_config(&mixed).unwrap().window, None);
}

#[test]
fn layers_with_a_state_have_no_cache() {
    let next = of_config(&json!({
        "hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256, "num_hidden_layers": 48,
        "full_attention_interval": 4
    }))
    .unwrap();
    assert_eq!(
        (next.cache, next.state_layers),
        (
            Cache::Heads {
                kv_heads: vec![2; 12],
                widths: 512
            },
            36
        )
    );
    let mamba =
        of_config(&json!({"model_type": "mamba", "hidden_size": 2560, "num_hidden_layers": 64}))
            .unwrap();
    assert_eq!(
        (mamba.cache, mamba.state_layers),
        (
            Cache::Heads {
                kv_heads: vec![],
                widths: 0
            },
            64
        )
    );
}

#[test]
fn older_configurations_name_things_differently() {
    let gpt2 = of_config(&json!({"n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257})).unwrap();
    assert_eq!(
        gpt2.cache,
        Cache::Heads {
            kv_heads: vec![12; 12],
            widths: 128
        }
    );
    let falcon = of_config(&json!({"hidden_size": 4544, "num_attention_heads": 71, "num_hidden_layers": 32, "multi_query": true})).unwrap();
    assert_eq!(
        falcon.cache,
        Cache::Heads {
            kv_heads: vec![1; 32],
            widths: 128
        }
    );
}

#[test]
fn what_says_too_little_or_too_much_has_no_shape() {
    for config in [
        json!({}),
        json!(null),
        json!([1]),
        json!({"hidden_size": 4096, "num_hidden_layers": 32}),
        json!({"hidden_size": 4096, "num_hidden_layers": 1_000_000_000u64, "num_attention_heads": 8}),
        json!({"hidden_size": -1, "num_hidden_layers": 2, "num_attention_heads": 8}),
        json!({"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": [1]}),
    ] {
        assert_eq!(of_config(&config), None, "{config}");
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0u64..70).prop_map(Value::from),
        "[a-z_*M-]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(key(), inner, 0..12)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("num_hidden_layers"),
        Just("hidden_size"),
        Just("num_attention_heads"),
        Just("num_key_value_heads"),
        Just("head_dim"),
        Just("text_config"),
        Just("thinker_config"),
        Just("layer_types"),
        Just("kv_lora_rank"),
        Just("qk_rope_head_dim"),
        Just("sliding_window"),
        Just("attn_layer_period"),
        Just("attn_layer_offset"),
        Just("full_attention_interval"),
        Just("block_configs"),
        Just("hybrid_override_pattern"),
        Just("attn_layer_indices"),
        Just("max_position_embeddings"),
        Just("vocab_size"),
    ]
    .prop_map(str::to_owned)
}

proptest! {
    #[test]
    fn no_configuration_makes_it_panic(config in value()) {
        if let Some(Shape { cache: Cache::Heads { kv_heads, .. }, state_layers, .. }) = of_config(&config) {
            prop_assert!(kv_heads.len() as u64 + state_layers <= MOST_LAYERS);
        }
    }
}
