//! What a simulated pod is, tried in each way in which it can be made here, with OpenSSH's own clients.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use srchat_operator::host::boot::{self, BootLog, Nonce};
use srchat_operator::ssh::{self, Bounds, KeyPair, Target};
use srchat_tests::eventually::eventually;
use srchat_tests::hosts::{Exit, HostSpec, Hosts, Image, Isolation, Machine, light, trial};
use srchat_tests::skipped;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

/// The modes that are real and can be had here; `process` can be had by everybody.
async fn modes() -> Vec<Hosts> {
    let mut modes = Vec::new();
    for mode in [Hosts::Namespace, Hosts::Userns] {
        if mode.works().await.is_ok() {
            modes.push(mode);
        }
    }
    Hosts::Process.works().await.unwrap();
    modes.push(Hosts::Process);
    modes
}

/// A mode that separates networks and users, if one can be had here.
async fn separated() -> Option<Hosts> {
    let mut reasons = Vec::new();
    for hosts in [Hosts::Namespace, Hosts::Userns] {
        match hosts.works().await {
            Ok(()) => return Some(hosts),
            Err(why) => reasons.push(why.to_string()),
        }
    }
    skipped::because(&format!(
        "nothing separates networks and users here: {}",
        reasons.join("; ")
    ));
    None
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

/// Answers every connection with one HTTP response, until the test process ends.
fn answers(ip: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _gone = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nthe provider\n");
            let _gone = stream.shutdown(std::net::Shutdown::Write);
            let _gone = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    address
}

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// An address of this machine that is not loopback, if it has one. Nothing is sent.
fn other_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket
        .local_addr()
        .ok()
        .map(|address| address.ip())
        .filter(|ip| !ip.is_loopback())
}

/// Who is in a namespace (`net:[4026531840]`) or holds it open.
fn holders(namespace: &str) -> Vec<PathBuf> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let links = processes.flat_map(|process| {
        let kind = namespace.split(':').next().unwrap_or_default();
        let open = std::fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let open: Vec<_> = open.map(|fd| fd.path()).collect();
        open.into_iter()
            .chain([process.path().join("ns").join(kind)])
    });
    links
        .filter(|link| std::fs::read_link(link).is_ok_and(|to| to == Path::new(namespace)))
        .collect()
}

/// This test binary in another way: `setpriv` and the like before it, one of its tests in it.
fn again(prefix: &[&str], test: &str) -> Command {
    let mut command = Command::new(prefix[0]);
    // The way to the binary may lie in a home that others cannot enter; what is open needs no way.
    let binary = std::fs::File::open("/proc/self/exe").unwrap();
    command.args(&prefix[1..]).arg("/proc/self/fd/0").args([
        "--exact",
        test,
        "--include-ignored",
        "--nocapture",
    ]);
    command.stdin(binary).kill_on_drop(true);
    command
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
        let outside = answers(LOCALHOST);
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
        let said = String::from_utf8_lossy(&tunnel.stdout).into_owned();
        assert!(said.ends_with("the provider\n"), "{said}");
        host.machine.kill().await;
    }
}

#[tokio::test]
async fn the_network_of_a_namespace_reaches_what_is_listed_and_nothing_else() {
    let Some(hosts) = separated().await else {
        return;
    };
    let (listed, unlisted) = (answers(LOCALHOST), answers(LOCALHOST));
    let elsewhere = other_address().map(answers);
    let mut addresses = vec![("listed", listed), ("unlisted", unlisted)];
    addresses.extend(elsewhere.map(|address| ("elsewhere", address)));
    let mut script = String::new();
    for (name, address) in &addresses {
        script +=
            &format!("echo {name} $(curl -s -m 10 --noproxy '*' http://{address}/ || echo $?)\n");
    }
    let mut spec = spec("network", &(script + "exec sleep 1004"));
    spec.reach.push(listed);
    let mut machine = hosts.start(spec).await.unwrap();
    assert_eq!(line(&mut machine).await.unwrap(), "listed the provider");
    // 7 is curl's "could not connect".
    assert_eq!(line(&mut machine).await.unwrap(), "unlisted 7");
    if elsewhere.is_some() {
        assert_eq!(line(&mut machine).await.unwrap(), "elsewhere 7");
    }
    machine.kill().await;
}

#[tokio::test]
async fn a_port_inside_is_closed_to_the_outside() {
    for hosts in modes().await {
        let host = WithSshd::start(&hosts, spec("closed", "")).await;
        let separated = host.machine.isolation() != Isolation::Process;
        // Where loopback is shared there is nothing to claim; nor of a port on which nobody listens.
        assert_eq!(
            host.machine.port_reachable(22).await,
            separated.then_some(false)
        );
        assert_eq!(host.machine.port_reachable(9).await, None);
        host.machine.kill().await;
    }
}

#[tokio::test]
async fn users_and_files_made_inside_stay_inside() {
    let Some(hosts) = separated().await else {
        return;
    };
    let script = "echo 'srchat-trial:*:4321:4321::/:/bin/sh' >>/etc/passwd; echo x >/etc/srchat-trial; \
        mount -t tmpfs tmpfs /mnt 2>/dev/null && echo mounts; ls -A /home /tmp /var/tmp; readlink /proc/self/ns/net; exec sleep 1005";
    let mut machine = hosts.start(spec("inside", script)).await.unwrap();
    let mut said = Vec::new();
    while said
        .last()
        .is_none_or(|last: &String| !last.starts_with("net:"))
    {
        said.push(line(&mut machine).await.unwrap());
    }
    assert_eq!(
        said[..said.len() - 1],
        ["/home:", "", "/tmp:", "", "/var/tmp:"]
    );
    assert!(
        !std::fs::read_to_string("/etc/passwd")
            .unwrap()
            .contains("srchat-trial")
    );
    assert!(!Path::new("/etc/srchat-trial").exists());
    machine.kill().await;
    assert_eq!(holders(&said[said.len() - 1]), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn an_image_ships_what_it_is_said_to_ship() {
    let Some(hosts) = separated().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("bin/llama-server");
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    std::fs::write(&program, "#!/bin/sh\necho serves\n").unwrap();
    std::fs::set_permissions(
        &program,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let script = "command -v sshd curl python3; apt-get install -y openssh-server >/dev/null; command -v sshd; ls /usr/bin/curl; \
        chroot --userspec=65534:65534 / llama-server; touch $(command -v llama-server) 2>/dev/null || echo read-only; df --output=size /dev/shm | tail -n1";
    let mut spec = spec("image", script);
    spec.image = Image {
        // One inside the other.
        path: vec![folder.path().join("bin")],
        visible: vec![folder.path().to_owned()],
        sshd: false,
        curl: false,
        python: false,
        shm: 1 << 20,
        ..Image::default()
    };
    let mut machine = hosts.start(spec).await.unwrap();
    assert_eq!(line(&mut machine).await.unwrap(), "/usr/sbin/sshd");
    assert!(line(&mut machine).await.unwrap().contains("No such file"));
    assert_eq!(line(&mut machine).await.unwrap(), "serves");
    assert_eq!(line(&mut machine).await.unwrap(), "read-only");
    assert_eq!(line(&mut machine).await.unwrap().trim(), "1024");
    assert_eq!(machine.wait().await, Exit::Code(0));
}

#[tokio::test]
async fn ten_machines_at_once_do_not_meet() {
    for hosts in modes().await {
        let all = (0..10).map(|n| WithSshd::start(&hosts, spec(&format!("pod{n}"), "")));
        let all = futures::future::join_all(all).await;
        let ports: std::collections::BTreeSet<_> =
            all.iter().map(|host| host.machine.ssh_address()).collect();
        assert_eq!(ports.len(), 10);
        // Each has a host key of its own, which its client insists on.
        futures::future::join_all(all.iter().map(|host| host.ssh("true"))).await;
        futures::future::join_all(all.iter().map(|host| host.machine.kill())).await;
    }
}

#[tokio::test]
#[ignore = "run by the test below, in a process that is killed"]
async fn holds_machines_until_it_is_killed() {
    let mut machines = Vec::new();
    for hosts in modes().await {
        machines.push(
            hosts
                .start(spec("orphan", "setsid sleep 1006 & exec sleep 1006"))
                .await
                .unwrap(),
        );
    }
    srchat_tests::cache::say("holding");
    futures::future::pending::<()>().await;
}

#[tokio::test]
async fn machines_end_with_the_process_that_started_them_however_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut holder = again(&["env"], "holds_machines_until_it_is_killed");
    let mut holder = holder
        .env("TMPDIR", folder.path())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(holder.stderr.take().unwrap()).lines();
    while said
        .next_line()
        .await
        .unwrap()
        .is_some_and(|line| !line.contains("holding"))
    {}
    assert!(processes_with("sleep 1006").len() >= 2);
    holder.kill().await.unwrap();
    eventually(
        "nothing of it runs or lies about",
        Duration::from_secs(20),
        || async {
            let left = processes_with("sleep 1006");
            let folders = walk(folder.path());
            if left.is_empty() && folders.iter().all(|path| !path.contains("/pod-")) {
                Ok(())
            } else {
                Err(format!("{left:?} {folders:?}"))
            }
        },
    )
    .await;
}

/// Every path below a folder.
fn walk(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    entries
        .flat_map(|path| [vec![path.display().to_string()], walk(&path)].concat())
        .collect()
}

/// Runs tests of this file as a user whom only they have heard of, with or without subordinate ids.
async fn as_somebody(ids: &str, tests: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    std::fs::write(
        folder.path().join("passwd"),
        format!("{users}\nsomebody:x:54321:54321::/:/bin/sh\n"),
    )
    .unwrap();
    std::fs::write(folder.path().join("ids"), ids).unwrap();
    let become_somebody = "mount --bind passwd /etc/passwd; mount --bind ids /etc/subuid; mount --bind ids /etc/subgid; \
        exec setpriv --reuid 54321 --regid 54321 --clear-groups \"$@\"";
    for test in tests {
        let mut somebody = again(
            &["unshare", "--mount", "sh", "-c", become_somebody, "sh"],
            test,
        );
        somebody
            .env("TMPDIR", folder.path())
            .env("HOME", folder.path())
            .current_dir(folder.path());
        let output = somebody.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.contains("1 passed") && !said.contains("skipped:"),
            "{said}"
        );
    }
    assert!(
        walk(folder.path())
            .iter()
            .all(|path| !path.contains("/pod-"))
    );
}

#[tokio::test]
async fn an_ordinary_user_has_machines_too() {
    if !rustix::process::geteuid().is_root() {
        return skipped::because(
            "only root can become another user; the other tests have shown it for this one",
        );
    }
    let tests = [
        "openssh_gets_in_runs_commands_and_moves_files",
        "the_end_of_pid_1_is_the_end_of_the_machine_and_is_seen",
    ];
    as_somebody("", &tests).await;
}

#[tokio::test]
async fn an_ordinary_user_with_subordinate_ids_has_machines_with_users_and_a_network_of_their_own()
{
    if !rustix::process::geteuid().is_root() {
        return skipped::because("only root can become another user");
    }
    if srchat_tests::tools::on_path("newuidmap").is_none() || !Path::new("/etc/subuid").exists() {
        return skipped::because(
            "there is no newuidmap (Debian: apt-get install uidmap), so nobody has subordinate ids",
        );
    }
    let tests = [
        "openssh_gets_in_runs_commands_and_moves_files",
        "the_network_of_a_namespace_reaches_what_is_listed_and_nothing_else",
        "a_port_inside_is_closed_to_the_outside",
        "users_and_files_made_inside_stay_inside",
        "an_image_ships_what_it_is_said_to_ship",
        "machines_end_with_the_process_that_started_them_however_it_ends",
    ];
    as_somebody("somebody:700000:65536\n", &tests).await;
}

#[tokio::test]
async fn root_of_a_container_without_privileges_has_machines_too() {
    if !rustix::process::geteuid().is_root() {
        return skipped::because("only root can have its privileges taken away");
    }
    // What Docker leaves a container, and a /run in which nothing has been started.
    let drop_privileges = "mount -t tmpfs tmpfs /run; exec setpriv --bounding-set=-all,+chown,+dac_override,+fowner,\
        +fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap \"$@\"";
    let prefix = ["unshare", "--mount", "sh", "-c", drop_privileges, "sh"];
    let test = "openssh_gets_in_runs_commands_and_moves_files";
    let output = again(&prefix, test).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

#[tokio::test]
async fn a_light_machine_answers_what_its_script_says() {
    let key = KeyPair::generate().unwrap();
    let exec = |mut asked: light::Asked| {
        async move {
            let mut stdin = String::new();
            asked.io.read_to_string(&mut stdin).await.unwrap();
            let answer = format!("{} {} {} {stdin}", asked.pod, asked.user, asked.command);
            asked.io.write_all(answer.as_bytes()).await.unwrap();
            3
        }
        .boxed()
    };
    let engine = answers(LOCALHOST);
    let hosts = Hosts::Light(light::Script {
        exec: Arc::new(exec),
        engine: Some(engine),
    });
    let mut spec = spec("light", "");
    let nonce = Nonce::from_environment(&"0".repeat(64));
    spec.env.insert("SRCHAT_NONCE".to_owned(), "0".repeat(64));
    spec.env
        .insert("SRCHAT_CONTROLLER_KEY".to_owned(), key.public_line());
    let mut machine = hosts.start(spec).await.unwrap();
    let said = line(&mut machine).await.unwrap();
    let BootLog::Host(host) = boot::read_log([said.as_str()], &nonce, "light") else {
        panic!("{said}")
    };
    let target = |user: &str, key: &KeyPair| Target {
        address: machine.ssh_address().to_string(),
        pin: host.key,
        user: user.to_owned(),
        key: key.clone(),
    };
    assert!(
        ssh::connect(&target("root", &KeyPair::generate().unwrap()))
            .await
            .is_err()
    );
    let connection = ssh::connect(&target("root", &key)).await.unwrap();
    let answer = connection
        .exec("visit", b"input", &Bounds::SHORT)
        .await
        .unwrap();
    assert_eq!(
        (
            answer.status,
            String::from_utf8_lossy(&answer.stdout).as_ref()
        ),
        (3, "light root visit input")
    );
    let mut forward = connection.forward(8000).await.unwrap();
    let mut said = String::new();
    forward.shutdown().await.unwrap();
    forward.read_to_string(&mut said).await.unwrap();
    assert!(said.ends_with("the provider\n"), "{said}");
    machine.kill().await;
    assert!(TcpStream::connect(machine.ssh_address()).is_err());
}
