//! A booted machine, and all that the controller would know of it.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use srchat_operator::host::boot::{self, BootLog, Environment, HostLine, Nonce};
use srchat_operator::host::image::Form;
use srchat_operator::host::visit::{Ask, Visit};
use srchat_operator::host::{self, Incarnation, Stage};
use srchat_operator::ssh::{self, Bounds, Connection, KeyPair, Target, connect};
use srchat_tests::hosts::{HostSpec, Hosts, Image, Isolation, Machine};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub const KEY: &[u8] = b"an installation key of 32 bytes!";

pub const POD: &str = "pod7h9k2m4n6p";

/// A booted machine, and all that the controller would know of it.
pub struct Host {
    pub machine: Machine,
    pub of: Incarnation,
    pub line: HostLine,
    pub controller: KeyPair,
    pub gateways: KeyPair,
}

pub fn incarnation() -> Incarnation {
    Incarnation {
        installation: "9f3a2c1b".to_owned(),
        uid: "0b9e2c6e-5d1e-4b0a-9a53-7d3f0a6b1c2d".to_owned(),
        attempt: 1,
    }
}

pub fn nonce() -> Nonce {
    let of = incarnation();
    Nonce::derive(KEY, &of.uid, of.attempt)
}

pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_secs()).unwrap()
}

/// What a pod is started with, as the provider would compose it.
pub fn spec(controller: &KeyPair, change: impl FnOnce(&mut HostSpec)) -> HostSpec {
    let of = incarnation();
    let environment = Environment {
        owner: boot::owner_proof(KEY, &of),
        nonce: nonce(),
        incarnation: of,
        deadline: now() + 3600,
        api: "http://127.0.0.1:9/v2".to_owned(),
        root: "/srchat".to_owned(),
        memory: "/dev/shm/srchat".to_owned(),
        controller_key: controller.public(),
    };
    let mut env = environment.variables();
    env.insert("RUNPOD_POD_ID".to_owned(), POD.to_owned());
    env.insert("RUNPOD_API_KEY".to_owned(), "rpa_pods_own_key".to_owned());
    env.insert("HF_TOKEN".to_owned(), "hf_of_the_image".to_owned());
    env.insert("LLAMA_ARG_HOST".to_owned(), "0.0.0.0".to_owned());
    let mut spec = HostSpec {
        pod_id: POD.to_owned(),
        image: Image::default(),
        argv: shlex::split(&boot::start_command(Form::Words)).unwrap(),
        env,
        reach: Vec::new(),
    };
    change(&mut spec);
    spec
}

pub async fn next_line(machine: &mut Machine) -> String {
    tokio::time::timeout(Duration::from_secs(60), machine.output.recv())
        .await
        .expect("the pod says something")
        .expect("the pod lives")
}

impl Host {
    pub async fn boot(hosts: &Hosts, change: impl FnOnce(&mut HostSpec)) -> Self {
        let controller = KeyPair::generate().unwrap();
        let mut machine = hosts.start(spec(&controller, change)).await.unwrap();
        let said = next_line(&mut machine).await;
        let BootLog::Host(line) = boot::read_log([said.as_str()], &nonce(), POD) else {
            panic!("not a host line: {said}");
        };
        Self {
            machine,
            of: incarnation(),
            line,
            controller,
            gateways: KeyPair::generate().unwrap(),
        }
    }

    pub fn target(&self, user: &str, key: &KeyPair) -> Target {
        Target {
            address: self.machine.ssh_address().to_string(),
            pin: self.line.key,
            user: self
                .machine
                .isolation()
                .host_user()
                .unwrap_or_else(|| user.to_owned()),
            key: key.clone(),
        }
    }

    pub async fn connect(&self) -> Connection {
        let target = self.target(host::CONTROLLER_USER, &self.controller);
        connect(&target).await.unwrap()
    }

    pub async fn connect_as_gateway(&self) -> Result<Connection, ssh::Error> {
        connect(&self.target(host::GATEWAY_USER, &self.gateways)).await
    }

    pub fn users_separated(&self) -> bool {
        self.machine.isolation() != Isolation::Process
    }

    /// Follows a deploy as the controller does, until it serves or fails.
    pub async fn follow(&self, connection: &Connection) -> Visit {
        let mut ask = Ask {
            patience: Duration::from_secs(5),
            ..Ask::default()
        };
        for _ in 0..60 {
            let visit = host::visit(connection, &self.of, &ask).await.unwrap();
            if visit.stage == Stage::Serving || visit.failure.is_some() {
                return visit;
            }
            ask.known = Some(visit.stage);
        }
        panic!("the deploy neither serves nor fails");
    }
}

pub async fn root_says(connection: &Connection, command: &str) -> String {
    let output = connection.exec(command, &[], &Bounds::SHORT).await.unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub async fn http_get(connection: &Connection, port: u16, path: &str) -> String {
    let mut stream = connection.forward(port).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The modes that are real and can be had here: a process always.
pub async fn modes() -> Vec<Hosts> {
    Hosts::Process.works().await.unwrap();
    let mut modes = vec![Hosts::Process];
    for mode in [Hosts::Namespace, Hosts::Userns] {
        match mode.works().await {
            Ok(()) => modes.push(mode),
            Err(why) => srchat_tests::cache::say(&format!("{}: {why}", mode.isolation())),
        }
    }
    modes
}
