//! The demo for a person: live progress, a chat, and each step of the end as it is proved.

use std::process::Command;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cache::say;
use crate::process::without_the_callers_settings;

use super::args::Arguments;
use super::env::Folder;
use super::follow::{Milestone, View};
use super::stage::{Error, NAME, Stage};
use super::{Outcome, tell};

/// How often the progress line moves by itself, so that one sees that it lives.
const TICK: std::time::Duration = std::time::Duration::from_millis(120);

/// Runs it to its end, or until Ctrl-C outside of the chat.
pub(super) async fn run(arguments: &Arguments, stop: &CancellationToken) -> Outcome {
    say("starting a control plane, a simulated RunPod and a Hub on this machine");
    let set = async {
        let folder = Folder::take()?;
        Stage::set(arguments, Some(folder), stop).await
    };
    let held = match set.await {
        Ok(mut stage) => {
            let held = steps(&mut stage, stop).await;
            stage.strike().await;
            held
        }
        Err(error) => Err(error),
    };
    match held {
        Ok(()) => Outcome::Held,
        Err(Error::Interrupted) => {
            say("everything is ended");
            Outcome::Interrupted
        }
        Err(error) => {
            tell(&error);
            Outcome::Failed
        }
    }
}

async fn steps(stage: &mut Stage, stop: &CancellationToken) -> Result<(), Error> {
    let env = super::serve::announce(stage)?;
    say(&format!(
        "to look on from another terminal: . {}",
        env.path().display()
    ));
    say(&format!("kubectl apply: a session for {}", stage.model()));
    stage.apply().await?;
    let bar = bar();
    let mut told = Told::default();
    let reached = stage
        .reach(Milestone::Published, stop, |view| told.up(view, &bar))
        .await;
    bar.finish_and_clear();
    reached?;
    say("the endpoint is published. Ask it something; /exit ends the session.");
    let attached = attach(stage).await;
    if let Err(error) = &attached {
        say(&format!("the chat did not end well: {error}"));
    }

    say("ending the session: the host is cleared, the pod terminated, its absence proved twice");
    stage.delete().await?;
    let bar = self::bar();
    let reached = stage
        .reach(Milestone::Gone, stop, |view| told.down(view, &bar))
        .await;
    bar.finish_and_clear();
    reached?;
    if let Some(simulator) = &stage.rig.simulator {
        let total = simulator.ledger().total;
        say(&format!(
            "the provider's books: {} made, {} terminated, {} left, ${} billed",
            total.created, total.terminated, total.alive, total.billed
        ));
    }
    attached
}

/// The chat, with this terminal. Ctrl-C is its own meanwhile; who asks us to end asks it as well.
async fn attach(stage: &Stage) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut command = Command::new(&stage.rig.binaries.cli);
    without_the_callers_settings(&mut command);
    command
        .env("KUBECONFIG", stage.rig.cluster().kubeconfig())
        .args(["attach", NAME, "--namespace", stage.namespace])
        // A demo leaves nothing on the machine.
        .arg("--no-history");
    let mut chat = tokio::process::Command::from(command).spawn()?;
    let status = tokio::select! {
        status = chat.wait() => status?,
        _ = terminate.recv() => {
            let pid = chat.id().and_then(|id| i32::try_from(id).ok());
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                // One that has ended meanwhile is what was wanted.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            chat.wait().await?
        }
    };
    if status.success() {
        Ok(())
    } else {
        Err(Error::Not(format!("srchat attach: {status}")))
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(100);
    if let Ok(style) =
        ProgressStyle::with_template("{spinner} {bar:30} {pos:>3}%  {elapsed}  {wide_msg}")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}

/// What has been said already.
#[derive(Default)]
struct Told {
    lines: Vec<String>,
}

impl Told {
    fn once(&mut self, bar: &ProgressBar, line: String) {
        if !self.lines.contains(&line) {
            bar.println(&line);
            self.lines.push(line);
        }
    }

    fn up(&mut self, view: &View, bar: &ProgressBar) {
        let Some(status) = view.status() else { return };
        if let Some(plan) = &status.plan {
            let price = plan.hourly_cost;
            self.once(
                bar,
                format!(
                    "  planned: {} on {} at ${price} an hour",
                    plan.engine, plan.gpu
                ),
            );
        }
        if let Some(instance) = &status.instance {
            self.once(
                bar,
                format!(
                    "  rented: {} at ${} an hour",
                    instance.provider_id, instance.hourly_cost
                ),
            );
            if let Some(key) = &instance.host_key {
                self.once(bar, format!("  trusted: the host key is {key}"));
            }
        }
        let cost = status
            .cost
            .as_ref()
            .map(|cost| format!("${} so far", cost.accrued));
        let words = match (&status.startup, view.condition("Ready")) {
            (Some(startup), _) => {
                bar.set_position(u64::from(startup.percent.unwrap_or_default()));
                vec![startup.stage.to_string(), startup.message.clone()]
            }
            (None, Some((reason, _))) => vec![reason.to_owned()],
            (None, None) => Vec::new(),
        };
        let words = words
            .into_iter()
            .chain(cost)
            .filter(|word| !word.is_empty());
        bar.set_message(words.collect::<Vec<_>>().join(", "));
    }

    fn down(&mut self, view: &View, bar: &ProgressBar) {
        let steps = [
            (Milestone::Cleared, "Wiped", "cleared", 25),
            (
                Milestone::Absent,
                "Terminated",
                "terminated and proved absent",
                90,
            ),
            (
                Milestone::Gone,
                "Ready",
                "gone: the object has left the cluster",
                100,
            ),
        ];
        for (milestone, condition, what, percent) in steps {
            if view.reached.contains_key(&milestone) {
                let why = view
                    .condition(condition)
                    .filter(|_| milestone != Milestone::Gone);
                let (reason, message) = why.unwrap_or_default();
                self.once(
                    bar,
                    format!("  {what} {reason} {message}").trim_end().to_owned(),
                );
                bar.set_position(percent);
            }
        }
        let teardown = view.status().and_then(|status| status.teardown.as_ref());
        let proofs = teardown.map_or(0, |teardown| teardown.absence_proofs);
        let now = view
            .condition("Terminated")
            .map(|(reason, _)| reason.to_owned())
            .unwrap_or_default();
        bar.set_message(format!("{now}, {proofs} of 2 proofs of absence"));
    }
}
