//! Headers as files have them, and absurd ones.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn file(path: &str, size: u64) -> File {
    File {
        path: path.into(),
        size,
        sha256: None,
    }
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// A header with an architecture and 32-bit numbers, as converters write it.
fn header(architecture: &str, numbers: &[(&str, u32)]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.extend((numbers.len() as u64 + 3).to_le_bytes());
    text(&mut bytes, "general.architecture");
    bytes.extend(8u32.to_le_bytes());
    text(&mut bytes, architecture);
    for (name, number) in numbers {
        text(&mut bytes, &format!("{architecture}.{name}"));
        bytes.extend(4u32.to_le_bytes());
        bytes.extend(number.to_le_bytes());
    }
    text(
        &mut bytes,
        &format!("{architecture}.attention.head_count_kv"),
    );
    bytes.extend(9u32.to_le_bytes());
    bytes.extend(5u32.to_le_bytes());
    bytes.extend(3u64.to_le_bytes());
    for heads in [2i32, 0, 4] {
        bytes.extend(heads.to_le_bytes());
    }
    text(&mut bytes, "tokenizer.ggml.tokens");
    bytes.extend(9u32.to_le_bytes());
    bytes.extend(8u32.to_le_bytes());
    bytes.extend(151_936u64.to_le_bytes());
    text(&mut bytes, "!");
    bytes
}

#[test]
fn the_shape_is_in_the_first_bytes_even_when_the_vocabulary_is_cut_off() {
    let bytes = header(
        "qwen2",
        &[
            ("block_count", 3),
            ("context_length", 32_768),
            ("embedding_length", 896),
            ("attention.head_count", 14),
        ],
    );
    let shape = shape(&bytes).unwrap();
    assert_eq!(
        shape.cache,
        Cache::Heads {
            kv_heads: vec![2, 4],
            widths: 128
        }
    );
    assert_eq!(
        (
            shape.context.unwrap().get(),
            shape.hidden,
            shape.heads,
            shape.state_layers
        ),
        (32_768, 896, 14, 1)
    );
}

#[test]
fn the_named_variant_is_picked_and_the_usual_one_without_a_name() {
    let files = [
        file("model-q8_0.gguf", 3),
        file("model-Q4_K_M.gguf", 2),
        file("mmproj-model-f32.gguf", 9),
        file("mmproj-model-f16.gguf", 7),
        file("README.md", 1),
    ];
    let usual = pick(&files, None).unwrap().unwrap();
    assert_eq!(
        (usual.file.as_str(), usual.variant.as_str(), usual.bytes()),
        ("model-Q4_K_M.gguf", "Q4_K_M", 9)
    );
    assert_eq!(usual.mmproj.unwrap().path, "mmproj-model-f16.gguf");
    assert_eq!(
        pick(&files, Some("Q8_0")).unwrap().unwrap().file,
        "model-q8_0.gguf"
    );
    assert_eq!(
        pick(&files, Some("Q2_K")),
        Err(vec!["Q4_K_M".to_owned(), "Q8_0".to_owned()])
    );
    assert_eq!(pick(&files[4..], None), Ok(None));
}

#[test]
fn parts_belong_together() {
    let files = [
        file("Q4_K_M/big-Q4_K_M-00002-of-00002.gguf", 5),
        file("Q4_K_M/big-Q4_K_M-00001-of-00002.gguf", 6),
    ];
    let gguf = pick(&files, Some("q4_k_m")).unwrap().unwrap();
    assert_eq!(
        (gguf.file.as_str(), gguf.parts.len(), gguf.bytes()),
        ("Q4_K_M/big-Q4_K_M-00001-of-00002.gguf", 2, 11)
    );
}

#[test]
fn variants_are_read_from_names_as_people_write_them() {
    for (name, variant) in [
        ("qwen2.5-coder-0.5b-instruct-q4_k_m", "Q4_K_M"),
        ("llama-2-7b.Q5_K_S", "Q5_K_S"),
        ("sub/gpt-oss-20b-mxfp4", "MXFP4"),
        ("gemma-3-4b-it-UD-IQ2_XXS", "UD-IQ2_XXS"),
        ("Phi-3-mini-4k-instruct-fp16", "FP16"),
        ("weights", "weights"),
    ] {
        assert_eq!(variant_of(name), variant);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = shape(&bytes);
    }

    #[test]
    fn no_damage_to_a_header_makes_it_panic(at in 0usize..400, byte in any::<u8>(), length in 0usize..400) {
        let mut bytes = header("qwen2", &[("block_count", 3), ("embedding_length", 896), ("attention.head_count", 14)]);
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        bytes.truncate(length.max(24));
        let _ = shape(&bytes);
    }

    #[test]
    fn no_file_names_make_it_panic(paths in proptest::collection::vec("[a-zäQ0-9_./-]{0,30}(\\.gguf)?", 0..6), variant in proptest::option::of("[A-Z0-9_]{1,8}")) {
        let files: Vec<File> = paths.iter().map(|path| file(path, 1)).collect();
        if let Ok(Some(gguf)) = pick(&files, variant.as_deref()) {
            prop_assert!(files.iter().any(|file| file.path == gguf.file));
        }
    }
}
