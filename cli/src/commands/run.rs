//! `srchat run`: from a model's name to a chat, with the price shown and confirmed, and the session ended afterwards.

use crate::args;
use crate::cluster::Cluster;
use crate::commands::{attach, rm};
use crate::failure::{Code, Failure};
use crate::print::Printer;
use crate::proposal::{self, Confirmed, Planned, Words};
use crate::{confirm, ready, session, signals};
use futures::FutureExt as _;
use srchat_crds::ChatSession;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Told to stop, we still owe the end of what costs money; an API server that is up answers in less.
const LAST_WORD: Duration = Duration::from_secs(10);

/// Plans, asks, rents, waits, chats, and ends.
pub async fn run(cluster: &Cluster, args: args::Run, print: &Arc<Printer>) -> Result<(), Failure> {
    if !args.yes && !print.can_ask() {
        return Err(Failure::new(
            Code::Usage,
            "there is nobody to ask whether the price is right",
        )
        .hint("--yes rents without asking; `srchat plan` shows the price"));
    }
    let made = tokio::select! {
        made = proposal::make(cluster, &args.wishes) => made?,
        () = signals::stopped() => return Err(Failure::silent(Code::Interrupted)),
    };
    let (rents, keeps) = (AtomicBool::new(false), Arc::new(AtomicBool::new(args.keep)));
    let stages = stages(cluster, &args, (&made, &rents, &keeps), print);
    // A bug of ours must not leave a pod behind: a panic ends the session like any other end.
    let outcome = tokio::select! {
        outcome = AssertUnwindSafe(stages).catch_unwind() => {
            outcome.unwrap_or_else(|_| Err(Failure::new(Code::Error, "the chat ended by a bug in srchat")))
        }
        () = signals::ended() => Err(Failure::silent(Code::Interrupted)),
    };
    print.clear_progress();
    let leave = match &outcome {
        Ok(leave) => *leave,
        Err(_) if keeps.load(Ordering::Relaxed) && rents.load(Ordering::Relaxed) => Leave::Running,
        Err(_) => Leave::Ended,
    };
    finish(cluster, &made, leave, (&outcome, rents.into_inner()), print).await;
    outcome.map(|_| ())
}

/// What becomes of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// It goes on, until its limits end it.
    Running,
    /// It is deleted.
    Ended,
}

async fn stages(
    cluster: &Cluster,
    args: &args::Run,
    (made, rents, keeps): (&ChatSession, &AtomicBool, &Arc<AtomicBool>),
    print: &Arc<Printer>,
) -> Result<Leave, Failure> {
    let rented = tokio::select! {
        rented = rent(cluster, args, made, print) => rented?,
        _ = tokio::signal::ctrl_c() => return Err(Failure::silent(Code::Interrupted)),
    };
    let Some(rented) = rented else {
        print.note("Nothing was rented.");
        return Ok(Leave::Ended);
    };
    rents.store(true, Ordering::Relaxed);
    let name = session::name(&rented);
    // The run's own limits say when it is too late; they end the wait as well.
    let patience = rented.spec.limits.lifetime.duration();
    let ready = tokio::select! {
        ready = ready::wait(cluster, name, patience, print) => ready?,
        _ = tokio::signal::ctrl_c() => return Err(Failure::silent(Code::Interrupted)),
    };
    let start = attach::Start {
        first: None,
        no_history: args.no_history,
        ends: !args.keep,
        keep: Arc::clone(keeps),
    };
    attach::chat(cluster, &ready, start, print).await?;
    if keeps.load(Ordering::Relaxed) {
        return Ok(Leave::Running);
    }
    if !print.can_ask() {
        return Ok(Leave::Ended);
    }
    let hourly = session::status(&ready).cost.map(|cost| cost.hourly);
    let costs = hourly.map_or_else(String::new, |hourly| {
        format!(" It costs ${hourly} an hour.")
    });
    let question = format!("End {name}?{costs}");
    tokio::select! {
        end = confirm::yes(print, &question, true) => {
            Ok(if end? { Leave::Ended } else { Leave::Running })
        }
        _ = tokio::signal::ctrl_c() => Ok(Leave::Ended),
    }
}

/// Shows the plan until it is confirmed as shown, or declined.
async fn rent(
    cluster: &Cluster,
    args: &args::Run,
    made: &ChatSession,
    print: &Printer,
) -> Result<Option<ChatSession>, Failure> {
    let mut planned = proposal::planned(cluster, made, print).await?;
    loop {
        print.note(&Words(&planned).to_string());
        if !agreed(args, &planned, print).await? {
            return Ok(None);
        }
        match proposal::confirm(cluster, planned).await? {
            Confirmed::Rents(session) => return Ok(Some(*session)),
            Confirmed::Changed(other) => {
                print.note("The offer has changed meanwhile:");
                planned = *other;
            }
        }
    }
}

/// `--yes` says yes to what the limits allow, never to raising them.
async fn agreed(args: &args::Run, planned: &Planned, print: &Printer) -> Result<bool, Failure> {
    let name = session::name(&planned.session);
    let price = planned.plan.hourly_cost;
    if !planned.is_too_dear() {
        let question = format!("Rent it as {name}, {}?", Words(planned).price());
        return match args.yes {
            true => Ok(true),
            false => confirm::yes(print, &question, true).await,
        };
    }
    let (cap, needed) = (planned.cap, planned.cap_needed());
    let message = format!("nothing that fits costs ${cap} an hour or less; this costs ${price}");
    if args.yes || !print.can_ask() {
        return Err(Failure::new(Code::Error, message)
            .hint(format!("--max-cost-per-hour {needed} allows it")));
    }
    print.note(&format!("{message}."));
    let question = format!("Raise the limit to ${needed} an hour and rent it as {name}?");
    confirm::yes(print, &question, false).await
}

/// Ends the session or says that it goes on. What fails here is said, and does not hide how the chat ended.
async fn finish(
    cluster: &Cluster,
    made: &ChatSession,
    leave: Leave,
    (outcome, rents): (&Result<Leave, Failure>, bool),
    print: &Printer,
) {
    let name = session::name(made);
    if leave == Leave::Running {
        print.note(&format!(
            "{name} goes on: `srchat attach {name}` comes back, `srchat rm {name}` ends it."
        ));
        return;
    }
    let deleted = tokio::time::timeout(LAST_WORD, rm::delete(cluster, made)).await;
    let deleted = deleted
        .unwrap_or_else(|_| Err(Failure::new(Code::Error, "the API server does not answer")));
    if let Err(failure) = deleted {
        print.note(&format!("could not end {name}: {}", failure.message));
        print.note(&match rents {
            true => format!("`srchat rm {name}` ends it; its limits do at the latest."),
            false => "Nothing was rented, and the operator deletes it by itself.".to_owned(),
        });
        return;
    }
    if !rents {
        return;
    }
    // Who left by themselves may see the end; who was told to stop is gone at once.
    let stay = print.can_ask() && outcome.is_ok();
    if !stay {
        print.note(&format!(
            "{name} is ending; it disappears once its pod is proved gone."
        ));
        return;
    }
    print.note(&format!(
        "{name} is ending; Ctrl-C leaves it to the operator."
    ));
    let followed = tokio::select! {
        followed = rm::follow(cluster, made, print) => followed,
        () = signals::stopped() => Ok(()),
    };
    if let Err(failure) = followed {
        print.note(&failure.message);
    }
}
