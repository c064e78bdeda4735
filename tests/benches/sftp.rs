//! Our transfers beside OpenSSH's `sftp`, its peer: the same sshd, the same cipher, the same files, the same way between, and both
//! from the first connect to the last byte. `cargo bench -p srchat-tests --bench sftp`. Distance is made by a relay on loopback that
//! holds every byte for half of the round trip, for both alike: kernels that can delay packets want privileges for it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;
use srchat_operator::ssh::{HostKey, KeyPair, Range, Sftp, Target, Tuning, connect_tuned};
use srchat_tests::hosts::{HostSpec, Hosts, Image, Machine};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What both ask for.
const CIPHER: &str = "aes128-gcm@openssh.com";
/// Rounds of each; the middle one counts.
const ROUNDS: usize = 5;
/// Channels of a large upload, as the gateway opens them.
const CHANNELS: usize = 4;
/// Goals of the design: round trip in milliseconds, times as fast as the peer.
const GOALS: [(u64, f64); 3] = [(0, 1.3), (20, 2.0), (100, 3.0)];

const SSHD: &str = r#"
set -eu
root=$SRCHAT_ROOT
mkdir -p "$root"
ssh-keygen -q -t ed25519 -N '' -C '' -f "$root/key"
printf '%s\n' "$TEST_KEY" >"$root/authorized"
for place in /usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server /usr/lib/ssh/sftp-server /usr/libexec/sftp-server; do
	[ -x "$place" ] && server=$place
done
cat >"$root/config" <<END
ListenAddress $SRCHAT_SSH_LISTEN
HostKey $root/key
AuthorizedKeysFile $root/authorized
PidFile $root/pid
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp $server
END
[ "$(id -u)" != 0 ] || install -d -m 755 /run/sshd
$(command -v sshd || echo /usr/sbin/sshd) -D -e -f "$root/config" &
while [ ! -s "$root/pid" ]; do sleep 0.01; done
echo "HOST $(cut -d' ' -f1,2 "$root/key.pub")"
wait
"#;

struct Peers {
    target: Target,
    folder: tempfile::TempDir,
    _machine: Machine,
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let peers = Peers::start().await;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load before: {}", load.trim());
    println!(
        "{:>8} {:>5} {:9} {:>12} {:>12} {:>12} {:>7} {:>6}",
        "RTT ms", "MiB", "", "sftp MiB/s", "ours MiB/s", "one channel", "ratio", "goal"
    );
    for (round_trip, goal) in GOALS {
        let size = if round_trip == 0 { 256 } else { 96 } << 20;
        let address = match round_trip {
            0 => peers.target.address.clone(),
            _ => delayed(&peers.target.address, Duration::from_millis(round_trip) / 2).await,
        };
        for upload in [true, false] {
            let (mut theirs, mut ours, mut single) = (Vec::new(), Vec::new(), Vec::new());
            // In turns, so that whatever else the machine does falls on all of them.
            for _ in 0..ROUNDS {
                theirs.push(peers.openssh(&address, upload, size).await);
                ours.push(peers.ours(&address, upload, size, CHANNELS).await);
                if upload {
                    single.push(peers.ours(&address, upload, size, 1).await);
                }
            }
            let speed = |times: &mut Vec<Duration>| {
                times.sort_unstable();
                let middle = times.get(times.len() / 2)?;
                Some(size as f64 / f64::from(1 << 20) / middle.as_secs_f64())
            };
            let (theirs, ours) = (speed(&mut theirs).unwrap(), speed(&mut ours).unwrap());
            let single = speed(&mut single).map_or(String::new(), |speed| format!("{speed:.1}"));
            println!(
                "{round_trip:8} {:5} {:9} {theirs:12.1} {ours:12.1} {single:>12} {:7.2} {goal:6.1}",
                size >> 20,
                if upload { "upload" } else { "download" },
                ours / theirs
            );
        }
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load after: {}", load.trim());
}

impl Peers {
    async fn start() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut machine = Hosts::Process
            .start(HostSpec {
                pod_id: "sftp".to_owned(),
                image: Image::default(),
                argv: ["sh", "-c", SSHD].map(str::to_owned).to_vec(),
                env: [("TEST_KEY".to_owned(), key.public_line())].into(),
                reach: Vec::new(),
            })
            .await
            .unwrap();
        let pin: HostKey = loop {
            let line = machine.output.recv().await.expect("sshd starts");
            if let Some(key) = line.strip_prefix("HOST ") {
                break key.parse().unwrap();
            }
        };
        // Memory, so that no disk is measured.
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let target = Target {
            address: machine.ssh_address().to_string(),
            pin,
            user: machine.isolation().host_user().unwrap(),
            key,
        };
        let path = folder.path().join("key");
        std::fs::write(&path, target.key.to_openssh().expose_secret()).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        Self {
            target,
            folder,
            _machine: machine,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The file to move, and where to; checked afterwards.
    fn files(&self, size: usize) -> (PathBuf, PathBuf) {
        let (from, to) = (self.path("from"), self.path("to"));
        if std::fs::metadata(&from).map_or(true, |about| about.len() != size as u64) {
            let mut bytes = vec![0; size];
            let mut state = 0x2545_f491_4f6c_dd1d_u64;
            for word in bytes.chunks_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
            }
            std::fs::write(&from, bytes).unwrap();
        }
        // Each writes a file of its own, never over another's pages.
        let _ = std::fs::remove_file(&to);
        (from, to)
    }

    async fn openssh(&self, address: &str, upload: bool, size: usize) -> Duration {
        let (from, to) = self.files(size);
        let (host, port) = address.rsplit_once(':').unwrap();
        let known = self.path("known");
        std::fs::write(&known, format!("[{host}]:{port} {}\n", self.target.pin)).unwrap();
        let batch = self.path("batch");
        let verb = if upload { "put" } else { "get" };
        let line = format!("{verb} {} {}\n", from.display(), to.display());
        std::fs::write(&batch, line).unwrap();
        let mut command = Command::new("sftp");
        command
            .args(["-q", "-F", "none", "-o", "BatchMode=yes", "-c", CIPHER])
            .args(["-P", port, "-b"])
            .arg(&batch)
            .arg("-i")
            .arg(self.path("key"))
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", known.display()))
            .arg(format!("{}@{host}", self.target.user))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let begun = Instant::now();
        let ran = tokio::task::spawn_blocking(move || command.status().unwrap());
        assert!(ran.await.unwrap().success());
        let took = begun.elapsed();
        same(&from, &to);
        took
    }

    async fn ours(&self, address: &str, upload: bool, size: usize, channels: usize) -> Duration {
        let (from, to) = self.files(size);
        let target = Target {
            address: address.to_owned(),
            ..self.target.clone()
        };
        let begun = Instant::now();
        let connection = connect_tuned(&target, Tuning::BULK).await.unwrap();
        if upload {
            let opening = (0..channels).map(|_| connection.sftp());
            let sessions: Vec<Sftp> = futures::future::try_join_all(opening).await.unwrap();
            let sessions: Vec<&Sftp> = sessions.iter().collect();
            let source = tokio::fs::File::open(&from).await.unwrap();
            let moved = Sftp::write_over(&sessions, to.to_str().unwrap(), 0, source, &|_| {}).await;
            assert_eq!(moved.unwrap().bytes, size as u64);
        } else {
            let sftp = connection.sftp().await.unwrap();
            let sink = tokio::fs::File::create(&to).await.unwrap();
            let path = from.to_str().unwrap();
            let moved = sftp.read(path, Range::ALL, sink, &|_| {}).await.unwrap();
            assert_eq!(moved.bytes, size as u64);
        }
        connection.close().await;
        let took = begun.elapsed();
        same(&from, &to);
        took
    }
}

fn same(one: &Path, other: &Path) {
    assert!(std::fs::read(one).unwrap() == std::fs::read(other).unwrap());
}

/// A way to an address on which every byte takes this long, in either direction. On a thread of its own.
async fn delayed(to: &str, delay: Duration) -> String {
    let to = to.to_owned();
    let (sender, address) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&to).await.unwrap();
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                tokio::spawn(carry(near_read, far_write, delay));
                tokio::spawn(carry(far_read, near_write, delay));
            }
        });
    });
    address.await.unwrap().to_string()
}

/// A pipe as long as it is wide: it takes all that is sent, and gives each byte when its time has come.
async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    delay: Duration,
) {
    let (sender, mut queue) = mpsc::unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
    let reading = async move {
        loop {
            let mut piece = Vec::with_capacity(256 << 10);
            match from.read_buf(&mut piece).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {
                    let due = tokio::time::Instant::now() + delay;
                    if sender.send((due, piece)).is_err() {
                        break;
                    }
                }
            }
        }
    };
    let writing = async move {
        while let Some((due, piece)) = queue.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                break;
            }
        }
        // The other side may have gone first.
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}
