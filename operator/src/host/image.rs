//! The images that sessions are rented with: what each ships, and in which form it takes a start command.

use super::engine::Engine;

/// How an image is told what to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A command line, split like a shell's: for an image without an ENTRYPOINT, or with one that runs its arguments.
    Words,
    /// `{"entrypoint":[..],"cmd":[..]}`, which replaces both: for an image whose ENTRYPOINT would swallow our command.
    Json,
}

/// What is known about an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// Its reference, tag pinned.
    pub reference: &'static str,
    /// The form of its start command.
    pub form: Form,
    /// The engine it ships, if any.
    pub engine: Option<Engine>,
    /// Whether it ships sshd; otherwise boot installs it.
    pub sshd: bool,
    /// Whether it ships Python.
    pub python: bool,
}

/// The default images, one an engine.
pub const DEFAULTS: [Image; 3] = [
    Image {
        reference: "vllm/vllm-openai:v0.22.0",
        form: Form::Json,
        engine: Some(Engine::Vllm),
        sshd: false,
        python: true,
    },
    Image {
        reference: "runpod/pytorch:2.8.0-py3.11-cuda12.8.1-cudnn-devel-ubuntu22.04",
        form: Form::Words,
        // transformers itself is installed by deploy, pinned: the image has CUDA, PyTorch and Python.
        engine: None,
        sshd: true,
        python: true,
    },
    Image {
        reference: "ghcr.io/ggml-org/llama.cpp:server-cuda",
        form: Form::Json,
        engine: Some(Engine::LlamaCpp),
        sshd: false,
        python: false,
    },
];

/// The default image of an engine.
pub fn default_for(engine: Engine) -> &'static Image {
    match engine {
        Engine::Vllm => &DEFAULTS[0],
        Engine::Transformers => &DEFAULTS[1],
        Engine::LlamaCpp => &DEFAULTS[2],
    }
}

/// The form for any image. An image that nothing is known about gets the JSON form, which works whether it has an ENTRYPOINT or not.
pub fn form(reference: &str) -> Form {
    DEFAULTS
        .iter()
        .find(|image| image.reference == reference)
        .map_or(Form::Json, |image| image.form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_image_is_its_own_engines() {
        for engine in [Engine::Vllm, Engine::Transformers, Engine::LlamaCpp] {
            let image = default_for(engine);
            assert!(image.engine.is_none_or(|shipped| shipped == engine));
            assert_eq!(form(image.reference), image.form);
        }
        assert_eq!(form("somebody/else:1"), Form::Json);
    }
}
