//! What a person may wish of a session on the command line of `run` and `plan`.

use super::values::{disk, dollars, session_name, span};
use clap::{Args, ValueEnum};
use srchat_crds::{Dollars, ModelId, Size, Span, session};

/// `srchat run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The model and what is wished of it.
    #[command(flatten)]
    pub wishes: Wishes,
    /// Rent without asking
    #[arg(short, long)]
    pub yes: bool,
    /// Leave the session running when the chat ends, whatever ends it
    #[arg(long)]
    pub keep: bool,
    /// Keep nothing of the conversation on this machine
    #[arg(long)]
    pub no_history: bool,
}

/// `srchat plan`.
#[derive(Debug, Args)]
pub struct Plan {
    /// The model and what is wished of it.
    #[command(flatten)]
    pub wishes: Wishes,
}

/// The model, and what is wished of its session. All but the model has a default.
#[derive(Debug, Clone, Args)]
pub struct Wishes {
    /// The model, as owner/name on the Hugging Face Hub; :Q4_K_M picks a GGUF file, @main a revision
    #[arg(required_unless_present = "model_flag", value_name = "MODEL")]
    pub model: Option<ModelId>,
    /// The same as MODEL
    #[arg(
        long = "model",
        id = "model_flag",
        value_name = "MODEL",
        conflicts_with = "model"
    )]
    pub model_flag: Option<ModelId>,
    /// The session's name; made from the model's when left out
    #[arg(long, value_parser = session_name)]
    pub name: Option<String>,
    /// A GPU to take, such as "L40S"; repeatable, the most wanted first
    #[arg(long, value_name = "GPU", value_delimiter = ',')]
    pub gpu_type: Vec<String>,
    /// The most that an hour may cost, in dollars [default: 1]
    #[arg(long, value_name = "DOLLARS", value_parser = dollars)]
    pub max_cost_per_hour: Option<Dollars>,
    /// The most that the session may cost, in dollars
    #[arg(long, value_name = "DOLLARS", value_parser = dollars)]
    pub max_total_cost: Option<Dollars>,
    /// The pod's disk, such as 60Gi; a bare number is in GB [default: what the model needs]
    #[arg(long, value_name = "SIZE", value_parser = disk)]
    pub disk_size: Option<Size>,
    /// Quantize to 4 bits, or as said: int4, fp8, none
    #[arg(
        long,
        value_enum,
        ignore_case = true,
        value_name = "BITS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "int4"
    )]
    pub quantize: Option<Quantize>,
    /// Serve with vLLM
    #[arg(long, conflicts_with_all = ["no_vllm", "engine"])]
    pub use_vllm: bool,
    /// Serve without vLLM: with transformers, or llama.cpp for a GGUF file
    #[arg(long, conflicts_with = "engine")]
    pub no_vllm: bool,
    /// What serves the model [default: auto]
    #[arg(long, value_enum, ignore_case = true)]
    pub engine: Option<Engine>,
    /// How many tokens a conversation may have
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(256..=16_777_216))]
    pub context_length: Option<u32>,
    /// How long it may live [default: 4h]
    #[arg(long, value_name = "DURATION", value_parser = span)]
    pub lifetime: Option<Span>,
    /// How long nobody may use it before it ends; 0s never ends it for that [default: 30m]
    #[arg(long, value_name = "DURATION", value_parser = span)]
    pub idle: Option<Span>,
    /// A Secret beside the session with a Hub token in its key `token`, for gated models
    #[arg(long, value_name = "SECRET")]
    pub token_secret: Option<String>,
}

/// How weights are squeezed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Quantize {
    /// 4 bits a weight.
    Int4,
    /// 8 bits, made while loading.
    Fp8,
    /// As the model is.
    None,
}

/// What serves a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// What suits the model.
    Auto,
    /// vLLM.
    Vllm,
    /// Hugging Face transformers.
    Transformers,
    /// llama.cpp, for GGUF files.
    #[value(name = "llamacpp", alias = "llama.cpp")]
    LlamaCpp,
}

impl Wishes {
    /// The model, by whichever way it was given.
    pub fn model(&self) -> Option<&ModelId> {
        self.model.as_ref().or(self.model_flag.as_ref())
    }

    /// The engine in the resource's words.
    pub fn engine(&self) -> session::Engine {
        let gguf = self.model().is_some_and(|model| model.variant().is_some());
        match (self.engine, self.use_vllm, self.no_vllm) {
            (Some(Engine::Vllm), _, _) | (None, true, _) => session::Engine::Vllm,
            (Some(Engine::Transformers), _, _) => session::Engine::Transformers,
            (Some(Engine::LlamaCpp), _, _) => session::Engine::LlamaCpp,
            (None, false, true) if gguf => session::Engine::LlamaCpp,
            (None, false, true) => session::Engine::Transformers,
            (Some(Engine::Auto), _, _) | (None, false, false) => session::Engine::Auto,
        }
    }

    /// The quantization in the resource's words.
    pub fn quantization(&self) -> session::Quantization {
        match self.quantize {
            None => session::Quantization::Auto,
            Some(Quantize::Int4) => session::Quantization::Int4,
            Some(Quantize::Fp8) => session::Quantization::Fp8,
            Some(Quantize::None) => session::Quantization::None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        wishes: Wishes,
    }

    fn read(line: &[&str]) -> Result<Wishes, clap::Error> {
        Line::try_parse_from([&["run"], line].concat()).map(|line| line.wishes)
    }

    #[test]
    fn whoever_used_the_tool_before_finds_each_of_its_flags() {
        let wishes = read(&[
            "--model",
            "Qwen/Qwen3-8B",
            "--gpu-type",
            "L40S",
            "--max-cost-per-hour",
            "0.8",
            "--disk-size",
            "60",
            "--quantize",
            "--no-vllm",
        ])
        .unwrap();
        assert_eq!(wishes.model().unwrap().as_str(), "Qwen/Qwen3-8B");
        assert_eq!(wishes.gpu_type, ["L40S"]);
        assert_eq!(wishes.max_cost_per_hour.unwrap().to_string(), "0.80");
        assert_eq!(wishes.disk_size.unwrap().to_string(), "60G");
        assert_eq!(wishes.quantization(), session::Quantization::Int4);
        assert_eq!(wishes.engine(), session::Engine::Transformers);
    }

    #[test]
    fn quantize_takes_no_model_for_its_value() {
        let wishes = read(&["--quantize", "Qwen/Qwen3-8B"]).unwrap();
        assert_eq!(wishes.model().unwrap().as_str(), "Qwen/Qwen3-8B");
        let wishes = read(&["--quantize=fp8", "Qwen/Qwen3-8B"]).unwrap();
        assert_eq!(wishes.quantization(), session::Quantization::Fp8);
    }

    #[test]
    fn without_vllm_a_gguf_file_is_served_by_llama_cpp() {
        let wishes = read(&["a/b:Q4_K_M", "--no-vllm"]).unwrap();
        assert_eq!(wishes.engine(), session::Engine::LlamaCpp);
    }

    #[test]
    fn what_contradicts_itself_or_names_no_model_is_refused() {
        for line in [
            &["a/b", "--use-vllm", "--no-vllm"][..],
            &["a/b", "--engine", "vllm", "--no-vllm"],
            &["a/b", "--model", "c/d"],
            &["--quantize"],
            &["b"],
            &["a/b", "--max-cost-per-hour", "-1"],
        ] {
            assert!(read(line).is_err(), "{line:?}");
        }
    }
}
