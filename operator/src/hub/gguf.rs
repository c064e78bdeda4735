//! GGUF repositories: which file a variant means, and the [`Shape`] that stands in the first bytes of that file.
//! Names and bytes come from strangers: what cannot be read is an absence, never a panic and never an endless loop.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use super::facts::{Cache, File, Gguf, Shape};

/// Bytes to read of a file: general and architecture keys come first and take a few KiB; vocabularies follow.
pub const HEADER_BYTES: u64 = 256 * 1024;

/// What is served when no variant is named: the usual compromise first, then what is nearest in quality, upwards.
const PREFERRED: [&str; 12] = [
    "Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_XS", "IQ4_NL", "MXFP4", "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0",
    "BF16", "F16",
];

/// The weights in `files` that `variant` names, or the default ones. `Err` lists the variants there are.
pub fn pick(files: &[File], variant: Option<&str>) -> Result<Option<Gguf>, Vec<String>> {
    let mut groups: BTreeMap<&str, Vec<&File>> = BTreeMap::new();
    for file in files
        .iter()
        .filter(|file| is_gguf(&file.path) && !is_projector(&file.path))
    {
        groups
            .entry(without_part(&file.path))
            .or_default()
            .push(file);
    }
    if groups.is_empty() {
        return Ok(None);
    }
    let names: BTreeMap<&str, String> = groups
        .keys()
        .map(|stem| (*stem, variant_of(stem)))
        .collect();
    let named = |wanted: &str| {
        names
            .iter()
            .find(|(_, name)| name.eq_ignore_ascii_case(wanted))
            .map(|(stem, _)| *stem)
    };
    let stem = match variant {
        Some(wanted) => named(wanted),
        None => PREFERRED
            .iter()
            .find_map(|name| named(name))
            .or_else(|| (groups.len() == 1).then(|| groups.keys().next().copied())?),
    };
    let Some((stem, parts)) = stem.and_then(|stem| groups.get_key_value(stem)) else {
        let mut all: Vec<String> = names.into_values().collect();
        all.sort();
        all.dedup();
        return Err(all);
    };
    let mut parts: Vec<File> = parts.iter().map(|file| (*file).clone()).collect();
    parts.sort_by(|a, b| a.path.cmp(&b.path));
    let mmproj = projector(files);
    Ok(parts.first().map(|first| Gguf {
        file: first.path.clone(),
        variant: variant_of(stem),
        mmproj,
        parts: parts.clone(),
    }))
}

/// Whether a path is a GGUF file.
pub fn is_gguf(path: &str) -> bool {
    path.to_ascii_lowercase().ends_with(".gguf")
}

fn is_projector(path: &str) -> bool {
    file_name(path).to_ascii_lowercase().contains("mmproj")
}

/// The projector to use: half precision where there is a choice, since a quantized one saves nothing worth having.
fn projector(files: &[File]) -> Option<File> {
    let rank = |file: &&File| {
        let name = file.path.to_ascii_lowercase();
        (!name.contains("f16"), name.contains("bf16"), name.len())
    };
    files
        .iter()
        .filter(|file| is_gguf(&file.path) && is_projector(&file.path))
        .min_by_key(rank)
        .cloned()
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A path without its extension and without `-00001-of-00003`.
fn without_part(path: &str) -> &str {
    let stem = path
        .get(..path.len().saturating_sub(".gguf".len()))
        .unwrap_or(path);
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let cut = stem
        .rsplit_once("-of-")
        .filter(|(_, total)| digits(total))
        .and_then(|(head, _)| head.rsplit_once('-'));
    cut.filter(|(_, part)| digits(part))
        .map_or(stem, |(head, _)| head)
}

/// `qwen2.5-coder-0.5b-instruct-q4_k_m` -> `Q4_K_M`: what follows the last `-` or `.` that starts like a quantization; else all.
fn variant_of(stem: &str) -> String {
    let name = file_name(stem);
    let looks = |text: &str| {
        let text = text.to_ascii_uppercase();
        let quantized = text
            .strip_prefix("IQ")
            .or(text.strip_prefix('Q'))
            .or(text.strip_prefix("TQ"));
        quantized.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            || matches!(
                text.as_str(),
                "F16" | "BF16" | "F32" | "FP16" | "MXFP4" | "MXFP4_MOE"
            )
    };
    let starts = name
        .char_indices()
        .filter(|(_, c)| matches!(c, '-' | '.'))
        .map(|(at, _)| at + 1);
    let found: Option<&str> = starts
        .filter_map(|at| name.get(at..))
        .rfind(|rest| looks(rest));
    // Unsloth's dynamic ones: UD-Q4_K_XL is not Q4_K_XL.
    match found {
        Some(found) => {
            let before = name.len() - found.len();
            let dynamic = name
                .get(..before)
                .is_some_and(|head| head.to_ascii_uppercase().ends_with("UD-"));
            format!(
                "{}{}",
                if dynamic { "UD-" } else { "" },
                found.to_ascii_uppercase()
            )
        }
        None => name.to_owned(),
    }
}

/// The shape in a file's first bytes; `None` when they are not GGUF or end before it is known.
pub fn shape(header: &[u8]) -> Option<Shape> {
    let keys = keys(header)?;
    let text = |key: &str| match keys.get(key) {
        Some(Entry::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    let architecture = text("general.architecture")?;
    let entry = |name: &str| keys.get(&format!("{architecture}.{name}"));
    let number = |name: &str| match entry(name) {
        Some(Entry::Number(number)) => Some(*number).filter(|number| (1..=WIDEST).contains(number)),
        _ => None,
    };
    let layers = number("block_count").filter(|layers| *layers <= MOST_LAYERS)?;
    let hidden = number("embedding_length")?;
    let heads = match entry("attention.head_count") {
        Some(Entry::Numbers(list)) => list.iter().copied().max().filter(|heads| *heads <= WIDEST),
        _ => number("attention.head_count"),
    };
    let cache = match (number("attention.kv_lora_rank"), heads) {
        (Some(rank), _) => Cache::Latent {
            layers,
            width: rank + number("rope.dimension_count").unwrap_or(64),
        },
        (None, Some(heads)) if heads > 0 => {
            let width = hidden / heads;
            let widths = number("attention.key_length").unwrap_or(width)
                + number("attention.value_length").unwrap_or(width);
            let kv_heads = match entry("attention.head_count_kv") {
                Some(Entry::Numbers(list)) => list
                    .iter()
                    .copied()
                    .filter(|heads| (1..=WIDEST).contains(heads))
                    .collect(),
                _ => vec![
                    number("attention.head_count_kv").unwrap_or(heads);
                    usize::try_from(layers).ok()?
                ],
            };
            Cache::Heads { kv_heads, widths }
        }
        (None, _) => Cache::Heads {
            kv_heads: Vec::new(),
            widths: 0,
        },
    };
    let attending = match &cache {
        Cache::Heads { kv_heads, .. } => kv_heads.len() as u64,
        Cache::Latent { layers, .. } => *layers,
    };
    Some(Shape {
        context: number("context_length")
            .and_then(|tokens| NonZeroU32::new(u32::try_from(tokens).ok()?)),
        hidden,
        heads: heads.unwrap_or(1),
        vocabulary: number("vocab_size").unwrap_or(0),
        tied: false,
        cache,
        state_layers: layers.saturating_sub(attending),
        // llama.cpp keeps the whole context for sliding layers unless told otherwise by the model; count it all.
        window: None,
    })
}

/// As in `shape`: what exceeds these is not believed.
const MOST_LAYERS: u64 = 4096;
const WIDEST: u64 = 1 << 24;

enum Entry {
    Number(u64),
    Numbers(Vec<u64>),
    Text(String),
}

/// The key-value pairs at the start of a file, up to the first that is not whole.
fn keys(bytes: &[u8]) -> Option<BTreeMap<String, Entry>> {
    let mut bytes = Bytes(bytes);
    if bytes.take(4)? != b"GGUF" || !matches!(bytes.u32()?, 2 | 3) {
        return None;
    }
    let _tensors = bytes.u64()?;
    let count = bytes.u64()?;
    let mut keys = BTreeMap::new();
    for _ in 0..count {
        let Some((key, entry)) = bytes.pair() else {
            break;
        };
        if let Some(entry) = entry {
            keys.insert(key, entry);
        }
    }
    Some(keys)
}

/// What is left to read. Every step takes bytes, so that a header cannot make it run for longer than its own length.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u64()?).ok()?;
        self.take(length)
    }

    fn pair(&mut self) -> Option<(String, Option<Entry>)> {
        let key = String::from_utf8_lossy(self.text()?).into_owned();
        let kind = self.u32()?;
        Some((key, self.entry(kind)?))
    }

    /// `Some(None)` is a value that was skipped: a float, a flag, an array of anything but integers.
    fn entry(&mut self, kind: u32) -> Option<Option<Entry>> {
        Some(match kind {
            8 => Some(Entry::Text(
                String::from_utf8_lossy(self.text()?).into_owned(),
            )),
            9 => {
                let kind = self.u32()?;
                let count = self.u64()?;
                // Nobody writes arrays of arrays, and following them would cost a stack frame for every twelve bytes.
                if kind == 9 {
                    return None;
                }
                let mut numbers = Vec::new();
                for _ in 0..count {
                    match self.entry(kind)? {
                        Some(Entry::Number(number)) => numbers.push(number),
                        Some(Entry::Text(_) | Entry::Numbers(_)) | None => {}
                    }
                }
                (!numbers.is_empty()).then_some(Entry::Numbers(numbers))
            }
            6 | 7 | 12 => {
                self.take(if kind == 12 {
                    8
                } else if kind == 6 {
                    4
                } else {
                    1
                })?;
                None
            }
            _ => {
                let width = match kind {
                    0 | 1 => 1,
                    2 | 3 => 2,
                    4 | 5 => 4,
                    10 | 11 => 8,
                    _ => return None,
                };
                let signed = matches!(kind, 1 | 3 | 5 | 11);
                let mut wide = [0; 8];
                wide[..width].copy_from_slice(self.take(width)?);
                let negative = signed && wide[width - 1] & 0x80 != 0;
                (!negative).then_some(Entry::Number(u64::from_le_bytes(wide)))
            }
        })
    }
}

#[cfg(test)]
mod tests;
