//! Our transfers beside OpenSSH's `sftp`, its peer: the same sshd, the same cipher, the same files, the same way between, and both
//! from the first connect to the last byte; ours computes the SHA-256 as well. Distance is made by a relay on loopback that holds
//! every byte for half of the round trip, for both alike: kernels that can delay packets want privileges for it.
//!
//! `cargo bench -p srchat-tests --bench sftp`, some two minutes. A JSON line for each measurement:
//!
//! - `openssh`, `ours`: MiB/s, the middle of `rounds` taken in turns; `ratio`: ours by theirs; `goal`: what it is to reach
//! - `channels`: over how many channels we wrote, chosen by the round trip as the gateway chooses
//! - `openssh_cpu`, `ours_cpu`: milliseconds of processor time for a MiB, both ends together: what the speed comes to where other
//!   programs want the machine too
//! - `load`: the machine's load before the measurement; ratios are worth something where it is far below the number of cores
//!
//! `-- 20` measures at a round trip of 20 ms alone.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;
use serde_json::json;
use srchat_operator::ssh::{Range, Target, Tuning, connect_tuned};
use srchat_tests::hosts::Hosts;
use srchat_tests::sshd::{Sshd, Talk};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What both ask for.
const CIPHER: &str = "aes128-gcm@openssh.com";

/// One distance.
struct Distance {
    /// The round trip in milliseconds.
    round_trip: u64,
    /// How many times as fast as the peer we are to be.
    goal: f64,
    mebibytes: usize,
    /// Of each; the middle one counts.
    rounds: usize,
}

const DISTANCES: [Distance; 3] = [
    Distance {
        round_trip: 0,
        goal: 1.3,
        mebibytes: 256,
        rounds: 9,
    },
    Distance {
        round_trip: 20,
        goal: 2.0,
        mebibytes: 96,
        rounds: 5,
    },
    Distance {
        round_trip: 100,
        goal: 3.0,
        mebibytes: 96,
        rounds: 3,
    },
];

fn main() {
    let only: Option<u64> = std::env::args().find_map(|argument| argument.parse().ok());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let peers = Peers::start().await;
        for distance in DISTANCES {
            if only.is_none_or(|only| only == distance.round_trip) {
                peers.measure(&distance).await;
            }
        }
    });
}

/// A run of either.
struct Run {
    took: Duration,
    /// Of both ends.
    processor: Duration,
    channels: usize,
}

struct Peers {
    sshd: Sshd,
    /// Without anything in between.
    address: SocketAddr,
    /// sshd's process.
    server: u32,
    folder: tempfile::TempDir,
}

impl Peers {
    async fn start() -> Self {
        let sshd = Sshd::start(Hosts::Process, Talk::Faults).await.unwrap();
        let (address, server) = sshd.bare.unwrap();
        // Memory, so that no disk is measured.
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, sshd.target.key.to_openssh().expose_secret()).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        Self {
            sshd,
            address,
            server,
            folder,
        }
    }

    async fn measure(&self, distance: &Distance) {
        let &Distance {
            round_trip,
            goal,
            mebibytes,
            rounds,
        } = distance;
        let address = match round_trip {
            0 => self.address,
            _ => delayed(self.address, Duration::from_millis(round_trip) / 2).await,
        };
        let address = address.to_string();
        for upload in [true, false] {
            let load = std::fs::read_to_string("/proc/loadavg").unwrap();
            let (mut theirs, mut ours) = (Vec::new(), Vec::new());
            // In turns, so that whatever else the machine does falls on both.
            for _ in 0..rounds {
                theirs.push(self.openssh(&address, upload, mebibytes << 20).await);
                ours.push(self.ours(&address, upload, mebibytes << 20).await);
            }
            let channels = ours.iter().map(|run| run.channels).max();
            let (theirs, ours) = (Middle::of(theirs), Middle::of(ours));
            let speed = |middle: &Middle| mebibytes as f64 / middle.took.as_secs_f64();
            let cost = |middle: &Middle| middle.processor.as_secs_f64() * 1e3 / mebibytes as f64;
            let ratio = speed(&ours) / speed(&theirs);
            println!(
                "{}",
                json!({
                    "bench": "sftp",
                    "direction": if upload { "upload" } else { "download" },
                    "round_trip_ms": round_trip,
                    "mib": mebibytes,
                    "rounds": rounds,
                    "openssh": rounded(speed(&theirs)),
                    "ours": rounded(speed(&ours)),
                    "ratio": rounded(ratio),
                    "goal": goal,
                    "met": ratio >= goal,
                    "channels": channels,
                    "openssh_cpu": rounded(cost(&theirs)),
                    "ours_cpu": rounded(cost(&ours)),
                    "load": load.split(' ').next(),
                })
            );
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

    async fn openssh(&self, address: &str, upload: bool, size: usize) -> Run {
        let (from, to) = self.files(size);
        let (host, port) = address.rsplit_once(':').unwrap();
        let known = self.path("known");
        let pin = self.sshd.target.pin;
        std::fs::write(&known, format!("[{host}]:{port} {pin}\n")).unwrap();
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
            .arg(format!("{}@{host}", self.sshd.target.user))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let clock = Clock::start(self.server);
        let ran = tokio::task::spawn_blocking(move || command.status().unwrap());
        assert!(ran.await.unwrap().success());
        let run = clock.stop(1);
        same(&from, &to);
        run
    }

    async fn ours(&self, address: &str, upload: bool, size: usize) -> Run {
        let (from, to) = self.files(size);
        let target = Target {
            address: address.to_owned(),
            ..self.sshd.target.clone()
        };
        let clock = Clock::start(self.server);
        let connection = connect_tuned(&target, Tuning::BULK).await.unwrap();
        let sftp = connection.sftp().await.unwrap();
        let mut channels = 1;
        if upload {
            channels = sftp.stripes();
            let source = tokio::fs::File::open(&from).await.unwrap();
            let path = to.to_str().unwrap();
            let moved = sftp.write_over(channels, path, 0, source, &|_| {}).await;
            assert_eq!(moved.unwrap().bytes, size as u64);
        } else {
            let sink = tokio::fs::File::create(&to).await.unwrap();
            let path = from.to_str().unwrap();
            let moved = sftp.read(path, Range::ALL, sink, &|_| {}).await.unwrap();
            assert_eq!(moved.bytes, size as u64);
        }
        connection.close().await;
        let run = clock.stop(channels);
        same(&from, &to);
        run
    }
}

/// The middle of several runs, in time and in processor time.
struct Middle {
    took: Duration,
    processor: Duration,
}

impl Middle {
    fn of(runs: Vec<Run>) -> Self {
        let middle = |of: fn(&Run) -> Duration| {
            let mut times: Vec<_> = runs.iter().map(of).collect();
            times.sort_unstable();
            times[times.len() / 2]
        };
        Self {
            took: middle(|run| run.took),
            processor: middle(|run| run.processor),
        }
    }
}

fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// Time, and the processor time of the programs at both ends.
struct Clock {
    begun: Instant,
    processor: Duration,
    server: u32,
}

impl Clock {
    fn start(server: u32) -> Self {
        Self {
            begun: Instant::now(),
            processor: processor(server),
            server,
        }
    }

    fn stop(self, channels: usize) -> Run {
        let took = self.begun.elapsed();
        // The server's processes for this connection are counted once they are gone, a moment after we are.
        std::thread::sleep(Duration::from_millis(100));
        Run {
            took,
            processor: processor(self.server).saturating_sub(self.processor),
            channels,
        }
    }
}

/// What we, the peer and the server have used so far, children that have ended included.
fn processor(server: u32) -> Duration {
    // Linux counts in hundredths of a second towards programs, whatever it does inside.
    const TICK: Duration = Duration::from_millis(10);
    let ticks = |process: &str| -> u32 {
        let line = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        let (_, fields) = line.rsplit_once(')').unwrap();
        // utime, stime, cutime, cstime: the 14th and on, of which two stand before the bracket.
        let times = fields.split_whitespace().skip(11).take(4);
        times.map(|time| time.parse::<u32>().unwrap()).sum()
    };
    TICK * (ticks("self") + ticks(&server.to_string()))
}

fn same(one: &Path, other: &Path) {
    assert!(std::fs::read(one).unwrap() == std::fs::read(other).unwrap());
}

/// A way to an address on which every byte takes this long, in either direction. On a thread of its own.
async fn delayed(to: SocketAddr, delay: Duration) -> SocketAddr {
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
                let far = TcpStream::connect(to).await.unwrap();
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                tokio::spawn(carry(near_read, far_write, delay));
                tokio::spawn(carry(far_read, near_write, delay));
            }
        });
    });
    address.await.unwrap()
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
