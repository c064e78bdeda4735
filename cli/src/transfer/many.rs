//! Many small files as one tar: a round trip for all of them instead of one for each.

use super::part::Part;
use super::{CHUNK, Destination, Existing, Meter, Patience, resumable, safe};
use crate::failure::{Code, Failure, chain};
use crate::gateway::{Gateway, Many};
use bytes::Bytes;
use futures::StreamExt as _;
use reqwest::Response;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The gateway puts the SHA-256 of each file, as the host computed it, into the header of its entry.
const PAX_SHA256: &str = "SRCHAT.sha256";
/// Pieces on their way between the thread that packs and the connection.
const QUEUE: usize = 4;

/// Files that go together.
#[derive(Debug, Clone, Default)]
pub struct Bundle {
    /// Each with its path in the session.
    pub files: Vec<(PathBuf, String)>,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// A file that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Its path in the session.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// 64 hex digits, equal on both ends.
    pub sha256: String,
}

/// Sends a bundle; says length and SHA-256 of each file, in order. All of them appear at once.
pub async fn pack(
    gateway: &Gateway,
    bundle: &Bundle,
    meter: &Arc<Meter>,
) -> Result<Many<Vec<(u64, String)>>, Failure> {
    meter.expect(bundle.bytes);
    let mut patience = Patience::default();
    loop {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (files, of_pack) = (bundle.files.clone(), Arc::clone(meter));
        let packed = tokio::task::spawn_blocking(move || write(&files, sender, &of_pack));
        let body = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|piece| (piece, receiver))
        });
        let answer = gateway.upload_tar(body).await;
        let packed = packed.await.map_err(|e| stopped(&e))?;
        match (answer, packed) {
            (Ok(Many::NotHere), _) => return Ok(Many::NotHere),
            (Ok(Many::Here(stored)), Ok(sums)) => {
                let there: HashMap<_, _> = stored.iter().map(|f| (f.name.as_str(), f)).collect();
                for ((_, name), (bytes, sum)) in bundle.files.iter().zip(&sums) {
                    let same = there
                        .get(name.as_str())
                        .is_some_and(|f| f.sha256 == *sum && f.size == *bytes);
                    if !same {
                        return Err(damaged(name));
                    }
                }
                return Ok(Many::Here(sums));
            }
            // What cannot be read here is the reason for what the gateway says of it.
            (_, Err(Packing::Unreadable(failure))) => return Err(failure),
            (Err(failure), _) => {
                meter.take_back(bundle.bytes);
                patience.after(failure, false).await.map_err(resumable)?;
            }
            (Ok(Many::Here(_)), Err(Packing::Closed)) => {
                return Err(Failure::new(
                    Code::Transfer,
                    "the gateway kept files before it had all of them",
                ));
            }
        }
    }
}

fn damaged(name: &str) -> Failure {
    Failure::new(
        Code::Transfer,
        format!("{name} arrived damaged: its SHA-256 at the host is another"),
    )
    .hint("--force sends it again")
}

fn stopped(error: &tokio::task::JoinError) -> Failure {
    Failure::new(Code::Error, format!("the transfer stopped: {error}"))
}

/// Why a tar was not finished.
enum Packing {
    /// A file of this machine could not be read.
    Unreadable(Failure),
    /// Nobody takes it any more.
    Closed,
}

fn write(
    files: &[(PathBuf, String)],
    sender: mpsc::Sender<io::Result<Bytes>>,
    meter: &Meter,
) -> Result<Vec<(u64, String)>, Packing> {
    let mut tar = tar::Builder::new(BufWriter::with_capacity(CHUNK, Pieces(sender)));
    let mut sums = Vec::new();
    for (path, name) in files {
        // Whole in memory: its header says how long it is, and it must not grow between the two.
        let content = std::fs::read(path).map_err(|e| {
            let shown = path.display();
            Packing::Unreadable(Failure::new(
                Code::Transfer,
                format!("could not read {shown}: {e}"),
            ))
        })?;
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_entry_type(tar::EntryType::Regular);
        tar.append_data(&mut header, name, content.as_slice())
            .map_err(|_| Packing::Closed)?;
        meter.add(content.len() as u64);
        sums.push((content.len() as u64, hex::encode(Sha256::digest(&content))));
    }
    let ended = tar.into_inner().and_then(|mut rest| rest.flush());
    ended.map_err(|_| Packing::Closed)?;
    Ok(sums)
}

/// Hands pieces to a connection from a thread that may wait for it.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(piece)));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the wanted files of a tar below a folder, each under the name given for it, each only when its SHA-256 is right. Says
/// which have arrived, also when not all have: those are whole, and stay.
pub async fn unpack(
    answer: Response,
    (place, existing): (&Arc<Destination>, Existing),
    wanted: HashMap<String, String>,
    meter: &Arc<Meter>,
) -> (Vec<Unpacked>, Result<(), Failure>) {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(QUEUE);
    let (place, meter) = (Arc::clone(place), Arc::clone(meter));
    let reader = tokio::task::spawn_blocking(move || {
        let mut arrived = Vec::new();
        let received = Received::new(receiver);
        let outcome = read(
            received,
            (&place, existing),
            (&wanted, &mut arrived),
            &meter,
        );
        (arrived, outcome)
    });
    let mut body = answer.bytes_stream();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|e| io::Error::other(chain(&e)));
        let over = piece.is_err();
        // The reader is gone when it has refused something; it says what.
        if sender.send(piece).await.is_err() || over {
            break;
        }
    }
    drop(sender);
    reader
        .await
        .unwrap_or_else(|e| (Vec::new(), Err(stopped(&e))))
}

fn read(
    body: impl Read,
    (place, existing): (&Destination, Existing),
    (wanted, arrived): (&HashMap<String, String>, &mut Vec<Unpacked>),
    meter: &Meter,
) -> Result<(), Failure> {
    let mut archive = tar::Archive::new(body);
    for entry in archive.entries().map_err(broken_off)? {
        let mut entry = entry.map_err(broken_off)?;
        if entry.header().entry_type() != tar::EntryType::Regular {
            return Err(Failure::new(
                Code::Transfer,
                "the session sent something that is not a file; nothing more was written",
            ));
        }
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap_or_default();
        let name = safe(&name)?.to_owned();
        let Some(local) = wanted.get(&name) else {
            continue;
        };
        let sha256 = announced(&mut entry).map_err(broken_off)?.ok_or_else(|| {
            let message = format!("the gateway sent {name} without its SHA-256");
            Failure::new(Code::Transfer, message).passing()
        })?;
        let part = place.part(local, &sha256)?;
        let length = entry.size();
        match fill(&part, (&name, &sha256, length), &mut entry, meter) {
            Ok(bytes) => {
                part.keep(existing)?;
                arrived.push(Unpacked {
                    name,
                    bytes,
                    sha256,
                });
            }
            Err(failure) => {
                part.forget();
                return Err(failure);
            }
        }
    }
    Ok(())
}

fn broken_off(error: io::Error) -> Failure {
    Failure::new(Code::Transfer, format!("the download broke off: {error}")).passing()
}

fn fill(
    part: &Part<'_>,
    (name, sha256, length): (&str, &str, u64),
    entry: &mut impl Read,
    meter: &Meter,
) -> Result<u64, Failure> {
    let (mut file, ..) = part.so_far(0).map_err(|e| part.failed(&e))?;
    let (mut sum, mut bytes, mut buffer) = (Sha256::new(), 0_u64, vec![0; CHUNK]);
    loop {
        let read = entry.read(&mut buffer).map_err(broken_off)?;
        if read == 0 {
            break;
        }
        sum.update(&buffer[..read]);
        bytes += read as u64;
        file.write_all(&buffer[..read])
            .map_err(|e| part.failed(&e))?;
        meter.add(read as u64);
    }
    // The library takes the end of what it reads from for the end of the entry.
    if bytes < length {
        return Err(broken_off(io::ErrorKind::UnexpectedEof.into()));
    }
    let got = hex::encode(sum.finalize());
    if got == sha256 {
        return Ok(bytes);
    }
    Err(Failure::new(
        Code::Transfer,
        format!("{name} arrived damaged: its SHA-256 is {got}, the host says {sha256}"),
    ))
}

/// The SHA-256 in an entry's own header.
fn announced<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Option<String>> {
    let Some(extensions) = entry.pax_extensions()? else {
        return Ok(None);
    };
    for extension in extensions {
        let extension = extension?;
        if let (Ok(PAX_SHA256), Ok(value)) = (extension.key(), extension.value())
            && value.len() == 64
            && value.bytes().all(|b| b.is_ascii_hexdigit())
        {
            return Ok(Some(value.to_ascii_lowercase()));
        }
    }
    Ok(None)
}

/// Reads what a connection brings, on a thread that may wait for it.
struct Received {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Received {
    fn new(pieces: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self {
            pieces,
            piece: Bytes::new(),
        }
    }
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let taken = self.piece.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&self.piece.split_to(taken));
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::print::Printer;

    /// A tar as the gateway makes it, with or without sums.
    fn tar(entries: &[(&str, &[u8], Option<&str>)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content, sum) in entries {
            let right = hex::encode(Sha256::digest(content));
            let sum = sum.map(|sum| if sum == "right" { right.as_str() } else { sum });
            if let Some(sum) = sum {
                tar.append_pax_extensions([(PAX_SHA256, sum.as_bytes())])
                    .unwrap();
            }
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_entry_type(tar::EntryType::Regular);
            // As a hostile host would write it, past the library's own checks.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, *content).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn unpacked(tar: &[u8], folder: &std::path::Path) -> (Vec<String>, Result<(), Failure>) {
        let place = Destination::open(folder).unwrap();
        let meter = Meter::new(&Arc::new(Printer::new()), "test");
        let wanted = ["a", "d/b", "../c"].map(|name| (name.to_owned(), name.to_owned()));
        let mut arrived = Vec::new();
        let wanted = (&wanted.into(), &mut arrived);
        let outcome = read(tar, (&place, Existing::Refuse), wanted, &meter);
        (arrived.into_iter().map(|file| file.name).collect(), outcome)
    }

    #[test]
    fn wanted_files_are_written_and_the_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let right = Some("right");
        let tar = tar(&[("a", b"1", right), ("x", b"2", right), ("d/b", b"3", right)]);
        let expected = ["a", "d/b"].map(str::to_owned).to_vec();
        assert_eq!(unpacked(&tar, folder.path()), (expected, Ok(())));
        assert_eq!(std::fs::read(folder.path().join("d/b")).unwrap(), b"3");
        assert!(!folder.path().join("x").exists());
    }

    #[test]
    fn a_name_that_leaves_the_folder_is_refused_and_nothing_is_written() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("inner");
        let hostile = tar(&[("../c", b"1", Some("right"))]);
        assert!(unpacked(&hostile, &folder).1.is_err());
        assert!(!parent.path().join("c").exists());
        assert_eq!(folder.read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_file_gets_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let wrong = "0".repeat(64);
        let (arrived, outcome) = unpacked(&tar(&[("a", b"1", Some(&wrong))]), folder.path());
        assert_eq!(arrived, Vec::<String>::new());
        assert!(!outcome.unwrap_err().passing);
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn without_sums_files_are_fetched_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let (_, outcome) = unpacked(&tar(&[("a", b"1", None)]), folder.path());
        assert!(outcome.unwrap_err().passing);
    }

    #[test]
    fn a_tar_that_breaks_off_leaves_no_half_file() {
        let folder = tempfile::tempdir().unwrap();
        let tar = tar(&[
            ("a", b"1", Some("right")),
            ("d/b", &[7; 5000], Some("right")),
        ]);
        let (arrived, outcome) = unpacked(&tar[..tar.len() - 4000], folder.path());
        assert_eq!(arrived, ["a"]);
        assert!(outcome.unwrap_err().passing);
        assert_eq!(folder.path().join("d").read_dir().unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_packed_is_a_tar_with_long_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        let long = format!("{}/x", "d".repeat(200));
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        let (files, expected) = (vec![(path, long.clone())], long);
        let meter = Meter::new(&Arc::new(Printer::new()), "test");
        let packed = tokio::task::spawn_blocking(move || write(&files, sender, &meter).ok());
        let mut bytes = Vec::new();
        while let Some(piece) = receiver.recv().await {
            bytes.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(packed.await.unwrap().unwrap()[0].0, 3);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str().unwrap(), expected);
    }
}
