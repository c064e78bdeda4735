//! Every reason of every condition and every event is reached: sessions are driven through modelled worlds, and what each pass would
//! tell is collected. A reason that nobody can ever see is a mistake, here or in the resource.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use srchat_crds::conditions::{
    EndpointPublished, HostTrusted, ModelServed, Planned, Provisioned, Reason, Terminated, Type,
    Wiped, WithinLimits,
};
use srchat_crds::events::Event;
use srchat_crds::status::ChatSessionStatus;
use srchat_crds::{Dollars, conditions};

use super::super::decide::world::{Broken, Create, World, boot_id, host_key, start};
use super::super::decide::{Action, Decision, Verdict};
use super::super::ledger::RefusedWhy;
use super::super::observe::{FailedAt, Gap, NoAccount};
use super::super::progress::{self, Progress};
use super::{Facts, events, status};
use crate::host::Stage;
use crate::provider::Fingerprint;

/// What was told of sessions.
#[derive(Default)]
struct Told {
    reasons: BTreeSet<(String, String)>,
    events: BTreeSet<Event>,
}

/// One session's life, told as the controller tells it.
struct Life<'a> {
    told: &'a mut Told,
    world: World,
    status: ChatSessionStatus,
    progress: Option<Progress>,
}

impl Told {
    fn life(&mut self, world: World) -> Life<'_> {
        Life {
            told: self,
            world,
            status: ChatSessionStatus::default(),
            progress: None,
        }
    }

    /// A session that was changed before its first pass, for so many passes.
    fn of(&mut self, passes: u32, change: impl FnOnce(&mut World)) {
        let mut world = World::new();
        change(&mut world);
        self.life(world).passes(passes);
    }

    /// A session that serves, then something changes, for so many passes.
    fn serving(&mut self, passes: u32, change: impl FnOnce(&mut World)) {
        self.served(passes, |_| {}, change);
    }

    fn served(
        &mut self,
        passes: u32,
        before: impl FnOnce(&mut World),
        change: impl FnOnce(&mut World),
    ) {
        let mut world = World::new();
        before(&mut world);
        let mut life = self.life(world);
        while life.pass().verdict != Verdict::Serving {}
        life.passes(2);
        change(&mut life.world);
        life.world.poll();
        life.passes(passes);
    }
}

impl Life<'_> {
    fn passes(&mut self, passes: u32) {
        for _ in 0..passes {
            if self.world.exists {
                self.pass();
            }
        }
    }

    fn pass(&mut self) -> Decision {
        let decision = self.world.next();
        // Facts that are only noted down show in what comes of them.
        if !matches!(decision.action, Some(Action::Note(_))) {
            self.tell(&decision);
        }
        let before = self.world.ledger.clone();
        if let Some(action) = &decision.action {
            self.happened(events::of_action(action, before.as_ref()));
        }
        self.world.perform(&decision);
        if let (Some(before), Some(after)) = (&before, &self.world.ledger) {
            let made = events::of_ledgers(before, after);
            self.happened(made);
        }
        if let (true, Some(again)) = (decision.idle(), decision.again) {
            self.world.now = self.world.now.max(again);
        }
        decision
    }

    fn tell(&mut self, decision: &Decision) {
        let seen = self.world.observation();
        let still = progress::look(&mut self.progress, &seen, decision);
        let shown = status(Facts {
            seen: &seen,
            decision,
            stuck: progress::stuck(still, seen.now),
            trouble: None,
            endpoint: "https://gateway.example/team/chat/v1",
            previous: &self.status,
            written: None,
        });
        self.happened(events::of_conditions(
            &self.status.conditions,
            &shown.conditions,
        ));
        for condition in &shown.conditions {
            let said = (condition.type_.clone(), condition.reason.clone());
            self.told.reasons.insert(said);
        }
        self.status = shown;
    }

    fn happened(&mut self, events: Vec<(Event, String)>) {
        self.told
            .events
            .extend(events.into_iter().map(|(event, _)| event));
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn everything() -> Told {
    let mut told = Told::default();
    starts(&mut told);
    obstacles(&mut told);
    losses(&mut told);
    limits(&mut told);
    ends(&mut told);
    told
}

fn starts(told: &mut Told) {
    told.serving(80, |world| world.session.deleting = true);
    told.serving(80, |world| world.session.replicas = 0);
    for stage in [Stage::Connecting, Stage::Installing, Stage::Downloading] {
        told.of(80, |world| world.stage = stage);
    }
    told.of(60, |world| world.create = Create::MadeAndLost);
    told.of(80, |world| world.create = Create::Twice);
    told.of(60, |world| world.broken = Broken::Vllm);
}

fn obstacles(told: &mut Told) {
    for reason in Planned::ALL {
        told.of(10, |world| world.no_plan = Some(*reason));
    }
    told.of(5, |world| {
        world.session.unreadable = Some("unknown variant".to_owned());
    });
    for why in [
        RefusedWhy::InsufficientBalance,
        RefusedWhy::Unauthorized,
        RefusedWhy::RateLimited,
    ] {
        told.of(12, |world| {
            (world.create, world.refused) = (Create::Refuses, why);
        });
    }
    let mut world = World::new();
    world.create = Create::Refuses;
    let mut life = told.life(world);
    while life.world.create == Create::Refuses {
        life.pass();
    }
    life.world.no_plan = Some(Planned::OutOfStock);
    life.passes(5);
    told.of(10, |world| world.no_account = Some(NoAccount::Missing));
    told.of(30, |world| world.outage = u32::MAX);
    told.of(10, |world| world.taken = true);
    told.of(10, |world| world.forbidden = true);
}

fn losses(told: &mut Told) {
    told.of(80, |world| world.boots_fail = true);
    for at in [FailedAt::Starting, FailedAt::Memory] {
        told.of(200, |world| {
            (world.broken, world.broken_at) = (Broken::All, at);
        });
    }
    told.of(2500, |world| world.mute = true);
    told.serving(60, |world| {
        world.pods[0].status = crate::provider::PodStatus::Error;
    });
    told.serving(60, |world| world.pods[0].cost = Dollars::cents(90));
    told.serving(60, |world| {
        (world.pods[0].boot, world.pods[0].key) = (boot_id(9), host_key(9));
        world.now += seconds(400);
    });
    told.serving(60, |world| {
        world.pods[0].key = host_key(9);
        world.now += seconds(400);
    });
}

fn limits(told: &mut Told) {
    let end = start() + seconds(4 * 3600);
    for left in [300, 0] {
        told.serving(60, |world| world.now = end - seconds(left));
    }
    for unused in [1600, 1900] {
        told.served(
            60,
            |world| world.session.limits.idle = Some(seconds(1800)),
            |world| {
                world.last_use = Some(world.now);
                world.now += seconds(unused);
            },
        );
    }
    for minutes in [35, 70] {
        told.served(
            60,
            |world| world.session.limits.total = Some(Dollars::cents(50)),
            |world| world.now += seconds(minutes * 60),
        );
    }
    told.of(10, |world| {
        world.now = start() + seconds(7200);
        world.gap = Some(Gap {
            from: start() + seconds(60),
            until: world.now - seconds(1),
        });
    });
}

fn ends(told: &mut Told) {
    // While it boots there is nothing to clear.
    let mut life = told.life(World::new());
    while life.pass().verdict != Verdict::Booting {}
    life.world.session.deleting = true;
    life.passes(80);
    told.serving(80, |world| {
        (world.mute, world.session.deleting) = (true, true);
    });
    // A controller that was away while the time for clearing passed.
    let mut life = told.life(World::new());
    while life.pass().verdict != Verdict::Serving {}
    life.world.session.replicas = 0;
    life.pass();
    life.world.now += seconds(120);
    life.world.forget();
    life.passes(80);
    for change in [
        |world: &mut World| world.outage = u32::MAX,
        |world: &mut World| world.no_account = Some(NoAccount::Refused),
        |world: &mut World| world.account = Fingerprint("another".to_owned()),
        |world: &mut World| {
            world.account = Fingerprint("another".to_owned());
            world.session.abandon = Some(world.pods[0].id.to_string());
        },
    ] {
        let mut life = told.life(World::new());
        while life.pass().verdict != Verdict::Serving {}
        life.world.session.replicas = 0;
        while life
            .world
            .ledger
            .as_ref()
            .is_none_or(|ledger| ledger.pods[0].deleted.is_none())
        {
            life.pass();
        }
        change(&mut life.world);
        life.passes(20);
    }
}

fn of<R: Reason>(type_: Type, all: &[R]) -> impl Iterator<Item = (String, String)> {
    let named = move |reason: &R| (type_.as_str().to_owned(), reason.name().to_owned());
    all.iter().map(named)
}

#[test]
fn every_reason_and_every_event_is_told_of_some_session() {
    let told = everything();
    let all: BTreeSet<(String, String)> = of(Type::Planned, Planned::ALL)
        .chain(of(Type::Provisioned, Provisioned::ALL))
        .chain(of(Type::HostTrusted, HostTrusted::ALL))
        .chain(of(Type::ModelServed, ModelServed::ALL))
        .chain(of(Type::EndpointPublished, EndpointPublished::ALL))
        .chain(of(Type::WithinLimits, WithinLimits::ALL))
        .chain(of(Type::Wiped, Wiped::ALL))
        .chain(of(Type::Terminated, Terminated::ALL))
        .collect();
    let untold: Vec<_> = all.difference(&told.reasons).collect();
    assert!(untold.is_empty(), "never told: {untold:?}");
    let ready = |reason: &str| (Type::Ready.as_str().to_owned(), reason.to_owned());
    for reason in ["Serving", "Paused", "Ended"] {
        assert!(told.reasons.contains(&ready(reason)), "{reason}");
    }
    for (type_, reason) in &told.reasons {
        let known = all.contains(&(type_.clone(), reason.clone()))
            || *type_ == conditions::Type::Ready.as_str();
        assert!(known, "{type_}={reason} is none of the resource's");
    }
    let unsent: Vec<_> = Event::ALL
        .iter()
        .filter(|event| !told.events.contains(event))
        .collect();
    assert!(unsent.is_empty(), "never sent: {unsent:?}");
}
