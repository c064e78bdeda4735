//! An image of one layer as an OCI image layout in one tar, for `kind load image-archive`, `ctr images import`, `skopeo copy`.
//! The same files give the same bytes.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As small as it goes, for whoever fetches it.
    Gzip,
    /// Not at all, for whoever takes it in on the same machine.
    None,
}

/// What an image is made of.
pub struct Layout<'a> {
    /// Its files, as a tar.
    pub files: Vec<u8>,
    /// How they are packed.
    pub packing: Packing,
    /// Its processor, as OCI spells it: `amd64`, `arm64`.
    pub architecture: &'a str,
    /// Name and tag, as the archive's reader shall know it.
    pub reference: &'a str,
    /// Seconds since 1970 that everything is dated to.
    pub epoch: u64,
    /// How a container of it is started: the `config` of OCI's image configuration.
    pub config: Value,
    /// What its manifest tells of it.
    pub annotations: Value,
}

/// A written image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The archive, in the OCI image layout, as one tar.
    pub archive: Vec<u8>,
    /// `sha256:...` of the manifest: what a registry would call it by.
    pub digest: String,
}

/// This machine's processor, as OCI spells it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Writes an image.
///
/// # Errors
/// When the time is none.
pub fn write(image: &Layout<'_>) -> io::Result<Image> {
    let Layout {
        files,
        packing,
        architecture,
        reference,
        epoch,
        config,
        annotations,
    } = image;
    let epoch = i64::try_from(*epoch).map_err(io::Error::other)?;
    let created = jiff::Timestamp::from_second(epoch)
        .map_err(io::Error::other)?
        .to_string();
    let (layer, kind) = match packing {
        Packing::Gzip => (&gzip(files)?, "layer.v1.tar+gzip"),
        Packing::None => (files, "layer.v1.tar"),
    };
    let config = json!({
        "created": created,
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest(files)]},
        "history": [{"created": created, "created_by": "cargo image"}],
    });
    let config = config.to_string().into_bytes();
    let described = |kind: &str, blob: &[u8]| {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": digest(blob),
            "size": blob.len(),
        })
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config.v1+json", &config),
        "layers": [described(kind, layer)],
        "annotations": annotations,
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = described("manifest.v1+json", &manifest);
    entry["platform"] = json!({"architecture": architecture, "os": "linux"});
    let tag = reference.rsplit(':').next().unwrap_or_default();
    // The first is OCI's name for the tag, the second the one by which containerd, and so kind and k3s, take it in.
    entry["annotations"] =
        json!({"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": reference});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });

    let mut archive = tar::Builder::new(Vec::new());
    folder(&mut archive, "blobs")?;
    folder(&mut archive, "blobs/sha256")?;
    let mut blobs = [&config, layer, &manifest].map(|blob| (digest(blob), blob));
    blobs.sort();
    for (digest, blob) in blobs {
        let name = digest.trim_start_matches("sha256:");
        file(&mut archive, &format!("blobs/sha256/{name}"), 0o644, blob)?;
    }
    file(
        &mut archive,
        "index.json",
        0o644,
        index.to_string().as_bytes(),
    )?;
    file(
        &mut archive,
        "oci-layout",
        0o644,
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    Ok(Image {
        archive: archive.into_inner()?,
        digest: digest(&manifest),
    })
}

/// A folder in a layer.
pub(crate) fn folder(tar: &mut tar::Builder<Vec<u8>>, name: &str) -> io::Result<()> {
    entry(tar, &format!("{name}/"), 0o755, EntryType::Directory, &[])
}

/// A file in a layer.
pub(crate) fn file(
    tar: &mut tar::Builder<Vec<u8>>,
    name: &str,
    mode: u32,
    bytes: &[u8],
) -> io::Result<()> {
    entry(tar, name, mode, EntryType::Regular, bytes)
}

/// Owned by root and dated 1970: who wrote it, and when, is in no byte.
fn entry(
    tar: &mut tar::Builder<Vec<u8>>,
    name: &str,
    mode: u32,
    kind: EntryType,
    bytes: &[u8],
) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, name, bytes)
}

/// Without a name and a time in its head.
fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(bytes)?;
    gzip.finish()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
