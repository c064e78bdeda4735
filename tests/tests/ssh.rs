//! SSH against a real OpenSSH server: commands, forwards, files; what is refused; and that one slow reader harms nobody else.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::time::Duration;

use sha2::{Digest, Sha256};
use srchat_operator::ssh::{
    Bounds, Connection, EntryKind, Error, KeyPair, Link, Range, Sftp, SftpError, Target, Tuning,
    connect, connect_tuned,
};
use srchat_tests::eventually::eventually;
use srchat_tests::hosts::Hosts;
use srchat_tests::sshd::{Sshd, Talk};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn server() -> Sshd {
    let hosts = Hosts::real().await.unwrap();
    Sshd::start(hosts, Talk::Everything).await.unwrap()
}

/// A connection for files, and a folder on the host.
async fn bulk(server: &Sshd) -> (Connection, String) {
    let connection = connect_tuned(&server.target, Tuning::BULK).await.unwrap();
    let folder = say(&connection, "mktemp -d").await.trim().to_owned();
    (connection, folder)
}

async fn say(connection: &Connection, command: &str) -> String {
    let output = connection.exec(command, &[], &Bounds::SHORT).await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn noise(size: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_gets_its_input_and_gives_all_that_it_said() {
    let server = server().await;
    let connection = connect(&server.target).await.unwrap();
    let input = noise(3 << 20);
    let bounds = Bounds {
        stdout: 4 << 20,
        ..Bounds::SHORT
    };
    let output = connection
        .exec("cat; echo done >&2; exit 7", &input, &bounds)
        .await
        .unwrap();
    assert_eq!(output.status, 7);
    // A talkative sshd writes there as well.
    assert!(output.stderr.ends_with(b"done\n"));
    assert!(output.stdout == input, "what came back is what was sent");

    let output = connection
        .exec("exit 3", &input, &Bounds::SHORT)
        .await
        .unwrap();
    assert_eq!(
        output.status, 3,
        "input that nobody reads is no failure of ours"
    );
    let killed = connection
        .exec("kill -9 $$", &[], &Bounds::SHORT)
        .await
        .unwrap();
    assert_eq!(killed.status, 255);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_bounded_in_size_and_time() {
    let server = server().await;
    let connection = connect(&server.target).await.unwrap();
    let bounds = Bounds {
        stdout: 1000,
        ..Bounds::SHORT
    };
    let endless = connection.exec("yes", &[], &bounds).await;
    assert!(matches!(endless, Err(Error::TooMuch(1000))), "{endless:?}");
    let bounds = Bounds {
        time: Duration::from_millis(300),
        ..Bounds::SHORT
    };
    let slow = connection
        .exec("echo begun; exec sleep 30", &[], &bounds)
        .await;
    assert!(matches!(slow, Err(Error::TooSlow(_))), "{slow:?}");
    assert_eq!(say(&connection, "echo still here").await, "still here\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_key_is_refused_before_anything_of_ours_is_sent() {
    let server = server().await;
    let wrong = Target {
        pin: KeyPair::generate().unwrap().public(),
        ..server.target.clone()
    };
    let Err(Error::KeyMismatch { pinned, found }) = connect(&wrong).await else {
        panic!("a foreign key was accepted");
    };
    assert_eq!(pinned, wrong.pin.fingerprint());
    assert_eq!(found, server.target.pin.fingerprint());
    server.logs("Connection closed by").await;
    // The server never heard who we are; when it does, it says so.
    assert!(server.logged("userauth-request").is_err());
    connect(&server.target).await.unwrap();
    server.logs("userauth-request").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_admitted_is_told_from_a_host_that_is_not_there() {
    let server = server().await;
    let stranger = Target {
        key: KeyPair::generate().unwrap(),
        ..server.target.clone()
    };
    assert!(matches!(
        connect(&stranger).await,
        Err(Error::NotAdmitted { .. })
    ));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let nowhere = Target {
        address: nobody.to_string(),
        ..server.target.clone()
    };
    assert!(matches!(
        connect(&nowhere).await,
        Err(Error::Unreachable { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_ciphers_strict_key_exchange_and_no_compression_are_agreed_on() {
    let server = server().await;
    let connection = connect(&server.target).await.unwrap();
    say(&connection, "true").await;
    server
        .logs(
            "kex: client->server cipher: aes128-gcm@openssh.com MAC: <implicit> compression: none",
        )
        .await;
    server.logs("kex: host key algorithm: ssh-ed25519").await;
    server.logs("will use strict KEX ordering").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_travel_both_ways_unchanged_and_go_on_where_they_broke_off() {
    let server = server().await;
    let (connection, folder) = bulk(&server).await;
    let sftp = connection.sftp().await.unwrap();
    let content = noise((5 << 20) + 12_345);
    let sum = hex::encode(Sha256::digest(&content));

    // The source breaks in the middle; what had come over stays, and the rest follows.
    let part = format!("{folder}/.part");
    let broken = content[..2 << 20].chain(Breaks);
    let failed = sftp.write(&part, 0, broken, &|_| ()).await;
    assert!(matches!(failed, Err(SftpError::Local(_))), "{failed:?}");
    let there = usize::try_from(sftp.look(&part).await.unwrap().size).unwrap();
    let reported = Mutex::new(Vec::new());
    let progress = |bytes| reported.lock().unwrap().push(bytes);
    let moved = sftp
        .write(&part, there as u64, &content[there..], &progress)
        .await
        .unwrap();
    assert_eq!(moved.bytes, (content.len() - there) as u64);
    let reported = reported.into_inner().unwrap();
    assert!(
        reported.is_sorted() && reported.last() == Some(&moved.bytes),
        "{reported:?}"
    );
    let file = format!("{folder}/a file");
    say(&connection, &format!("echo old > '{file}'")).await;
    sftp.replace(&part, &file).await.unwrap();
    assert_eq!(
        say(&connection, &format!("sha256sum < '{file}'")).await,
        format!("{sum}  -\n")
    );

    let mut back = Vec::new();
    let moved = sftp
        .read(&file, Range::ALL, &mut back, &|_| ())
        .await
        .unwrap();
    assert_eq!(moved.sha256, sum);
    assert!(back == content);
    let mut middle = Vec::new();
    let range = Range {
        offset: 1_000_000,
        length: Some(700_000),
    };
    sftp.read(&file, range, &mut middle, &|_| ()).await.unwrap();
    assert!(middle == content[1_000_000..1_700_000]);
    let beyond = Range {
        offset: 5 << 20,
        length: Some(5 << 20),
    };
    assert!(
        sftp.read(&file, beyond, &mut Vec::new(), &|_| ())
            .await
            .is_err()
    );

    sftp.make_folder(&format!("{folder}/sub")).await.unwrap();
    sftp.make_folder(&format!("{folder}/sub")).await.unwrap();
    say(&connection, &format!("ln -s /etc/passwd {folder}/link")).await;
    let mut kinds: Vec<_> = sftp
        .list(&folder, 10)
        .await
        .unwrap()
        .into_iter()
        .map(|e| (e.name, e.kind))
        .collect();
    kinds.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [
        ("a file", EntryKind::File),
        ("link", EntryKind::Other),
        ("sub", EntryKind::Folder),
    ];
    assert_eq!(kinds, expected.map(|(name, kind)| (name.to_owned(), kind)));
    assert!(
        sftp.list(&folder, 2).await.is_err(),
        "a folder of more than was asked for is refused"
    );
    assert!(matches!(
        sftp.look(&format!("{folder}/none")).await,
        Err(SftpError::NotFound)
    ));
    assert!(matches!(
        sftp.remove(&format!("{folder}/none")).await,
        Err(SftpError::NotFound)
    ));
    sftp.remove(&file).await.unwrap();
    sftp.remove(&format!("{folder}/link")).await.unwrap();
    sftp.remove_folder(&format!("{folder}/sub")).await.unwrap();
    sftp.remove_folder(&folder).await.unwrap();
}

/// All of a file, as it comes back.
async fn whole(sftp: &Sftp, file: &str) -> Vec<u8> {
    let mut back = Vec::new();
    sftp.read(file, Range::ALL, &mut back, &|_| ())
        .await
        .unwrap();
    back
}

/// OpenSSH's SFTP server as a command of its own, behind whatever is to be so for it.
fn server_after(preparation: &str) -> String {
    format!(
        "{preparation}; for folder in /usr/lib/openssh /usr/libexec/openssh /usr/lib/ssh /usr/libexec; do \
         [ ! -x $folder/sftp-server ] || exec $folder/sftp-server; done"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_host_stops_taking_is_refused_and_goes_on_once_there_is_room() {
    let server = server().await;
    let (connection, folder) = bulk(&server).await;
    let file = format!("{folder}/file");
    let content = noise(9 << 20);
    // Blocks of 512 bytes, or of 1024 where the shell is another.
    let full = server_after("trap '' XFSZ; ulimit -f 4096");
    let sftp = connection.sftp_by(&full).await.unwrap();
    let failed = sftp
        .write_over(3, &file, 0, content.as_slice(), &|_| ())
        .await;
    assert!(matches!(failed, Err(SftpError::Refused(_))), "{failed:?}");
    let sftp = connection.sftp().await.unwrap();
    let there = usize::try_from(sftp.look(&file).await.unwrap().size).unwrap();
    assert!(there <= 4 << 20, "{there}");
    sftp.write(&file, there as u64, &content[there..], &|_| ())
        .await
        .unwrap();
    assert!(whole(&sftp, &file).await == content);
    say(&connection, &format!("rm -r {folder}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_loses_one_of_its_channels_fails_and_goes_on_without_a_gap() {
    let server = server().await;
    let (connection, folder) = bulk(&server).await;
    let (file, pids) = (format!("{folder}/file"), format!("{folder}/pids"));
    let content = noise(8 << 20);
    // The first server hears everything; the one beside it ends in the middle of a block.
    let server = server_after(":");
    let mortal = format!(
        "echo $$ >>{pids}; if [ $(wc -l <{pids}) = 1 ]; then {server}; else dd bs=32k count=20 2>/dev/null | ({server}); fi"
    );
    let sftp = connection.sftp_by(&mortal).await.unwrap();

    let (source, mut sink) = tokio::io::duplex(content.len());
    let feeding = async {
        let second = format!("sed -n 2p {pids}");
        eventually("a second server", Duration::from_secs(20), || async {
            match say(&connection, &second).await.as_str() {
                "" => Err("there is none"),
                _ => Ok(()),
            }
        })
        .await;
        // While the first holds still, the blocks go to the other, however fast both are.
        say(&connection, &format!("kill -STOP $(head -n 1 {pids})")).await;
        sink.write_all(&content).await.unwrap();
        let ended = format!("kill -0 $({second}) 2>/dev/null || echo ended");
        eventually("its end", Duration::from_secs(20), || async {
            match say(&connection, &ended).await.trim() {
                "ended" => Ok(()),
                _ => Err("it lives"),
            }
        })
        .await;
        say(&connection, &format!("kill -CONT $(head -n 1 {pids})")).await;
        drop(sink);
    };
    let writing = sftp.write_over(2, &file, 0, source, &|_| ());
    let (failed, ()) = tokio::join!(writing, feeding);
    assert!(matches!(failed, Err(SftpError::Broken(_))), "{failed:?}");

    let there = usize::try_from(sftp.look(&file).await.unwrap().size).unwrap();
    assert!(there > 0 && there < content.len(), "{there}");
    sftp.write(&file, there as u64, &content[there..], &|_| ())
        .await
        .unwrap();
    assert!(whole(&sftp, &file).await == content);
    say(&connection, &format!("rm -r {folder}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_gives_fewer_channels_is_written_to_over_those() {
    let server = server().await;
    let (connection, folder) = bulk(&server).await;
    let file = format!("{folder}/file");
    let content = noise(40 << 20);
    let sftp = connection.sftp().await.unwrap();
    // sshd gives ten on a connection where nothing else is said.
    let moved = sftp
        .write_over(16, &file, 0, content.as_slice(), &|_| ())
        .await
        .unwrap();
    assert_eq!(moved.sha256, hex::encode(Sha256::digest(&content)));
    server.logs("no more sessions").await;
    assert!(whole(&sftp, &file).await == content);
    say(&connection, &format!("rm -r {folder}")).await;
}

/// A source that fails.
struct Breaks;

impl tokio::io::AsyncRead for Breaks {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Err(std::io::Error::other("the source broke")))
    }
}

/// Prints its port, then sends everything back to whoever connects, and says when they left.
const ECHO: &str = r#"exec /usr/bin/python3 -uc '
import socket
s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])
while True:
    c, _ = s.accept()
    while True:
        try: d = c.recv(65536)
        except OSError: break
        if not d: break
        c.sendall(d)
    print("left"); c.close()
'"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_carries_bytes_and_closes_when_it_is_dropped() {
    let server = server().await;
    let connection = connect(&server.target).await.unwrap();
    let echo = connection.start(ECHO).await.unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(echo));
    let port: u16 = lines.next_line().await.unwrap().unwrap().parse().unwrap();

    let fresh = connect(&server.target).await.unwrap();
    let mut stream = fresh.forward(port).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"hello");
    drop(stream);
    let left = tokio::time::timeout(Duration::from_secs(20), lines.next_line())
        .await
        .unwrap();
    assert_eq!(left.unwrap().unwrap(), "left");

    let mut stream = fresh.forward(port).await.unwrap();
    stream.write_all(b"half").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(
        rest, "half",
        "the other direction goes on after ours has ended"
    );

    let nobody = say(&fresh, "/usr/bin/python3 -c 'import socket; s = socket.create_server((\"127.0.0.1\", 0)); print(s.getsockname()[1])'").await;
    let refused = fresh.forward(nobody.trim().parse().unwrap()).await;
    assert!(matches!(refused, Err(Error::Refused(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stalls_loses_its_own_stream_and_nobody_elses() {
    let server = server().await;
    let connection = connect(&server.target).await.unwrap();
    let mut stalled = connection.start("exec cat /dev/zero").await.unwrap();
    // Nobody reads `stalled`. Everything else on the connection goes on, for more rounds than its buffer lasts.
    let mut moved = 0;
    for round in 0..200 {
        let output = connection
            .exec("head -c 100000 /dev/zero", &[], &Bounds::SHORT)
            .await
            .unwrap();
        assert_eq!((round, output.stdout.len()), (round, 100_000));
        moved += output.stdout.len();
    }
    assert_eq!(moved, 20_000_000);
    let mut kept = 0;
    let mut block = vec![0; 1 << 20];
    let error = loop {
        match stalled.read(&mut block).await {
            Ok(0) => panic!("a stream that was cut off looks like one that ended"),
            Ok(n) => kept += n,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
    assert!(kept <= 8 << 20, "{kept}");
    assert_eq!(say(&connection, "echo fine").await, "fine\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_renewed_in_the_middle_of_a_transfer() {
    let server = server().await;
    let tuning = Tuning {
        rekey_after: 256 * 1024,
        ..Tuning::BULK
    };
    let connection = connect_tuned(&server.target, tuning).await.unwrap();
    let folder = say(&connection, "mktemp -d").await.trim().to_owned();
    let file = format!("{folder}/file");
    let sftp = connection.sftp().await.unwrap();
    let content = noise(5 << 20);
    sftp.write(&file, 0, content.as_slice(), &|_| ())
        .await
        .unwrap();
    assert!(whole(&sftp, &file).await == content);
    server.logs("rekey").await;
    say(&connection, &format!("rm -r {folder}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_one_connection_for_all_and_a_new_one_after_the_end() {
    let server = server().await;
    let link = Link::new(server.target.clone(), Tuning::INTERACTIVE);
    assert!(!link.is_up().await);
    let (one, two) = tokio::join!(link.connection(), link.connection());
    let (one, two) = (one.unwrap(), two.unwrap());
    let session =
        |connection: Connection| async move { say(&connection, "echo $SSH_CONNECTION").await };
    let first = session(one).await;
    assert_eq!(first, session(two.clone()).await);
    two.close().await;
    two.closed().await;
    let second = session(link.connection().await.unwrap()).await;
    assert_ne!(first, second);
    link.drop_if_unused(Duration::from_secs(3600)).await;
    assert!(link.is_up().await);
    link.drop_if_unused(Duration::ZERO).await;
    assert!(!link.is_up().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_host_ends_its_connections_and_every_stream() {
    let server = server().await;
    let connection = connect(&server.target).await.unwrap();
    let mut stream = connection.start("exec cat").await.unwrap();
    server.machine.kill().await;
    connection.closed().await;
    assert!(connection.is_closed());
    let end = stream.read(&mut [0; 10]).await;
    assert!(end.is_err(), "{end:?}");
    assert!(connection.forward(80).await.is_err());
    let link = Link::new(server.target.clone(), Tuning::INTERACTIVE);
    assert!(matches!(
        link.connection().await,
        Err(Error::Unreachable { .. } | Error::Ended)
    ));
}
