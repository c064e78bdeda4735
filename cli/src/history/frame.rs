//! One record of a conversation on disk: framed so that a reader finds the next one after any damage, sealed with
//! AES-256-GCM so that nothing in it can be read, changed, moved or put into another conversation. Pure.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | mark: where a record begins; no UTF-8 text contains it |
//! | 1 | version of this format |
//! | 8 | which key: derived from it, tells a wrong key from damage |
//! | 8 | conversation |
//! | 16 | binding: SHA-256 of the conversation's header (model, session UID), cut |
//! | 8 | sequence number, from 0, big-endian |
//! | 4 | length of what follows the nonce, big-endian |
//! | 12 | nonce, fresh for each record |
//! | n | ciphertext and tag |
//!
//! All fields between mark and nonce are authenticated with the ciphertext. The conversation's key is
//! HKDF-SHA-256 of the key file with the conversation as salt.

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use memchr::memmem::Finder;
use secrecy::{ExposeSecret as _, SecretBox};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// The version that this program writes, and the only one it reads.
pub const VERSION: u8 = 1;
/// Longer than any turn of a chat; a length beyond it is damage.
const LONGEST: usize = 256 << 20;

const MARK: [u8; 8] = [0xf5, b'S', b'R', b'C', b'H', 0xc1, 0x0d, 0x0a];
const BOUND: std::ops::Range<usize> = 8..53;
const HEAD: usize = 65;

/// The 32 bytes of the key file.
pub type Master = SecretBox<[u8; 32]>;
/// Names a conversation: 8 random bytes, the file's name in hex.
pub type Conversation = [u8; 8];
/// What ties every record to its conversation's header.
pub type Binding = [u8; 16];

/// Seals the records of one conversation.
pub struct Sealer {
    cipher: Aes256Gcm,
    key_id: [u8; 8],
    conversation: Conversation,
    binding: Binding,
}

impl Sealer {
    /// For a conversation whose first record, sequence number 0, is `header`.
    pub fn new(master: &Master, conversation: Conversation, header: &[u8]) -> Self {
        Self {
            cipher: cipher(master, conversation),
            key_id: key_id(master),
            conversation,
            binding: binding(header),
        }
    }

    /// The bytes to append to the file.
    ///
    /// # Errors
    /// When the system gives no random numbers, or the record is longer than 256 MiB.
    pub fn seal(&self, sequence: u64, plain: &[u8]) -> std::io::Result<Vec<u8>> {
        if plain.len() + 16 > LONGEST {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        let mut nonce = [0; 12];
        getrandom::fill(&mut nonce).map_err(std::io::Error::other)?;
        let length = u32::try_from(plain.len() + 16).map_err(std::io::Error::other)?;
        let mut frame = Vec::with_capacity(HEAD + plain.len() + 16);
        frame.extend_from_slice(&MARK);
        frame.push(VERSION);
        frame.extend_from_slice(&self.key_id);
        frame.extend_from_slice(&self.conversation);
        frame.extend_from_slice(&self.binding);
        frame.extend_from_slice(&sequence.to_be_bytes());
        frame.extend_from_slice(&length.to_be_bytes());
        let payload = Payload {
            msg: plain,
            aad: &frame[BOUND],
        };
        let sealed = self.cipher.encrypt(&Nonce::from(nonce), payload);
        let sealed = sealed.map_err(|_| std::io::Error::other("AES-GCM refused the record"))?;
        frame.extend_from_slice(&nonce);
        frame.extend_from_slice(&sealed);
        Ok(frame)
    }
}

/// What a file gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The records in order, each with its sequence number.
    pub records: Vec<(u64, Zeroizing<Vec<u8>>)>,
    /// Records that are missing or damaged, as far as can be told.
    pub lost: u64,
    /// Something in it was written by a newer version.
    pub newer: bool,
    /// Something in it was sealed with another key.
    pub foreign_key: bool,
    /// Bytes of the file.
    pub size: usize,
}

impl Opened {
    /// The sequence number for the next record.
    pub fn next(&self) -> u64 {
        self.records.last().map_or(0, |(sequence, _)| sequence + 1)
    }
}

/// Reads all records of a file that are whole, belong to this conversation and come in their order.
pub fn open(bytes: &[u8], master: &Master, conversation: Conversation) -> Opened {
    let (cipher, key_id) = (cipher(master, conversation), key_id(master));
    let finder = Finder::new(&MARK);
    let mut opened = Opened {
        size: bytes.len(),
        ..Opened::default()
    };
    let (mut at, mut end, mut bound) = (0, 0, None);
    while let Some(found) = finder.find(&bytes[at..]) {
        at += found;
        let Some(frame) = Frame::at(&bytes[at..]) else {
            at += MARK.len();
            continue;
        };
        opened.newer |= frame.version > VERSION;
        opened.foreign_key |= frame.version == VERSION && frame.key_id != key_id;
        let ours = frame.version == VERSION
            && frame.conversation == conversation
            && bound.is_none_or(|bound| bound == frame.binding)
            && frame.sequence >= opened.next();
        let plain = ours.then(|| frame.open(&cipher)).flatten();
        let Some(plain) =
            plain.filter(|plain| frame.sequence > 0 || binding(plain) == frame.binding)
        else {
            at += MARK.len();
            continue;
        };
        // A gap says how many are missing; without one, what was skipped is no record of ours.
        opened.lost += frame.sequence - opened.next();
        bound = Some(frame.binding);
        opened.records.push((frame.sequence, plain));
        end = at + frame.length;
        // A record torn within its last bytes is whole again where the next one's mark happens to begin with
        // just these bytes; that mark is then partly behind us. In a file that was never torn none is found
        // there: a mark's first byte does not occur in it again.
        at = end - (MARK.len() - 1);
    }
    // How many records were lost at the end cannot be told: at least one.
    opened.lost += u64::from(end < bytes.len());
    opened
}

/// A record's fields as they stand in the file, nothing verified.
struct Frame<'a> {
    version: u8,
    key_id: [u8; 8],
    conversation: Conversation,
    binding: Binding,
    sequence: u64,
    bound: &'a [u8],
    nonce: [u8; 12],
    sealed: &'a [u8],
    /// Bytes of the whole frame.
    length: usize,
}

impl<'a> Frame<'a> {
    fn at(bytes: &'a [u8]) -> Option<Self> {
        let head = bytes.get(..HEAD)?;
        let length = u32::from_be_bytes(head[49..53].try_into().ok()?) as usize;
        if length > LONGEST {
            return None;
        }
        Some(Self {
            version: head[8],
            key_id: head[9..17].try_into().ok()?,
            conversation: head[17..25].try_into().ok()?,
            binding: head[25..41].try_into().ok()?,
            sequence: u64::from_be_bytes(head[41..49].try_into().ok()?),
            bound: &head[BOUND],
            nonce: head[53..65].try_into().ok()?,
            sealed: bytes.get(HEAD..HEAD + length)?,
            length: HEAD + length,
        })
    }

    fn open(&self, cipher: &Aes256Gcm) -> Option<Zeroizing<Vec<u8>>> {
        let payload = Payload {
            msg: self.sealed,
            aad: self.bound,
        };
        let plain = cipher.decrypt(&Nonce::from(self.nonce), payload);
        plain.ok().map(Zeroizing::new)
    }
}

fn cipher(master: &Master, conversation: Conversation) -> Aes256Gcm {
    let key = derived::<32>(master, &conversation, b"srchat history v1 conversation");
    Aes256Gcm::new((&*key).into())
}

fn key_id(master: &Master) -> [u8; 8] {
    *derived::<8>(master, b"", b"srchat history v1 key id")
}

fn derived<const N: usize>(master: &Master, salt: &[u8], info: &[u8]) -> Zeroizing<[u8; N]> {
    let mut key = Zeroizing::new([0; N]);
    Hkdf::<Sha256>::new(Some(salt), master.expose_secret())
        .expand(info, &mut *key)
        .expect("HKDF-SHA-256 gives up to 8160 bytes");
    key
}

fn binding(header: &[u8]) -> Binding {
    let digest = Sha256::digest(header);
    let mut binding = Binding::default();
    binding.copy_from_slice(&digest[..16]);
    binding
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const ID: Conversation = *b"a chat..";

    fn master(fill: u8) -> Master {
        SecretBox::new(Box::new([fill; 32]))
    }

    /// A file of these records, and where each begins.
    fn file(records: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
        let sealer = Sealer::new(&master(1), ID, &records[0]);
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for (sequence, plain) in records.iter().enumerate() {
            starts.push(bytes.len());
            bytes.extend(sealer.seal(sequence as u64, plain).unwrap());
        }
        (bytes, starts)
    }

    fn plain(opened: &Opened) -> Vec<Vec<u8>> {
        let records = opened.records.iter();
        records.map(|(_, plain)| plain.to_vec()).collect()
    }

    fn some() -> Vec<Vec<u8>> {
        [&b"header"[..], b"one", b"two", b"three"]
            .map(<[u8]>::to_vec)
            .to_vec()
    }

    #[test]
    fn a_wrong_key_opens_nothing_and_is_told_from_damage() {
        let opened = open(&file(&some()).0, &master(2), ID);
        assert_eq!(plain(&opened), Vec::<Vec<u8>>::new());
        assert!(opened.foreign_key && !opened.newer);
    }

    #[test]
    fn a_newer_version_is_seen() {
        let (mut bytes, starts) = file(&some());
        for start in starts {
            bytes[start + 8] = VERSION + 1;
        }
        let opened = open(&bytes, &master(1), ID);
        assert!(opened.newer && opened.records.is_empty());
    }

    #[test]
    fn records_that_were_moved_repeated_or_brought_from_elsewhere_are_not_shown() {
        let (bytes, starts) = file(&some());
        let part = |n: usize| &bytes[starts[n]..starts.get(n + 1).copied().unwrap_or(bytes.len())];
        let swapped = [part(0), part(2), part(1), part(3)].concat();
        assert_eq!(
            plain(&open(&swapped, &master(1), ID)),
            [&b"header"[..], b"two", b"three"]
        );
        let repeated = [part(0), part(1), part(1), part(2), part(3)].concat();
        assert_eq!(plain(&open(&repeated, &master(1), ID)), some());
        let elsewhere = Sealer::new(&master(1), *b"another.", b"header");
        let spliced = [part(0), &elsewhere.seal(1, b"evil").unwrap(), part(1)].concat();
        assert_eq!(
            plain(&open(&spliced, &master(1), ID)),
            [&b"header"[..], b"one"]
        );
        let other_model = Sealer::new(&master(1), ID, b"another header");
        let spliced = [part(0), &other_model.seal(1, b"evil").unwrap(), part(1)].concat();
        assert_eq!(
            plain(&open(&spliced, &master(1), ID)),
            [&b"header"[..], b"one"]
        );
    }

    #[test]
    fn a_torn_record_that_the_next_ones_mark_completes_costs_neither() {
        let sealer = Sealer::new(&master(1), ID, b"header");
        let ends_like_a_mark = |sealed: &Vec<u8>| sealed.last() == Some(&MARK[0]);
        let torn = std::iter::repeat_with(|| sealer.seal(1, b"one").unwrap());
        let mut torn = torn.take(100_000).find(ends_like_a_mark).unwrap();
        torn.pop();
        let header = sealer.seal(0, b"header").unwrap();
        let file = [header, torn, sealer.seal(2, b"two").unwrap()].concat();
        let opened = open(&file, &master(1), ID);
        assert_eq!(plain(&opened), [&b"header"[..], b"one", b"two"]);
        assert_eq!(opened.lost, 0);
    }

    #[test]
    fn no_two_records_share_a_nonce() {
        let sealer = Sealer::new(&master(1), ID, b"");
        let nonces = (0..1000).map(|_| sealer.seal(1, b"same").unwrap()[53..65].to_vec());
        assert_eq!(nonces.collect::<std::collections::HashSet<_>>().len(), 1000);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..8)) {
            let opened = open(&file(&records).0, &master(1), ID);
            prop_assert_eq!(plain(&opened), records);
            prop_assert_eq!(opened.lost, 0);
        }

        #[test]
        fn a_flipped_bit_costs_its_record_and_no_other(bit in 0_usize..4096) {
            let records = some();
            let (mut bytes, starts) = file(&records);
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let hit = starts.iter().rposition(|start| *start <= bit / 8).unwrap();
            let mut rest = records;
            rest.remove(hit);
            let opened = open(&bytes, &master(1), ID);
            prop_assert_eq!(plain(&opened), rest);
            prop_assert_eq!(opened.lost, 1);
        }

        #[test]
        fn a_torn_tail_costs_the_torn_record(cut in 0_usize..400) {
            let records = some();
            let (mut bytes, starts) = file(&records);
            bytes.truncate(cut);
            let whole = starts.iter().skip(1).chain([&(file(&records).0.len())]).filter(|end| **end <= bytes.len()).count();
            prop_assert_eq!(plain(&open(&bytes, &master(1), ID)), &records[..whole]);
            // What is appended after the torn record is read.
            let sealer = Sealer::new(&master(1), ID, &records[0]);
            bytes.extend(sealer.seal(9, b"later").unwrap());
            let opened = open(&bytes, &master(1), ID);
            prop_assert_eq!(opened.records.last().unwrap().1.as_slice(), b"later");
        }

        #[test]
        fn foreign_bytes_never_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..300) {
            let _ = open(&bytes, &master(1), ID);
            let (mut whole, _) = file(&some());
            let at = at.min(whole.len());
            whole.splice(at..at, bytes);
            let _ = open(&whole, &master(1), ID);
        }
    }
}
