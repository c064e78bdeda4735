//! The images that sessions are rented with: what each ships, and in which form it takes a start command. Tags are pinned: what
//! was tested is what runs.

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
    /// The folder of the engine's program, where the image's PATH does not have it.
    pub engine_dir: Option<&'static str>,
    /// Whether it ships sshd; otherwise boot installs it.
    pub sshd: bool,
    /// Whether it ships Python.
    pub python: bool,
    /// The lowest CUDA version that the machine's driver must have for it.
    pub min_cuda: &'static str,
    /// How many MB are pulled, compressed.
    pub pull_mb: u64,
}

/// The default images, one an engine.
pub const DEFAULTS: [Image; 3] = [
    Image {
        reference: "vllm/vllm-openai:v0.33.0",
        form: Form::Json,
        engine: Some(Engine::Vllm),
        engine_dir: None,
        sshd: false,
        python: true,
        min_cuda: "12.9",
        pull_mb: 12_000,
    },
    Image {
        reference: "runpod/pytorch:2.8.0-py3.11-cuda12.8.1-cudnn-devel-ubuntu22.04",
        form: Form::Words,
        // transformers itself is installed by deploy, pinned: the image has CUDA, PyTorch and Python.
        engine: None,
        engine_dir: None,
        sshd: true,
        python: true,
        min_cuda: "12.8",
        pull_mb: 9_000,
    },
    Image {
        reference: "ghcr.io/ggml-org/llama.cpp:server-cuda-b9246",
        form: Form::Json,
        engine: Some(Engine::LlamaCpp),
        // Its ENTRYPOINT is /app/llama-server, and nothing of it is on PATH.
        engine_dir: Some("/app"),
        sshd: false,
        python: false,
        min_cuda: "12.8",
        pull_mb: 2_600,
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

/// What is known of an image, whatever its tag: a repository keeps its ways.
pub fn known(reference: &str) -> Option<&'static Image> {
    DEFAULTS
        .iter()
        .find(|image| repository(image.reference) == repository(reference))
}

/// The form for any image. An image that nothing is known about gets the JSON form, which works whether it has an ENTRYPOINT or not.
pub fn form(reference: &str) -> Form {
    known(reference).map_or(Form::Json, |image| image.form)
}

/// A reference without `docker.io/`, tag and digest.
fn repository(reference: &str) -> &str {
    let reference = reference.strip_prefix("docker.io/").unwrap_or(reference);
    let name = reference
        .split_once('@')
        .map_or(reference, |(name, _)| name);
    match name.rsplit_once(':') {
        // What follows a colon and has a slash in it belongs to a port.
        Some((head, tag)) if !tag.contains('/') => head,
        _ => name,
    }
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
            let tag = image.reference.rsplit_once(':').map(|(_, tag)| tag);
            assert!(
                tag.is_some_and(|tag| tag.contains(|c: char| c.is_ascii_digit())),
                "{} is not pinned",
                image.reference
            );
        }
        assert_eq!(form("somebody/else:1"), Form::Json);
    }

    #[test]
    fn another_tag_or_digest_of_a_known_image_keeps_its_form() {
        for reference in [
            "runpod/pytorch:nightly",
            "docker.io/runpod/pytorch",
            "runpod/pytorch@sha256:00",
        ] {
            assert_eq!(form(reference), Form::Words, "{reference}");
        }
        assert_eq!(form("localhost:5000/runpod/pytorch"), Form::Json);
        assert_eq!(repository("localhost:5000/mine"), "localhost:5000/mine");
    }
}
