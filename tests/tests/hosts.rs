//! What a simulated pod is, tried in each way in which it can be made here, with OpenSSH's own clients.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use srchat_tests::eventually::eventually;
use srchat_tests::hosts::{Exit, HostSpec, Hosts, Image, Machine, trial};
use tempfile::TempDir;
use tokio::process::Command;

/// The modes that are real and can be had here.
async fn modes() -> Vec<Hosts> {
    let mut modes = Vec::new();
    for mode in [Hosts::Namespace, Hosts::Process] {
        if mode.works().await.is_ok() {
            modes.push(mode);
        }
    }
    assert!(!modes.is_empty(), "at least `process` works for everybody");
    modes
}

fn spec(pod: &str, script: &str) -> HostSpec {
    HostSpec {
        pod_id: pod.to_owned(),
        image: Image::default(),
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: BTreeMap::new(),
        reach: Vec::new(),
    }
}

/// The next line of the log, or a failed test after half a minute.
async fn line(machine: &mut Machine) -> Option<String> {
    tokio::time::timeout(Duration::from_secs(30), machine.output.recv())
        .await
        .unwrap()
}

/// Every process of the system whose arguments hold this text.
fn processes_with(text: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let arguments = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    arguments
        .map(|raw| String::from_utf8_lossy(&raw).replace('\0', " "))
        .filter(|line| line.contains(text))
        .collect()
}

/// A machine with an sshd in it, and what OpenSSH's clients need to get in.
struct WithSshd {
    machine: Machine,
    folder: TempDir,
}

impl WithSshd {
    async fn start(hosts: &Hosts, mut spec: HostSpec) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("id");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key)
            .status()
            .await;
        assert!(made.unwrap().success());
        let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
        spec.argv = ["sh", "-c", trial::SSHD].map(str::to_owned).to_vec();
        spec.env
            .insert("TRIAL_KEY".to_owned(), public.trim().to_owned());
        let mut machine = hosts.start(spec).await.unwrap();
        let said = line(&mut machine).await.unwrap();
        let pin = said
            .strip_prefix("HOST ")
            .unwrap_or_else(|| panic!("{said}"))
            .to_owned();
        let address = machine.ssh_address();
        let known = format!("[{}]:{} {pin}\n", address.ip(), address.port());
        std::fs::write(folder.path().join("known"), known).unwrap();
        // sshd says so when it listens.
        while !line(&mut machine)
            .await
            .unwrap()
            .starts_with("Server listening")
        {}
        Self { machine, folder }
    }

    fn client(&self, program: &str, port: &str) -> Command {
        let mut command = Command::new(program);
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        command.args([
            "-F",
            "none",
            "-i",
            &at("id"),
            "-o",
            &format!("UserKnownHostsFile={}", at("known")),
        ]);
        command.args([
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=20",
        ]);
        command.args([port, &self.machine.ssh_address().port().to_string()]);
        command.kill_on_drop(true).stdin(Stdio::null());
        command
    }

    fn at(&self) -> String {
        let user = self
            .machine
            .isolation()
            .host_user()
            .unwrap_or_else(|| "root".to_owned());
        format!("{user}@{}", self.machine.ssh_address().ip())
    }

    /// What a command says over SSH.
    async fn ssh(&self, command: &str) -> String {
        let output = self
            .client("ssh", "-p")
            .arg(self.at())
            .arg(command)
            .output()
            .await
            .unwrap();
        assert!(
            output.status.success(),
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// Answers every connection with one line, until the test ends.
fn answers(line: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _gone = stream.write_all(line.as_bytes());
        }
    });
    address
}

#[tokio::test]
async fn a_machine_says_what_its_pid_1_says() {
    for hosts in modes().await {
        let mut machine = hosts
            .start(spec(
                "says",
                "echo hello; echo trouble >&2; exec sleep 1001",
            ))
            .await
            .unwrap();
        assert_eq!(line(&mut machine).await.as_deref(), Some("hello"));
        assert_eq!(line(&mut machine).await.as_deref(), Some("trouble"));
        machine.kill().await;
        assert_eq!(machine.wait().await, Exit::Killed);
        assert_eq!(line(&mut machine).await, None);
        assert_eq!(processes_with("sleep 1001"), Vec::<String>::new());
    }
}

#[tokio::test]
async fn the_end_of_pid_1_is_the_end_of_the_machine_and_is_seen() {
    for hosts in modes().await {
        let daemon = "(setsid sh -c 'setsid sleep 1002 & sleep 1002') >/dev/null 2>&1 & ";
        let machine = hosts
            .start(spec("ends", &format!("{daemon} sleep 0.1; exit 7")))
            .await
            .unwrap();
        assert_eq!(machine.wait().await, Exit::Code(7));
        assert_eq!(processes_with("sleep 1002"), Vec::<String>::new());
        let machine = hosts
            .start(spec("dies", "exec no-such-program"))
            .await
            .unwrap();
        assert_eq!(machine.wait().await, Exit::Code(127));
    }
}

#[tokio::test]
async fn a_dropped_machine_ends() {
    for hosts in modes().await {
        let machine = hosts
            .start(spec("dropped", "setsid sleep 1003 & exec sleep 1003"))
            .await
            .unwrap();
        drop(machine);
        eventually("nothing of it runs", Duration::from_secs(20), || async {
            let left = processes_with("sleep 1003");
            if left.is_empty() {
                Ok(())
            } else {
                Err(left.join(", "))
            }
        })
        .await;
    }
}

#[tokio::test]
async fn openssh_gets_in_runs_commands_and_moves_files() {
    for hosts in modes().await {
        let host = WithSshd::start(&hosts, spec("ssh", "")).await;
        let text = "x".repeat(300_000);
        assert_eq!(
            host.ssh("echo \"in $(cat /dev/null)\"; head -c 300000 /dev/zero | tr '\\0' x")
                .await,
            format!("in \n{text}")
        );

        let local = host.folder.path().join("file");
        std::fs::write(&local, &text).unwrap();
        let back = host.folder.path().join("back");
        let remote = host.ssh("mktemp -u").await;
        let batch = host.folder.path().join("batch");
        std::fs::write(
            &batch,
            format!(
                "put {} {remote}\nget {remote} {}\n",
                local.display(),
                back.display()
            ),
        )
        .unwrap();
        let moved = host
            .client("sftp", "-P")
            .arg("-b")
            .arg(&batch)
            .arg(host.at())
            .output()
            .await
            .unwrap();
        assert!(
            moved.status.success(),
            "{}",
            String::from_utf8_lossy(&moved.stderr)
        );
        assert_eq!(std::fs::read_to_string(back).unwrap(), text);
        host.machine.kill().await;
        assert!(TcpStream::connect(host.machine.ssh_address()).is_err());
    }
}

#[tokio::test]
async fn openssh_forwards_to_what_is_reachable_inside() {
    for hosts in modes().await {
        let outside = answers("the provider\n");
        let mut spec = spec("forwards", "");
        spec.reach.push(outside);
        let host = WithSshd::start(&hosts, spec).await;
        let tunnel = host
            .client("ssh", "-p")
            .args(["-W", &outside.to_string()])
            .arg(host.at())
            .output()
            .await
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&tunnel.stdout), "the provider\n");
        host.machine.kill().await;
    }
}
