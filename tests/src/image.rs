//! The operator's image as an OCI archive, written without a daemon and without a base image: a static program, the certificate
//! authorities that it trusts, a user. The same program gives the same bytes, whoever writes them and when.

mod program;

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

pub use program::{Error as ProgramError, is_static, program};

/// Who the program runs as: nobody's number on any machine, and the one that the chart asks for.
const USER: u64 = 65532;
/// Where the program stands.
const PROGRAM: &str = "usr/local/bin/srchat-operator";
/// Where every TLS library looks for authorities.
const ROOTS: &str = "etc/ssl/certs/ca-certificates.crt";
/// Base64 in a PEM file is cut after this many characters (RFC 7468).
const PEM_LINE: usize = 64;

/// What an image is of.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The program.
    pub program: Vec<u8>,
    /// Its processor, as OCI spells it: `amd64`, `arm64`.
    pub architecture: String,
    /// Name and tag, as the archive's reader shall know it: `docker.io/srchat/srchat-operator:0.1.0`.
    pub reference: String,
    /// Version of the program.
    pub version: String,
    /// Seconds since 1970 that everything is dated to (`SOURCE_DATE_EPOCH`).
    pub epoch: u64,
}

/// A written image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The archive, in the OCI image layout, as one tar.
    pub archive: Vec<u8>,
    /// `sha256:...` of the manifest: what a registry would call it by.
    pub digest: String,
}

/// Writes an image.
///
/// # Errors
/// When a name is too long for a tar, or the time is none.
pub fn image(contents: &Contents) -> io::Result<Image> {
    let Contents {
        program,
        architecture,
        reference,
        version,
        epoch,
    } = contents;
    let epoch = i64::try_from(*epoch).map_err(io::Error::other)?;
    let created = jiff::Timestamp::from_second(epoch)
        .map_err(io::Error::other)?
        .to_string();
    let files = layer(program)?;
    let layer = gzip(&files)?;
    let config = json!({
        "created": created,
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": format!("{USER}:{USER}"),
            "Entrypoint": [format!("/{PROGRAM}")],
            "Env": ["PATH=/usr/local/bin", format!("SSL_CERT_FILE=/{ROOTS}")],
            "WorkingDir": "/",
            "Labels": labels(version),
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(&files)]},
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
        "layers": [described("layer.v1.tar+gzip", &layer)],
        "annotations": labels(version),
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
    let mut blobs = [&config, &layer, &manifest].map(|blob| (digest(blob), blob));
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

fn labels(version: &str) -> Value {
    json!({
        "org.opencontainers.image.title": "srchat-operator",
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
        "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
    })
}

/// The file system: the program, the authorities, a user of that number.
fn layer(program: &[u8]) -> io::Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    for name in [
        "etc",
        "etc/ssl",
        "etc/ssl/certs",
        "usr",
        "usr/local",
        "usr/local/bin",
    ] {
        folder(&mut layer, name)?;
    }
    let passwd = format!("nonroot:x:{USER}:{USER}:nonroot:/nonexistent:/sbin/nologin\n");
    file(
        &mut layer,
        "etc/group",
        0o644,
        format!("nonroot:x:{USER}:\n").as_bytes(),
    )?;
    file(
        &mut layer,
        "etc/nsswitch.conf",
        0o644,
        b"hosts: files dns\n",
    )?;
    file(&mut layer, "etc/passwd", 0o644, passwd.as_bytes())?;
    file(&mut layer, ROOTS, 0o644, roots().as_bytes())?;
    file(&mut layer, PROGRAM, 0o755, program)?;
    layer.into_inner()
}

/// Mozilla's certificate authorities as PEM; which ones is settled by Cargo.lock.
fn roots() -> String {
    let mut pem = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        let text = STANDARD.encode(certificate);
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for start in (0..text.len()).step_by(PEM_LINE) {
            pem.push_str(&text[start..text.len().min(start + PEM_LINE)]);
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

fn folder(tar: &mut tar::Builder<Vec<u8>>, name: &str) -> io::Result<()> {
    entry(tar, &format!("{name}/"), 0o755, EntryType::Directory, &[])
}

fn file(tar: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
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
