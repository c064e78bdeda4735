//! The operator's image as an OCI archive, written without a daemon and without a base image: a static program, the certificate
//! authorities that it trusts, a user. The same program gives the same bytes, whoever writes them and when.

pub mod layout;
mod program;

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use layout::{Layout, Packing, file, folder};

pub use layout::Image;
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
    /// What it needs besides, by its path in the image: nothing for a static one, libraries for one that is only tried.
    pub libraries: Vec<(String, Vec<u8>)>,
    /// Its processor, as OCI spells it: `amd64`, `arm64`.
    pub architecture: String,
    /// Name and tag, as the archive's reader shall know it: `docker.io/srchat/srchat-operator:0.1.0`.
    pub reference: String,
    /// Version of the program.
    pub version: String,
    /// Seconds since 1970 that everything is dated to (`SOURCE_DATE_EPOCH`).
    pub epoch: u64,
    /// How its files are packed.
    pub packing: Packing,
}

/// Writes an image.
///
/// # Errors
/// When a name is too long for a tar, or the time is none.
pub fn image(contents: &Contents) -> io::Result<Image> {
    layout::write(&Layout {
        files: layer(&contents.program, &contents.libraries)?,
        packing: contents.packing,
        architecture: &contents.architecture,
        reference: &contents.reference,
        epoch: contents.epoch,
        config: json!({
            "User": format!("{USER}:{USER}"),
            "Entrypoint": [format!("/{PROGRAM}")],
            "Env": ["PATH=/usr/local/bin", format!("SSL_CERT_FILE=/{ROOTS}")],
            "WorkingDir": "/",
            "Labels": labels(&contents.version),
        }),
        annotations: labels(&contents.version),
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
fn layer(program: &[u8], libraries: &[(String, Vec<u8>)]) -> io::Result<Vec<u8>> {
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
    for (path, bytes) in libraries {
        file(&mut layer, path.trim_start_matches('/'), 0o755, bytes)?;
    }
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
