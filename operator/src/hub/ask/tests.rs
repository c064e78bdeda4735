#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use reqwest::header::HeaderValue;
use serde_json::json;

use super::*;

fn headers(name: &'static str, value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(name, HeaderValue::from_str(value).unwrap());
    headers
}

#[test]
fn a_pause_is_read_from_either_header() {
    assert_eq!(
        pause(&headers("retry-after", "12")),
        Duration::from_secs(12)
    );
    assert_eq!(
        pause(&headers("ratelimit", "\"api\";r=0;t=231")),
        Duration::from_secs(231)
    );
    assert_eq!(
        pause(&headers("ratelimit", "\"api\"; r=0; t=7")),
        Duration::from_secs(7)
    );
    assert_eq!(
        pause(&headers("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")),
        UNSAID_PAUSE
    );
    let Error::Unavailable { after, .. } = limited(Duration::from_secs(u64::MAX)) else {
        panic!("another error")
    };
    assert_eq!(after, Some(LONGEST_PAUSE));
}

#[test]
fn the_next_page_is_the_one_called_next() {
    let link = "<https://hub/prev>; rel=\"prev\", <https://hub/next?cursor=a>; rel=\"next\"";
    assert_eq!(
        next_page(&headers("link", link)).as_deref(),
        Some("https://hub/next?cursor=a")
    );
    assert_eq!(
        next_page(&headers("link", "<https://hub/prev>; rel=\"prev\"")),
        None
    );
}

#[test]
fn bits_of_stored_weights_are_found_where_each_method_keeps_them() {
    let of = |quantization: Value| {
        stored(&json!({ "quantization_config": quantization }))
            .map(|stored| (stored.method, stored.bits))
    };
    assert_eq!(
        of(json!({"quant_method": "awq", "bits": 4})),
        Some(("awq".into(), Some(4)))
    );
    assert_eq!(
        of(json!({"quant_method": "fp8", "activation_scheme": "dynamic"})),
        Some(("fp8".into(), Some(8)))
    );
    assert_eq!(
        of(json!({"quant_method": "mxfp4"})),
        Some(("mxfp4".into(), Some(4)))
    );
    assert_eq!(
        of(json!({"quant_method": "bitsandbytes", "load_in_4bit": true})),
        Some(("bitsandbytes".into(), Some(4)))
    );
    let groups =
        json!({"group_0": {"weights": {"num_bits": 4}}, "group_1": {"weights": {"num_bits": 8}}});
    assert_eq!(
        of(json!({"quant_method": "compressed-tensors", "config_groups": groups})),
        Some(("compressed-tensors".into(), Some(4)))
    );
    assert_eq!(of(json!({"bits": 4})), None);
    assert_eq!(of(json!("awq")), None);
    let nested = json!({"text_config": {"num_hidden_layers": 1, "quantization_config": {"quant_method": "gptq", "bits": 8}}});
    assert_eq!(stored(&nested).unwrap().bits, Some(8));
}

#[test]
fn files_whose_names_lead_out_of_the_folder_are_left_out() {
    let file = |path: &str| {
        serde_json::from_value::<Entry>(json!({"type": "file", "path": path, "size": 1}))
            .unwrap()
            .file()
    };
    for path in [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "a//b",
        "a/./b",
        "a\nb",
        "",
    ] {
        assert_eq!(file(path), None, "{path:?}");
    }
    assert!(file("sub/folder/model.safetensors").is_some());
    let folder = json!({"type": "directory", "path": "sub", "oid": "0"});
    assert_eq!(
        serde_json::from_value::<Entry>(folder).unwrap().file(),
        None
    );
}

#[test]
fn a_large_files_sum_and_size_are_those_of_its_content() {
    let sum = "a".repeat(64);
    let entry = json!({"type": "file", "path": "m.safetensors", "size": 135, "oid": "git", "lfs": {"oid": sum, "size": 9, "pointerSize": 135}});
    let file = serde_json::from_value::<Entry>(entry)
        .unwrap()
        .file()
        .unwrap();
    assert_eq!((file.size, file.sha256), (9, Some(sum)));
    let odd =
        json!({"type": "file", "path": "m.safetensors", "lfs": {"oid": "not a sum", "size": 9}});
    assert_eq!(
        serde_json::from_value::<Entry>(odd)
            .unwrap()
            .file()
            .unwrap()
            .sha256,
        None
    );
}

proptest! {
    #[test]
    fn no_header_makes_it_panic(value in "[ -~]{0,60}") {
        for name in ["retry-after", "ratelimit", "link"] {
            let headers = headers(name, &value);
            let _ = (pause(&headers), next_page(&headers));
        }
    }

    #[test]
    fn no_entry_makes_it_panic(kind in ".{0,9}", path in ".{0,40}", size: u64, oid in ".{0,70}") {
        let entry = json!({"type": kind, "path": path, "size": size, "lfs": {"oid": oid, "size": size}});
        if let Some(file) = serde_json::from_value::<Entry>(entry).unwrap().file() {
            prop_assert!(!file.path.starts_with('/') && !file.path.split('/').any(|part| part == ".."));
        }
    }
}
