//! The demo left running: the parts, without a session, and how to use kubectl and srchat against them.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cache::say;

use super::args::Arguments;
use super::env::{self, Env, Folder};
use super::stage::{Error, Stage};
use super::{Outcome, print, tell};

/// How often it is made sure that all parts still run.
const LOOK: Duration = Duration::from_secs(1);

/// Runs until somebody wants it to end, or a part has ended by itself.
pub(super) async fn run(arguments: &Arguments, stop: &CancellationToken) -> Outcome {
    let set = async {
        let folder = Folder::take()?;
        Stage::set(arguments, Some(folder), stop).await
    };
    let mut stage = match set.await {
        Ok(stage) => stage,
        Err(Error::Interrupted) => return Outcome::Interrupted,
        Err(error) => {
            tell(&error);
            return Outcome::Failed;
        }
    };
    let outcome = match serve(&mut stage, stop).await {
        Ok(()) => Outcome::Held,
        Err(error) => {
            tell(&error);
            Outcome::Failed
        }
    };
    say("ending all parts");
    stage.strike().await;
    outcome
}

/// The file is there exactly as long as this runs: before anything ends, it is gone.
async fn serve(stage: &mut Stage, stop: &CancellationToken) -> Result<(), Error> {
    let env = announce(stage)?;
    print(&usage(stage, &env));
    loop {
        if let Ok(()) = tokio::time::timeout(LOOK, stop.cancelled()).await {
            return Ok(());
        }
        stage.rig.alive()?;
    }
}

/// Writes the file that a shell sources.
pub(super) fn announce(stage: &Stage) -> Result<Env, Error> {
    let rig = &stage.rig;
    let programs = [rig.cluster().kubectl_program(), &rig.binaries.cli];
    let mut values = vec![
        (
            "KUBECONFIG",
            rig.cluster().kubeconfig().display().to_string(),
        ),
        ("PATH", env::path_with(rig.folder(), &programs)?),
        ("RUNPOD_API_URL", rig.surroundings.runpod_url.clone()),
        ("RUNPOD_API_KEY", rig.provider_key.clone()),
        ("HF_ENDPOINT", rig.surroundings.hub_url.clone()),
        ("SRCHAT_DEMO_MODEL", stage.model().to_owned()),
    ];
    let given = || std::env::var("SRCHAT_SIM_LEDGER_URL").ok();
    let ledger = rig
        .simulator
        .as_ref()
        .map(|simulator| simulator.ledger_url().to_owned())
        .or_else(given);
    values.extend(ledger.map(|url| ("SRCHAT_SIM_LEDGER_URL", url)));
    let folder = stage
        .folder
        .as_ref()
        .ok_or_else(|| Error::Not("target/demo is another demo's".to_owned()))?;
    Ok(Env::write(folder, &values)?)
}

fn usage(stage: &Stage, env: &Env) -> String {
    let indented: String = stage
        .manifest()
        .lines()
        .map(|line| format!("  {line}\n"))
        .collect();
    format!(
        "Everything is running. In another terminal:\n\n  . {}\n\nwhich says\n\n{}\nThen, for example:\n\n  \
         kubectl apply -f - <<'END'\n{indented}  END\n  kubectl get chat --watch\n  srchat attach {}\n  \
         kubectl delete chat {}\n\nCtrl-C here ends everything.",
        env.path().display(),
        env.text(),
        super::stage::NAME,
        super::stage::NAME,
    )
}
