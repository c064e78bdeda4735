//! Which engine serves a model, in which precision, from which files. Refuses, in a sentence, what no engine can serve.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use srchat_crds::session::{Engine, Quantization};

use crate::hub::{Facts, File, Gguf, Shape};
use crate::route::{self, Abilities};

use super::memory::dtype_bytes;
use super::{GgufFiles, Wish};

/// How a model will be served.
#[derive(Clone, Debug, PartialEq)]
pub struct Serving<'a> {
    /// The engine.
    pub engine: route::Engine,
    /// The precision: never `Auto`.
    pub quantization: Quantization,
    /// The engine quantizes while loading.
    pub online: bool,
    /// Bytes of the weights in memory.
    pub weights: u64,
    /// What the cache depends on.
    pub shape: &'a Shape,
    /// Takes images.
    pub vision: bool,
    /// What the engine can do with it.
    pub abilities: Abilities,
    /// What has to be downloaded.
    pub files: Vec<File>,
    /// For llama.cpp.
    pub gguf: Option<GgufFiles>,
}

/// What a model is for, as far as engines distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Multimodal,
    Embedding,
}

/// The classes that an engine serves, as taken from its package by `tests/engines/take.py`.
struct Architectures {
    text: BTreeSet<&'static str>,
    multimodal: BTreeSet<&'static str>,
    embedding: BTreeSet<&'static str>,
}

impl Architectures {
    fn parse(list: &'static str) -> Self {
        let of = |kind: &str| {
            let lines = list.lines().filter_map(|line| line.split_once(' '));
            lines
                .filter(|(_, of)| *of == kind)
                .map(|(name, _)| name)
                .collect()
        };
        Self {
            text: of("text"),
            multimodal: of("multimodal"),
            embedding: of("embedding"),
        }
    }

    fn kind(&self, facts: &Facts) -> Option<Kind> {
        facts.architectures.iter().find_map(|name| {
            let name = name.as_str();
            match () {
                () if self.multimodal.contains(name) => Some(Kind::Multimodal),
                () if self.text.contains(name) => Some(Kind::Text),
                () if self.embedding.contains(name) => Some(Kind::Embedding),
                () => None,
            }
        })
    }
}

static VLLM: LazyLock<Architectures> =
    LazyLock::new(|| Architectures::parse(include_str!("vllm.architectures")));
static TRANSFORMERS: LazyLock<Architectures> =
    LazyLock::new(|| Architectures::parse(include_str!("transformers.architectures")));

/// Chooses engine, precision and files; `Err` is the sentence for the user.
pub fn choose<'a>(wish: &Wish, facts: &'a Facts) -> Result<Serving<'a>, String> {
    let id = &facts.id;
    if facts.adapter {
        return Err(format!(
            "{id} is only an adapter: name a model that its weights were merged into"
        ));
    }
    let safetensors = weights(&facts.files);
    if let Some(gguf) = facts
        .gguf
        .as_ref()
        .filter(|_| wants_gguf(wish, safetensors.is_empty()))
    {
        return llama_cpp(wish, facts, gguf);
    }
    if wish.engine == Engine::LlamaCpp {
        return Err(format!(
            "{id} has no GGUF file, and llama.cpp serves nothing else: choose a GGUF repository, or leave engine: Auto"
        ));
    }
    if safetensors.is_empty() {
        let pickled = [".bin", ".pt", ".pth", ".ckpt"];
        let pickled = facts
            .files
            .iter()
            .any(|file| pickled.iter().any(|end| file.path.ends_with(end)));
        return Err(if pickled {
            format!(
                "the weights of {id} are pickled Python, which can run code when loaded: only safetensors and GGUF are served"
            )
        } else {
            format!("{id} has no safetensors weights")
        });
    }
    if let Some(pipeline) = facts
        .pipeline
        .as_deref()
        .filter(|pipeline| !speaks(pipeline))
    {
        return Err(format!(
            "{id} is made for {pipeline}: only models that answer in text, or embed it, can be served"
        ));
    }
    let (engine, kind) = python_engine(wish, facts)?;
    let (quantization, online) = precision(wish, facts, engine)?;
    let shape = facts.shape.as_ref().ok_or_else(|| {
        format!("config.json of {id} does not say how many layers and heads it has")
    })?;
    let vision = facts.vision && kind == Kind::Multimodal;
    Ok(Serving {
        engine,
        quantization,
        online,
        weights: bytes(facts, shape, &safetensors, quantization, online),
        shape,
        vision,
        abilities: abilities(engine, kind, facts.chat_template, vision),
        files: needed(facts, &safetensors, wish.trust_remote_code),
        gguf: None,
    })
}

fn wants_gguf(wish: &Wish, nothing_else: bool) -> bool {
    match wish.engine {
        Engine::LlamaCpp => true,
        Engine::Auto => nothing_else || wish.model.variant().is_some(),
        Engine::Vllm | Engine::Transformers => false,
    }
}

/// Pipelines that end in text or in an embedding of it. The Hub has some fifty; the others are pictures, sound and labels.
fn speaks(pipeline: &str) -> bool {
    matches!(
        pipeline,
        "text-generation"
            | "image-text-to-text"
            | "any-to-any"
            | "video-text-to-text"
            | "audio-text-to-text"
            | "visual-question-answering"
            | "conversational"
            | "feature-extraction"
            | "sentence-similarity"
    )
}

fn llama_cpp<'a>(wish: &Wish, facts: &'a Facts, gguf: &'a Gguf) -> Result<Serving<'a>, String> {
    let bits = gguf_bits(&gguf.variant);
    let quantization = match bits {
        ..=6 => Quantization::Int4,
        7..=8 => Quantization::Fp8,
        _ => Quantization::None,
    };
    let variant = &gguf.variant;
    match wish.quantization {
        Quantization::Auto => {}
        wished if wished == quantization => {}
        Quantization::None => {
            return Err(format!(
                "{variant} is quantized: leave quantization: Auto, or pick a variant such as F16"
            ));
        }
        Quantization::Fp8 => {
            return Err(format!(
                "llama.cpp does not quantize while loading: pick a variant such as Q8_0 instead of {variant}"
            ));
        }
        Quantization::Int4 => {
            return Err(format!(
                "llama.cpp does not quantize while loading: pick a variant such as Q4_K_M instead of {variant}"
            ));
        }
    }
    let shape = facts
        .shape
        .as_ref()
        .ok_or_else(|| format!("the header of {} cannot be read", gguf.file))?;
    let vision = gguf.mmproj.is_some();
    Ok(Serving {
        engine: route::Engine::LlamaCpp,
        quantization,
        online: false,
        weights: gguf.bytes(),
        shape,
        vision,
        abilities: abilities(route::Engine::LlamaCpp, Kind::Text, true, vision),
        files: gguf.parts.iter().chain(&gguf.mmproj).cloned().collect(),
        gguf: Some(GgufFiles {
            model: gguf.file.clone(),
            mmproj: gguf.mmproj.as_ref().map(|file| file.path.clone()),
        }),
    })
}

/// Bits of a weight, by the name of the variant: the first number in it (`Q4_K_M`, `IQ2_XXS`, `BF16`).
fn gguf_bits(variant: &str) -> u32 {
    let digits = variant.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    digits
        .get(..end)
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(16)
}

/// vLLM where it can, else transformers.
fn python_engine(wish: &Wish, facts: &Facts) -> Result<(route::Engine, Kind), String> {
    let id = &facts.id;
    let names = facts.architectures.join(", ");
    let quantize_4_bit = wish.quantization == Quantization::Int4 && facts.stored.is_none();
    let bitsandbytes = facts
        .stored
        .as_ref()
        .is_some_and(|stored| stored.method == "bitsandbytes");
    let vllm = VLLM.kind(facts);
    let transformers = TRANSFORMERS.kind(facts);
    // Code from the repository knows architectures that no package does; then only the pipeline says what it is.
    let foreign = (facts.remote_code && wish.trust_remote_code).then_some(if facts.vision {
        Kind::Multimodal
    } else {
        Kind::Text
    });
    let needs_trust = || {
        format!(
            "{id} is served by code from its own repository: set runtime.trustRemoteCode: true if you trust its authors with the pod"
        )
    };
    match wish.engine {
        Engine::Vllm if quantize_4_bit => Err(format!(
            "vLLM does not quantize {id} to 4 bits while loading: choose a repository with AWQ, GPTQ or NVFP4 weights, or leave engine: Auto"
        )),
        Engine::Vllm if bitsandbytes => Err(format!(
            "vLLM does not serve the bitsandbytes weights of {id}: leave engine: Auto"
        )),
        // With an image of the user's own there may be another version, which knows more.
        Engine::Vllm => match vllm.or(foreign).or(wish.image.as_ref().map(|_| Kind::Text)) {
            Some(kind) => Ok((route::Engine::Vllm, kind)),
            None if facts.remote_code => Err(needs_trust()),
            None => Err(format!("vLLM does not serve {names}: leave engine: Auto")),
        },
        Engine::Auto if !quantize_4_bit && !bitsandbytes && vllm.is_some() => {
            Ok((route::Engine::Vllm, vllm.unwrap_or(Kind::Text)))
        }
        Engine::Auto | Engine::Transformers => match transformers
            .or(foreign)
            .or(wish.image.as_ref().map(|_| Kind::Text))
        {
            Some(Kind::Embedding) | None if facts.remote_code && !wish.trust_remote_code => {
                Err(needs_trust())
            }
            Some(Kind::Embedding) | None if names.is_empty() => Err(format!(
                "config.json of {id} names no architecture, so no engine can be chosen"
            )),
            Some(Kind::Embedding) | None => Err(format!(
                "neither vLLM nor transformers serves {names} as wished"
            )),
            Some(kind) => Ok((route::Engine::Transformers, kind)),
        },
        Engine::LlamaCpp => Err(format!("{id} has no GGUF file")),
    }
}

/// The precision to serve, and whether the engine makes it while loading.
fn precision(
    wish: &Wish,
    facts: &Facts,
    engine: route::Engine,
) -> Result<(Quantization, bool), String> {
    let id = &facts.id;
    let stored = facts.stored.as_ref().map(|stored| match stored.bits {
        Some(..=6) => Quantization::Int4,
        Some(7..=8) => Quantization::Fp8,
        Some(_) => Quantization::None,
        None if stored.method.contains("fp8") => Quantization::Fp8,
        None => Quantization::Int4,
    });
    match (wish.quantization, stored) {
        (Quantization::Auto, stored) => Ok((stored.unwrap_or(Quantization::None), false)),
        (wished, Some(stored)) if wished == stored => Ok((stored, false)),
        (Quantization::None, None) => Ok((Quantization::None, false)),
        (Quantization::None, Some(_)) => Err(format!(
            "{id} is published quantized: leave quantization: Auto"
        )),
        (_, Some(stored)) if stored != Quantization::None => Err(format!(
            "{id} is published quantized already ({stored:?}): leave quantization: Auto, or choose another repository"
        )),
        (Quantization::Fp8, _) if engine == route::Engine::Vllm => Ok((Quantization::Fp8, true)),
        (Quantization::Fp8, _) => Err(format!(
            "only vLLM quantizes to FP8 while loading, and it does not serve {id}"
        )),
        (Quantization::Int4, _) => Ok((Quantization::Int4, true)),
    }
}

/// Bytes in memory: parameters by their dtype, or the files themselves where the Hub did not count.
fn bytes(
    facts: &Facts,
    shape: &Shape,
    safetensors: &[&File],
    quantization: Quantization,
    online: bool,
) -> u64 {
    let counted: Option<Vec<u64>> = facts
        .parameters
        .iter()
        .map(|(dtype, count)| dtype_bytes(dtype, *count))
        .collect();
    let on_disk = safetensors
        .iter()
        .map(|file| file.size)
        .fold(0, u64::saturating_add);
    let stored = match counted {
        Some(counted) if !counted.is_empty() => counted.into_iter().fold(0, u64::saturating_add),
        Some(_) | None => on_disk,
    };
    if !online {
        return stored;
    }
    // Linear layers shrink from two bytes; embedding and head stay as they are.
    let tables = if shape.tied { 1 } else { 2 };
    let whole = shape
        .vocabulary
        .saturating_mul(shape.hidden)
        .saturating_mul(2 * tables)
        .min(stored);
    let linear = stored - whole;
    let shrunk = match quantization {
        Quantization::Fp8 => linear / 2,
        // 0.55 bytes a parameter of two bytes.
        Quantization::Int4 => linear / 200 * 55,
        Quantization::Auto | Quantization::None => linear,
    };
    whole.saturating_add(shrunk)
}

fn abilities(engine: route::Engine, kind: Kind, template: bool, vision: bool) -> Abilities {
    if kind == Kind::Embedding {
        return Abilities {
            embeddings: true,
            ..Abilities::default()
        };
    }
    match engine {
        route::Engine::Vllm => Abilities {
            chat: template,
            completions: true,
            embeddings: false,
            responses: template,
            // vLLM parses tool calls only with a parser that has to be named for each family of models.
            tools: false,
            structured_output: true,
            vision,
        },
        // It ignores response_format and tools in silence.
        route::Engine::Transformers => Abilities {
            chat: template,
            completions: true,
            embeddings: false,
            responses: template,
            tools: false,
            structured_output: false,
            vision,
        },
        route::Engine::LlamaCpp => Abilities {
            chat: true,
            completions: true,
            embeddings: false,
            responses: false,
            tools: true,
            structured_output: true,
            vision,
        },
    }
}

/// The safetensors to load: those at the top. `original/` and `consolidated*` hold the same weights once more.
fn weights(files: &[File]) -> Vec<&File> {
    let all: Vec<&File> = files
        .iter()
        .filter(|file| !file.path.contains('/') && file.path.ends_with(".safetensors"))
        .collect();
    let split: Vec<&File> = all
        .iter()
        .copied()
        .filter(|file| !file.path.starts_with("consolidated"))
        .collect();
    if split.is_empty() { all } else { split }
}

/// Weights, configuration and tokenizer: what an engine opens, without documentation, pictures and other formats.
fn needed(facts: &Facts, safetensors: &[&File], code: bool) -> Vec<File> {
    const ENDS: [&str; 6] = [".json", ".txt", ".model", ".jinja", ".tiktoken", ".jsonl"];
    const ELSEWHERE: [&str; 7] = [
        "original/",
        "onnx/",
        "openvino/",
        "coreml/",
        "gguf/",
        "metal/",
        ".",
    ];
    let wanted = |file: &&File| {
        let path = file.path.as_str();
        !ELSEWHERE.iter().any(|folder| path.starts_with(folder))
            && (ENDS.iter().any(|end| path.ends_with(end)) || (code && path.ends_with(".py")))
    };
    let mut files: Vec<File> = facts
        .files
        .iter()
        .filter(wanted)
        .chain(safetensors.iter().copied())
        .cloned()
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}
