//! What the images ship, and what command a container of each really runs for the `args` of a create.

use std::path::PathBuf;

use serde::Deserialize;

use crate::hosts;

/// One image, known by the beginning of its reference.
#[derive(Clone, Debug)]
pub struct Image {
    /// References that start so are this image.
    pub reference: String,
    /// Its ENTRYPOINT; what a create sends as words is appended to it.
    pub entrypoint: Vec<String>,
    /// Its CMD, when a create sends nothing.
    pub cmd: Vec<String>,
    /// What is in it.
    pub ships: hosts::Image,
    /// How much is pulled, in tenths of a GB.
    pub tenths_of_gb: u64,
    /// Whether the machines have it already.
    pub cached: bool,
}

/// The images that the simulator knows. An image that is not among them is a plain system of 0.1 GB without an entrypoint.
#[derive(Clone, Debug)]
pub struct Images(pub Vec<Image>);

impl Default for Images {
    /// The default images of srchat's engines, as they are published: two of them without sshd, which boot has to install.
    ///
    /// One thing differs: llama.cpp's has Python here, because the server that stands in for its own is written in it.
    fn default() -> Self {
        let image =
            |reference: &str, entrypoint: &[&str], cmd: &[&str], tenths_of_gb, sshd| Image {
                reference: reference.to_owned(),
                entrypoint: owned(entrypoint),
                cmd: owned(cmd),
                ships: hosts::Image {
                    sshd,
                    ..hosts::Image::default()
                },
                tenths_of_gb,
                cached: false,
            };
        Self(vec![
            image("vllm/vllm-openai", &["vllm", "serve"], &[], 160, false),
            image(
                "ghcr.io/ggml-org/llama.cpp:server",
                &["/app/llama-server"],
                &[],
                31,
                false,
            ),
            image("runpod/pytorch", &[], &["/start.sh"], 68, true),
        ])
    }
}

impl Images {
    /// The image that this reference names.
    pub fn find(&self, reference: &str) -> Image {
        let known = self
            .0
            .iter()
            .find(|image| reference.starts_with(&image.reference));
        known.cloned().unwrap_or_else(|| Image {
            reference: reference.to_owned(),
            entrypoint: Vec::new(),
            cmd: owned(&["/bin/sh"]),
            ships: hosts::Image::default(),
            tenths_of_gb: 1,
            cached: false,
        })
    }

    /// Puts folders on the PATH of the images whose reference starts so, before the system's own.
    pub fn put_on_path(&mut self, reference: &str, path: &[PathBuf], visible: &[PathBuf]) {
        for image in self
            .0
            .iter_mut()
            .filter(|image| image.reference.starts_with(reference))
        {
            image.ships.path.extend_from_slice(path);
            image.ships.visible.extend_from_slice(visible);
        }
    }
}

/// The JSON form of `args`, which replaces the image's entrypoint and command.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Replacement {
    entrypoint: Vec<String>,
    #[serde(default)]
    cmd: Vec<String>,
}

impl Image {
    /// The command of PID 1 for these `args`: a JSON object replaces entrypoint and command, words are split as a shell
    /// does and follow the entrypoint. `None` when there is nothing to run or the quotes do not close.
    pub fn argv(&self, args: &str) -> Option<Vec<String>> {
        if let Ok(Replacement {
            mut entrypoint,
            cmd,
        }) = serde_json::from_str(args)
        {
            entrypoint.extend(cmd);
            return (!entrypoint.is_empty()).then_some(entrypoint);
        }
        let words = shlex::split(args)?;
        let rest = if words.is_empty() {
            self.cmd.clone()
        } else {
            words
        };
        let argv: Vec<String> = self.entrypoint.iter().cloned().chain(rest).collect();
        (!argv.is_empty()).then_some(argv)
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(image: &str, args: &str) -> Option<Vec<String>> {
        Images::default().find(image).argv(args)
    }

    #[test]
    fn words_follow_the_entrypoint_and_an_entrypoint_swallows_them() {
        assert_eq!(
            argv("runpod/pytorch:2", r#"sh -c 'echo "a b"'"#),
            Some(owned(&["sh", "-c", "echo \"a b\""]))
        );
        assert_eq!(
            argv("vllm/vllm-openai:v1", "sh -c true"),
            Some(owned(&["vllm", "serve", "sh", "-c", "true"]))
        );
        assert_eq!(argv("runpod/pytorch:2", ""), Some(owned(&["/start.sh"])));
    }

    #[test]
    fn the_json_form_replaces_the_entrypoint() {
        let args = r#"{"entrypoint":["/bin/bash","-c"],"cmd":["exec sleep 1"]}"#;
        assert_eq!(
            argv("vllm/vllm-openai:v1", args),
            Some(owned(&["/bin/bash", "-c", "exec sleep 1"]))
        );
    }

    #[test]
    fn an_open_quote_runs_nothing() {
        assert_eq!(argv("runpod/pytorch:2", "sh -c 'true"), None);
    }
}
