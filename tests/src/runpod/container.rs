//! What makes a pod's container real: starts its machine when it is due, pumps its output into the log, starts it again when
//! PID 1 ends, and ends it with the pod.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{
    Shared,
    faults::Kind,
    log::Source,
    pod::{Container, Pod},
    request::Compute,
    world::World,
};
use crate::hosts::{Exit, HostSpec, Machine};

/// How long after a machine that could not be made another is tried, at most: Docker's own limit is a minute.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// What a pod's container should be.
#[derive(Debug, PartialEq)]
enum Wanted {
    /// Nothing yet, or nothing for now; look again when something changes, or then.
    Wait(Option<Timestamp>),
    /// Running.
    Run,
    /// Gone for good.
    Ended,
}

/// Lives as long as the pod.
pub(super) async fn keep(shared: Arc<Shared>, id: String) {
    let mut changes = shared.world().changes();
    let mut machine: Option<Running> = None;
    let mut failures = 0u32;
    loop {
        changes.borrow_and_update();
        let (wanted, due) = shared
            .with_pod(&id, wanted)
            .unwrap_or((Wanted::Ended, None));
        // A stop or restart took the container away from the record; its machine follows.
        let left = shared
            .with_pod(&id, |pod, _, _| pod.container.is_none())
            .unwrap_or(true);
        if left && let Some(running) = machine.take() {
            running.end().await;
        }
        match (&wanted, &machine) {
            (Wanted::Ended, _) => {
                if let Some(running) = machine.take() {
                    running.end().await;
                }
                shared.with_pod(&id, |pod, _, now| pod.gone = Some(now));
                return;
            }
            (Wanted::Run, None) => match start(&shared, &id).await {
                Some(running) => {
                    failures = 0;
                    machine = Some(running);
                }
                None => {
                    failures += 1;
                    let pause = (shared.boot().restart * 2u32.saturating_pow(failures.min(16)))
                        .min(LONGEST_BACKOFF);
                    shared.put_off(&id, pause);
                }
            },
            (Wanted::Wait(_), _) | (Wanted::Run, Some(_)) => {
                let crash = machine.as_ref().and_then(|running| running.crashes);
                let until = [due, crash].into_iter().flatten().min();
                tokio::select! {
                    _ = changes.changed() => {}
                    () = shared.sleep(until) => {
                        if crash.is_some_and(|crash| crash <= shared.now()) && let Some(running) = machine.take() {
                            running.end().await;
                            shared.with_pod(&id, |pod, faults, now| pod.strike(Kind::CrashLoop, faults, now));
                            shared.exited(&id, "killed");
                        }
                    }
                    exit = wait(machine.as_ref()) => {
                        if let Some(running) = machine.take() {
                            running.end().await;
                        }
                        shared.exited(&id, &format!("{exit:?}"));
                    }
                }
            }
        }
    }
}

async fn wait(machine: Option<&Running>) -> Exit {
    match machine {
        Some(running) => running.machine.wait().await,
        None => std::future::pending().await,
    }
}

/// What this pod's container should be now, and when that changes by itself: always later than now, since who waits for a moment
/// that has passed waits for nothing, and keeps its thread and the world's lock from everybody else.
fn wanted(
    pod: &mut Pod,
    world: &mut super::faults::Faults,
    now: Timestamp,
) -> (Wanted, Option<Timestamp>) {
    pod.vanish_when_due(world, now);
    let vanishes = pod.container.and_then(|container| {
        Some(container.since + pod.fault(Kind::Vanishes, world, now)?.span())
    });
    let ends = pod.end.map(|end| end.at);
    let due = [vanishes, ends]
        .into_iter()
        .flatten()
        .filter(|due| *due > now)
        .min();
    if pod.ended(now) {
        (Wanted::Ended, None)
    } else if pod.stopped || pod.fault(Kind::StuckProvisioning, world, now).is_some() {
        (Wanted::Wait(None), due)
    } else if now < pod.timeline.boots {
        (
            Wanted::Wait(Some(pod.timeline.boots)),
            [due, Some(pod.timeline.boots)].into_iter().flatten().min(),
        )
    } else {
        (Wanted::Run, due)
    }
}

/// A machine and the pump of its output.
struct Running {
    machine: Arc<Machine>,
    pump: tokio::task::JoinHandle<()>,
    /// When a crash loop kills it.
    crashes: Option<Timestamp>,
}

impl Running {
    /// When this returns, nothing of the machine is left, and its last words are in the log.
    async fn end(self) {
        self.machine.kill().await;
        let _ = self.pump.await;
    }
}

async fn start(shared: &Arc<Shared>, id: &str) -> Option<Running> {
    let (spec, command) = shared.with_world(|world, _| describe(world, id, shared))?;
    let Some(argv) = command else {
        shared.log(
            id,
            "error: cannot start container: no command, or an open quote in it",
        );
        return None;
    };
    let mut machine = match shared.hosts.start(HostSpec { argv, ..spec }).await {
        Ok(machine) => machine,
        Err(error) => {
            tracing::warn!(pod = id, %error, "a container did not start");
            shared.log(id, &format!("error: {error}"));
            return None;
        }
    };
    let (_, nothing) = mpsc::unbounded_channel();
    let mut output = std::mem::replace(&mut machine.output, nothing);
    let pump = tokio::spawn({
        let (shared, id) = (shared.clone(), id.to_owned());
        async move {
            while let Some(line) = output.recv().await {
                shared.with_pod(&id, |pod, _, now| {
                    pod.log.write(Source::Container, line, now)
                });
            }
        }
    });
    let machine = Arc::new(machine);
    super::locked(&shared.machines).insert(id.to_owned(), Arc::downgrade(&machine));
    let crashes = shared.with_pod(id, |pod, faults, now| {
        pod.enter_container(Container {
            since: now,
            address: machine.ssh_address(),
        });
        pod.fault(Kind::CrashLoop, faults, now)
            .map(|fault| now + fault.span())
    })?;
    Some(Running {
        machine,
        pump,
        crashes,
    })
}

/// What the container runtime is told; its command is `None` when there is none to run.
fn describe(
    world: &mut World,
    id: &str,
    shared: &Shared,
) -> Option<(HostSpec, Option<Vec<String>>)> {
    let pod = world.pods.get(id)?;
    let image = world.images.find(&pod.request.image);
    let mut env = pod.request.env.clone();
    let (count, key) = match &pod.request.compute {
        Compute::Gpu { count, .. } => (*count, "RUNPOD_GPU_COUNT"),
        Compute::Cpu { count, .. } => (*count, "RUNPOD_CPU_COUNT"),
    };
    for (name, value) in [
        ("RUNPOD_POD_ID", pod.id.clone()),
        ("RUNPOD_API_KEY", pod.own_key.clone()),
        ("RUNPOD_DC_ID", pod.center.to_owned()),
        ("RUNPOD_POD_HOSTNAME", format!("{}-simulated", pod.id)),
        (key, count.to_string()),
    ] {
        env.insert(name.to_owned(), value);
    }
    if pod.request.start_ssh {
        // The account of the simulator has registered no keys.
        env.entry("PUBLIC_KEY".into()).or_default();
    }
    let command = image.argv(&pod.request.args);
    let spec = HostSpec {
        pod_id: pod.id.clone(),
        image: image.ships,
        argv: Vec::new(),
        env,
        reach: shared.reach.clone(),
    };
    Some((spec, command))
}
