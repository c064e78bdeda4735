//! The image: its bytes depend on the program alone, and hold what they should and nothing else.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::GzDecoder;
use serde_json::Value;
use sha2::{Digest, Sha256};
use srchat_tests::image::layout::Packing;
use srchat_tests::image::{Contents, Image, image, is_static};

fn contents() -> Contents {
    Contents {
        program: b"the program".to_vec(),
        libraries: Vec::new(),
        architecture: "amd64".to_owned(),
        reference: "docker.io/srchat/srchat-operator:0.1.0".to_owned(),
        version: "0.1.0".to_owned(),
        epoch: 0,
        packing: Packing::Gzip,
    }
}

/// One file of a tar.
struct File {
    mode: u32,
    owner: (u64, u64),
    time: u64,
    bytes: Vec<u8>,
}

fn files(tar: &[u8]) -> BTreeMap<String, File> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let header = entry.header();
        let file = File {
            mode: header.mode().unwrap(),
            owner: (header.uid().unwrap(), header.gid().unwrap()),
            time: header.mtime().unwrap(),
            bytes,
        };
        (entry.path().unwrap().display().to_string(), file)
    });
    entries.collect()
}

/// The blob that a descriptor speaks of, which must be as long as it says and have the digest that it says.
fn blob<'a>(layout: &'a BTreeMap<String, File>, descriptor: &Value) -> &'a [u8] {
    let digest = descriptor["digest"].as_str().unwrap();
    let hex = digest.strip_prefix("sha256:").unwrap();
    let bytes = &layout[&format!("blobs/sha256/{hex}")].bytes;
    assert_eq!(hex::encode(Sha256::digest(bytes)), hex);
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

struct Unpacked {
    manifest: Value,
    entry: Value,
    config: Value,
    files: BTreeMap<String, File>,
}

fn unpack(image: &Image) -> Unpacked {
    let layout = files(&image.archive);
    assert_eq!(
        layout["oci-layout"].bytes,
        br#"{"imageLayoutVersion":"1.0.0"}"#
    );
    let index: Value = serde_json::from_slice(&layout["index.json"].bytes).unwrap();
    let entry = index["manifests"][0].clone();
    assert_eq!(entry["digest"], *image.digest);
    let manifest: Value = serde_json::from_slice(blob(&layout, &entry)).unwrap();
    let config: Value = serde_json::from_slice(blob(&layout, &manifest["config"])).unwrap();
    let mut layer = Vec::new();
    GzDecoder::new(blob(&layout, &manifest["layers"][0]))
        .read_to_end(&mut layer)
        .unwrap();
    let diff = format!("sha256:{}", hex::encode(Sha256::digest(&layer)));
    assert_eq!(config["rootfs"]["diff_ids"], serde_json::json!([diff]));
    Unpacked {
        manifest,
        entry,
        config,
        files: files(&layer),
    }
}

#[test]
fn the_same_program_gives_the_same_bytes() {
    let (first, second) = (image(&contents()).unwrap(), image(&contents()).unwrap());
    assert!(
        first.archive == second.archive,
        "two archives of one program differ"
    );
    let other = Contents {
        program: b"another program".to_vec(),
        ..contents()
    };
    assert_ne!(first.digest, image(&other).unwrap().digest);
}

#[test]
fn it_holds_the_program_the_authorities_and_a_user_and_nothing_else() {
    let unpacked = unpack(&image(&contents()).unwrap());
    let names: Vec<_> = unpacked.files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "etc/",
            "etc/group",
            "etc/nsswitch.conf",
            "etc/passwd",
            "etc/ssl/",
            "etc/ssl/certs/",
            "etc/ssl/certs/ca-certificates.crt",
            "usr/",
            "usr/local/",
            "usr/local/bin/",
            "usr/local/bin/srchat-operator",
        ]
    );
    for (name, file) in &unpacked.files {
        assert_eq!((file.owner, file.time), ((0, 0), 0), "{name}");
        assert_eq!(file.mode & 0o022, 0, "{name} may be written by others");
    }
    let program = &unpacked.files["usr/local/bin/srchat-operator"];
    assert_eq!(
        (program.mode, program.bytes.as_slice()),
        (0o755, b"the program".as_slice())
    );
    // As the program itself will read them.
    let pem = String::from_utf8(
        unpacked.files["etc/ssl/certs/ca-certificates.crt"]
            .bytes
            .clone(),
    )
    .unwrap();
    let authorities = reqwest::Certificate::from_pem_bundle(pem.as_bytes()).unwrap();
    assert!(authorities.len() > 50, "{} authorities", authorities.len());
    reqwest::Client::builder()
        .tls_certs_only(authorities)
        .build()
        .unwrap();
}

#[test]
fn it_runs_as_nobody_and_is_known_by_its_name() {
    let Unpacked {
        manifest,
        entry,
        config,
        files,
    } = unpack(&image(&contents()).unwrap());
    assert_eq!(config["config"]["User"], "65532:65532");
    let program = config["config"]["Entrypoint"][0].as_str().unwrap();
    assert!(files.contains_key(program.trim_start_matches('/')));
    assert_eq!(
        (&config["os"], &config["architecture"]),
        (&"linux".into(), &"amd64".into())
    );
    assert_eq!(config["created"], "1970-01-01T00:00:00Z");
    assert_eq!(
        manifest["mediaType"],
        "application/vnd.oci.image.manifest.v1+json"
    );
    assert_eq!(
        entry["annotations"]["io.containerd.image.name"],
        "docker.io/srchat/srchat-operator:0.1.0"
    );
    assert_eq!(
        entry["annotations"]["org.opencontainers.image.ref.name"],
        "0.1.0"
    );
}

#[test]
fn a_program_that_needs_a_loader_is_told_from_one_that_does_not() {
    let ours = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert!(
        !is_static(&ours),
        "tests are linked to the system's libraries"
    );
    let (from, size, count) = (0x40_u64, 56_u16, 2_u16);
    let elf = |types: [u32; 2]| {
        let mut elf = vec![0_u8; 0x40 + 2 * usize::from(size)];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x20..0x28].copy_from_slice(&from.to_le_bytes());
        elf[0x36..0x38].copy_from_slice(&size.to_le_bytes());
        elf[0x38..0x3a].copy_from_slice(&count.to_le_bytes());
        for (which, kind) in types.iter().enumerate() {
            let at = 0x40 + which * usize::from(size);
            elf[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        }
        elf
    };
    assert!(is_static(&elf([1, 2])));
    assert!(!is_static(&elf([1, 3])));
    for broken in [
        &b""[..],
        b"#!/bin/sh\n",
        b"\x7fELF\x02\x01",
        &elf([1, 2])[..0x50],
    ] {
        assert!(!is_static(broken));
    }
}
