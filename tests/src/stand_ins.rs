//! Models that only the engines' stand-ins serve: a few bytes each, on the host and loaded at once, some with a misfortune of their
//! own (`engines/stand_in.py`). For whatever is about sessions and hosts, and not about what a model says.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::hub::DESCRIPTION;

/// Serves, and has something to say.
pub const TINY: &str = "acme/tiny";
/// Goes on for as long as a stream's `max_tokens` lets it, four words a second.
pub const ENDLESS: &str = "acme/endless";
/// As [`TINY`], behind a licence: its files are for [`TOKEN`].
pub const GATED: &str = "acme/gated";
/// Ends its engine while loading, which quotes [`TOKEN`] in its last words. Behind the same licence.
pub const INDISCREET: &str = "acme/indiscreet";
/// Ends its engine while loading, for want of the GPU's memory.
pub const TOO_LARGE: &str = "acme/too-large";
/// Ends vLLM while loading, and no other engine.
pub const MISFIT: &str = "acme/misfit";
/// Ends its engine at the first answer.
pub const FRAGILE: &str = "acme/fragile";

/// Who has it has accepted the licences. No Hub in the world knows it.
pub const TOKEN: &str = "hf_AcceptedOnTheRigAndNowhereElse1234";

/// The last words of [`INDISCREET`]'s engine, without the token.
pub const INDISCREET_SAYS: &str =
    "SafetensorError: Error while deserializing header: HeaderTooLarge";
/// The last words of [`FRAGILE`]'s engine.
pub const FRAGILE_SAYS: &str = "CUDA error: an illegal memory access was encountered";

/// Writes all of them below a folder that a Hub serves.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(folder: &Path) -> io::Result<()> {
    let licence = json!({"gated": "manual", "tokens": [TOKEN]});
    let indiscreet = [
        "INFO [weight_utils.py] Using the header 'Authorization: Bearer ".to_owned() + TOKEN + "'",
        format!("ERROR [engine.py] token={TOKEN}"),
        format!("safetensors_rust.{INDISCREET_SAYS}"),
    ];
    let too_large = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB.";
    let misfit = "RuntimeError: Engine core initialization failed. See root cause above.";
    let fragile = format!("RuntimeError: {FRAGILE_SAYS}");
    for (id, description, misfortune) in [
        (TINY, json!({}), json!({})),
        (ENDLESS, json!({}), json!({"endless": true})),
        (GATED, licence.clone(), json!({})),
        (INDISCREET, licence, json!({"loading": indiscreet})),
        (TOO_LARGE, json!({}), json!({"loading": [too_large]})),
        (MISFIT, json!({}), json!({"vllm": [misfit]})),
        (FRAGILE, json!({}), json!({"answering": [fragile]})),
    ] {
        one(&folder.join(id), description, &misfortune)?;
    }
    Ok(())
}

/// Writes one that has the name of a model of the world's, for what stands in documents to be run as it stands.
///
/// # Errors
/// When the folder cannot be written.
pub fn named(folder: &Path, id: &str) -> io::Result<()> {
    one(&folder.join(id), json!({}), &json!({}))
}

fn one(folder: &Path, description: Value, misfortune: &Value) -> io::Result<()> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
        "num_key_value_heads": 4, "max_position_embeddings": 4096, "vocab_size": 256, "stand_in": misfortune,
    });
    let counted = json!({"parameters": {"BF16": 100_000}, "total": 100_000});
    let mut about = json!({
        "pipeline_tag": "text-generation", "safetensors": counted,
        "config": {"tokenizer_config": {"chat_template": "{{ messages }}"}},
    });
    for (field, value) in description.as_object().into_iter().flatten() {
        about[field] = value.clone();
    }
    fs::create_dir_all(folder)?;
    fs::write(folder.join("config.json"), config.to_string())?;
    fs::write(folder.join("model.safetensors"), [0; 64])?;
    fs::write(folder.join(DESCRIPTION), about.to_string())
}
