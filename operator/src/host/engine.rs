//! The engines' command lines, built purely. Only the port is left open, since it is found free on the host.

use serde::{Deserialize, Serialize};

/// The program that serves a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Engine {
    /// `vllm serve`.
    Vllm,
    /// `transformers serve`.
    Transformers,
    /// llama.cpp's `llama-server`.
    LlamaCpp,
}

impl Engine {
    /// What it is asked before anything is downloaded, to see that it runs at all here.
    pub fn probe(self) -> &'static [&'static str] {
        match self {
            Self::Vllm | Self::LlamaCpp => &["--version"],
            // Its version is a command.
            Self::Transformers => &["version"],
        }
    }

    /// What deploy installs where the image has no such engine: pinned packages of PyPI. llama.cpp has none with a server
    /// for CUDA: it comes with its image or not at all.
    pub fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Vllm => &["vllm==0.33.0"],
            Self::Transformers => &[
                "transformers[serving]==5.23.0",
                "accelerate==1.15.0",
                "bitsandbytes==0.50.2",
            ],
            Self::LlamaCpp => &[],
        }
    }
}

/// How weights are quantized when loaded; a repository that is quantized already says so itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Quantization {
    /// As the repository has them.
    None,
    /// FP8 online (vLLM on Ada and newer).
    Fp8,
    /// 4-bit online (transformers with bitsandbytes); a pre-quantized repository or GGUF needs no flag and is `None` here.
    Int4,
}

/// What is to be served, and how: the part of a plan that the engine's command line comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Which engine.
    pub engine: Engine,
    /// `owner/name` on the Hub.
    pub model: String,
    /// The commit that was planned for.
    pub revision: String,
    /// The name that the engine answers to.
    pub served_name: String,
    /// Tokens of context of one sequence.
    pub context: u32,
    /// What is done to the weights when loading.
    pub quantization: Quantization,
    /// GPUs to spread the model over.
    pub gpus: u32,
    /// Whether images come in.
    pub vision: bool,
    /// llama.cpp: the GGUF file in the repository (the first part of a split one).
    pub gguf: Option<String>,
    /// llama.cpp with vision: the projector file in the repository.
    pub projector: Option<String>,
    /// llama.cpp: sequences at once; each gets the whole context.
    pub slots: u32,
    /// Whether code from the repository may run.
    pub trust_remote_code: bool,
    /// The user's own arguments.
    pub extra_args: Vec<String>,
}

/// One argument of a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arg {
    /// As it is.
    Text(String),
    /// The port that the host found free.
    Port,
    /// The path on the host of one file of the repository.
    File(String),
}

/// What deploy runs on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Which engine this is.
    pub engine: Engine,
    /// Its arguments, the program itself not among them: the host knows where it is.
    pub args: Vec<Arg>,
    /// Variables beside those that the image has for every program.
    pub env: Vec<(&'static str, &'static str)>,
}

/// An argument of the user's that would undo what keeps the engine private.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("extraArgs may not contain {0}: the operator sets it")]
pub struct ReservedArgument(pub String);

/// Flags, by their beginning, that decide where the engine listens, what it is called, what it loads and what it logs.
const RESERVED: [&str; 24] = [
    "--host",
    "--port",
    "--uds",
    "--path",
    "--api-key",
    "--api-server",
    "--ssl",
    "--served-model-name",
    "--alias",
    "--model",
    "--revision",
    "--hf-",
    "--download-dir",
    "--allowed-",
    "--enable-log",
    "--log-",
    "--slots",
    "--props",
    "--webui",
    "--slot-save-path",
    "--lora",
    "--root-path",
    "--config",
    "--media-path",
];

/// Flags of one letter that llama.cpp has for the same.
const RESERVED_SHORT: [&str; 6] = ["-m", "-a", "-hf", "-hfr", "-mu", "-c"];

/// Builds the command line.
///
/// # Errors
/// When `extra_args` would undo a flag that keeps the engine on loopback, offline or silent.
pub fn launch(spec: &Spec) -> Result<Launch, ReservedArgument> {
    for arg in &spec.extra_args {
        let flag = arg.split('=').next().unwrap_or_default().replace('_', "-");
        // argparse takes any unambiguous beginning of a flag for the flag, so both ways round are refused.
        let reserved = RESERVED
            .iter()
            .any(|r| flag.starts_with(r) || (flag.len() > 3 && r.starts_with(&flag)));
        if reserved || RESERVED_SHORT.contains(&flag.as_str()) {
            return Err(ReservedArgument(arg.clone()));
        }
    }
    Ok(match spec.engine {
        Engine::Vllm => vllm(spec),
        Engine::Transformers => transformers(spec),
        Engine::LlamaCpp => llama_cpp(spec),
    })
}

/// Collects arguments. The user's come first and ours last, so that where a flag is given twice ours holds.
struct Line(Vec<Arg>);

impl Line {
    fn flag(mut self, name: &str) -> Self {
        self.0.push(Arg::Text(name.to_owned()));
        self
    }
    fn option(self, name: &str, value: impl ToString) -> Self {
        self.flag(name).flag(&value.to_string())
    }
    fn flag_if(self, wanted: bool, name: &str) -> Self {
        if wanted { self.flag(name) } else { self }
    }
    fn listening(mut self) -> Self {
        self = self.option("--host", "127.0.0.1").flag("--port");
        self.0.push(Arg::Port);
        self
    }
    fn extra(mut self, args: &[String]) -> Self {
        self.0.extend(args.iter().cloned().map(Arg::Text));
        self
    }
}

fn vllm(spec: &Spec) -> Launch {
    let line = Line(Vec::new())
        .flag("serve")
        .flag(&spec.model)
        .extra(&spec.extra_args)
        .option("--revision", &spec.revision)
        .listening()
        .option("--served-model-name", &spec.served_name)
        .option("--max-model-len", spec.context)
        .option("--gpu-memory-utilization", "0.92")
        .option("--performance-mode", "interactivity")
        .option("--max-num-seqs", 16)
        // Images come as one block of tokens that must fit a batch.
        .option(
            "--max-num-batched-tokens",
            if spec.vision { 8192 } else { 2048 },
        )
        .flag("--disable-uvicorn-access-log")
        .flag("--disable-fastapi-docs");
    let line = match spec.quantization {
        Quantization::Fp8 => line.option("--quantization", "fp8"),
        Quantization::None | Quantization::Int4 => line,
    };
    let line = if spec.gpus > 1 {
        line.option("--tensor-parallel-size", spec.gpus)
    } else {
        line
    };
    Launch {
        engine: Engine::Vllm,
        args: line
            .flag_if(spec.trust_remote_code, "--trust-remote-code")
            .0,
        env: vec![
            ("VLLM_NO_USAGE_STATS", "1"),
            ("DO_NOT_TRACK", "1"),
            ("VLLM_LOGGING_LEVEL", "INFO"),
        ],
    }
}

fn transformers(spec: &Spec) -> Launch {
    // There is no --revision: a bare name means @main, which is not in the local snapshot.
    let line = Line(Vec::new())
        .flag("serve")
        .flag(&format!("{}@{}", spec.model, spec.revision))
        .extra(&spec.extra_args)
        .listening();
    let line = match spec.quantization {
        Quantization::Int4 => line.option("--quantization", "bnb-4bit"),
        Quantization::None | Quantization::Fp8 => line,
    };
    Launch {
        engine: Engine::Transformers,
        args: line
            .flag_if(spec.trust_remote_code, "--trust-remote-code")
            .0,
        env: vec![("TRANSFORMERS_VERBOSITY", "warning")],
    }
}

fn llama_cpp(spec: &Spec) -> Launch {
    let mut line = Line(Vec::new()).extra(&spec.extra_args);
    if let Some(file) = &spec.gguf {
        line = line.flag("-m");
        line.0.push(Arg::File(file.clone()));
    }
    if let Some(file) = &spec.projector {
        line = line.flag("--mmproj");
        line.0.push(Arg::File(file.clone()));
    }
    // llama.cpp divides the context among its slots.
    let slots = spec.slots.max(1);
    Launch {
        engine: Engine::LlamaCpp,
        args: line
            .option("-c", u64::from(spec.context) * u64::from(slots))
            .option("-np", slots)
            .listening()
            .option("--alias", &spec.served_name)
            .flag("--no-slots")
            .flag("--no-webui")
            .flag("--offline")
            .0,
        env: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn spec(engine: Engine) -> Spec {
        Spec {
            engine,
            model: "Qwen/Qwen3-8B".to_owned(),
            revision: "0123456789abcdef0123456789abcdef01234567".to_owned(),
            served_name: "Qwen/Qwen3-8B".to_owned(),
            context: 16_384,
            quantization: Quantization::None,
            gpus: 1,
            vision: false,
            gguf: None,
            projector: None,
            slots: 1,
            trust_remote_code: false,
            extra_args: Vec::new(),
        }
    }

    fn shown(spec: &Spec) -> String {
        let words: Vec<String> = launch(spec)
            .unwrap()
            .args
            .into_iter()
            .map(|arg| match arg {
                Arg::Text(text) => text,
                Arg::Port => "PORT".to_owned(),
                Arg::File(file) => format!("SNAPSHOT/{file}"),
            })
            .collect();
        words.join(" ")
    }

    #[test]
    fn vllm_is_pinned_private_and_small_in_memory() {
        insta::assert_snapshot!(shown(&spec(Engine::Vllm)), @"serve Qwen/Qwen3-8B --revision 0123456789abcdef0123456789abcdef01234567 --host 127.0.0.1 --port PORT --served-model-name Qwen/Qwen3-8B --max-model-len 16384 --gpu-memory-utilization 0.92 --performance-mode interactivity --max-num-seqs 16 --max-num-batched-tokens 2048 --disable-uvicorn-access-log --disable-fastapi-docs");
    }

    #[test]
    fn vllm_spreads_quantizes_and_sees_when_told() {
        let spec = Spec {
            quantization: Quantization::Fp8,
            gpus: 2,
            vision: true,
            trust_remote_code: true,
            extra_args: vec!["--enable-prefix-caching".to_owned()],
            ..spec(Engine::Vllm)
        };
        insta::assert_snapshot!(shown(&spec), @"serve Qwen/Qwen3-8B --enable-prefix-caching --revision 0123456789abcdef0123456789abcdef01234567 --host 127.0.0.1 --port PORT --served-model-name Qwen/Qwen3-8B --max-model-len 16384 --gpu-memory-utilization 0.92 --performance-mode interactivity --max-num-seqs 16 --max-num-batched-tokens 8192 --disable-uvicorn-access-log --disable-fastapi-docs --quantization fp8 --tensor-parallel-size 2 --trust-remote-code");
    }

    #[test]
    fn transformers_gets_its_revision_in_the_name() {
        let spec = Spec {
            quantization: Quantization::Int4,
            ..spec(Engine::Transformers)
        };
        insta::assert_snapshot!(shown(&spec), @"serve Qwen/Qwen3-8B@0123456789abcdef0123456789abcdef01234567 --host 127.0.0.1 --port PORT --quantization bnb-4bit");
    }

    #[test]
    fn llama_cpp_gives_every_slot_the_whole_context() {
        let spec = Spec {
            gguf: Some("q4/model-Q4_K_M.gguf".to_owned()),
            projector: Some("mmproj.gguf".to_owned()),
            vision: true,
            slots: 2,
            ..spec(Engine::LlamaCpp)
        };
        insta::assert_snapshot!(shown(&spec), @"-m SNAPSHOT/q4/model-Q4_K_M.gguf --mmproj SNAPSHOT/mmproj.gguf -c 32768 -np 2 --host 127.0.0.1 --port PORT --alias Qwen/Qwen3-8B --no-slots --no-webui --offline");
    }

    #[test]
    fn a_users_argument_cannot_open_the_engine() {
        for bad in [
            "--host",
            "--host=0.0.0.0",
            "--hos",
            "--port=1",
            "--api_key=x",
            "-m",
            "--served-model-name=x",
            "--hf-repo",
        ] {
            let spec = Spec {
                extra_args: vec![bad.to_owned()],
                ..spec(Engine::Vllm)
            };
            assert_eq!(launch(&spec), Err(ReservedArgument(bad.to_owned())));
        }
    }
}
