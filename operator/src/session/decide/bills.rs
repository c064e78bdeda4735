//! What the provider bills, asked for after a pod's end: last of all, once on the way, and again while a session rests. No end and
//! no rent ever waits for a bill.

use std::ops::ControlFlow::{Break, Continue};
use std::time::Duration;

use jiff::Timestamp;

use super::super::ledger::{Bill, Change, GoneHow, PodRecord, span};
use super::books::note;
use super::{Look, Or, View};

/// Before a bill that was late is asked for again; each time it takes as long again as the pod has been gone.
const SOONEST: Duration = Duration::from_secs(600);
/// A bill that is not whole so long after the pod's end stays as it is. Periods are hours.
const LATEST: Duration = Duration::from_secs(24 * 3600);

/// Notes what was heard.
pub(super) fn keep(view: &View<'_>) -> Or {
    for record in &view.ledger.pods {
        let Some(seen) = view.seen.bills.get(&record.id) else {
            continue;
        };
        let news = record.bill.as_ref().is_none_or(|bill| bill.at < seen.at);
        if let (Ok(billed), true) = (&seen.found, news) {
            let bill = Bill {
                at: seen.at,
                total: billed.total,
                until: billed.until,
            };
            return Break(note(
                view,
                Change::Billed {
                    pod: record.id.clone(),
                    bill,
                },
            ));
        }
    }
    Continue(())
}

/// The look at the bill of a pod that nobody has asked about since its end. One try: what it says, or that it says nothing, is enough.
pub(super) fn first(view: &View<'_>, record: &PodRecord) -> Option<Look> {
    (record.bill.is_none() && !view.seen.bills.contains_key(&record.id))
        .then(|| look(view, record))
        .flatten()
}

/// The next look at a bill that is not whole yet.
pub(super) enum Later {
    Now(Look),
    At(Timestamp),
}

/// For a session at rest: bills that may still change.
pub(super) fn later(view: &View<'_>) -> Option<Later> {
    let pods = view.ledger.pods.iter();
    let (due, record) = pods
        .filter_map(|record| Some((due(view, record)?, record)))
        .min_by_key(|(due, _)| *due)?;
    if due > view.now() {
        Some(Later::At(due))
    } else {
        look(view, record).map(Later::Now)
    }
}

/// When a bill is to be asked for again; `None`: never, since it is whole, or too late.
fn due(view: &View<'_>, record: &PodRecord) -> Option<Timestamp> {
    let gone = record.gone.filter(|gone| gone.how == GoneHow::Proved)?;
    if record.billed().is_some() {
        return None;
    }
    let heard = record.bill.as_ref().map(|bill| bill.at);
    let asked = view.seen.bills.get(&record.id).map(|seen| seen.at);
    let due = match heard.max(asked) {
        None => view.now(),
        Some(last) => last + span(gone.at, last).max(SOONEST),
    };
    (due <= gone.at + LATEST).then_some(due)
}

/// Without a key there is nobody to ask.
fn look(view: &View<'_>, record: &PodRecord) -> Option<Look> {
    view.seen.house.account.as_ref().ok()?;
    Some(Look::Bill {
        pod: record.id.clone(),
        since: record.created,
    })
}
