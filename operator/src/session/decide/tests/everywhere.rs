//! The exhaustive test: from every small world, decisions applied one by one come to rest in a few steps, never pay twice, and leave
//! nothing behind when the session is deleted, paused or ended.

use std::time::Duration;

use jiff::Timestamp;

use super::super::Verdict;
use super::super::world::{
    Broken, Create, Draw, Real, World, boot_id, host_key, pod_id, real, record, start,
};
use crate::host::Medium;
use crate::provider::{Address, PodStatus};
use crate::route::Engine;
use crate::session::decide::world::attempt;
use crate::session::ledger::{
    Change, Doom, EndReason, Ended, Ledger, Outcome, Pin, PodRecord, Served, Why, Wipe, WipeResult,
};
use crate::session::observe::{Gap, RouteSeen};

/// How far the ledger got with the one pod that it may know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Nothing,
    Open,
    Live,
    Pinned,
    Reached,
    Restarted,
    Served,
    Doomed,
    Wiped,
    Deleted,
    ProvedOnce,
    Gone,
}

const KNOWN: [Known; 12] = [
    Known::Nothing,
    Known::Open,
    Known::Live,
    Known::Pinned,
    Known::Reached,
    Known::Restarted,
    Known::Served,
    Known::Doomed,
    Known::Wiped,
    Known::Deleted,
    Known::ProvedOnce,
    Known::Gone,
];

const STATUSES: [Option<PodStatus>; 8] = [
    None,
    Some(PodStatus::Provisioning),
    Some(PodStatus::Starting),
    Some(PodStatus::Running),
    Some(PodStatus::Exited),
    Some(PodStatus::Error),
    Some(PodStatus::Terminated),
    Some(PodStatus::Other),
];

/// Since the intent: in its window, in its quiet period, past it, past start-up, past the lifetime.
const AGES: [u64; 5] = [5, 90, 200, 30 * 60, 5 * 3600];

#[derive(Clone, Copy, Debug)]
struct Case {
    known: Known,
    first: Option<PodStatus>,
    second: Option<PodStatus>,
    replicas: u8,
    deleting: bool,
    guarded: bool,
    ended: bool,
    age: u64,
    outage: bool,
    gap: bool,
    broken: Broken,
    /// What the first pod has drawn, and the next one that is rented.
    draw: Draw,
}

fn cases() -> impl Iterator<Item = Case> {
    let bools = [false, true];
    let wants = [(0, false), (1, false), (1, true)];
    KNOWN.into_iter().flat_map(move |known| {
        STATUSES.into_iter().flat_map(move |first| {
            [None, Some(PodStatus::Running), Some(PodStatus::Terminated)]
                .into_iter()
                .flat_map(move |second| {
                    wants.into_iter().flat_map(move |(replicas, deleting)| {
                        AGES.into_iter().flat_map(move |age| {
                            bools.into_iter().flat_map(move |ended| {
                                [
                                    (true, false, false, Broken::None, Draw::Good),
                                    (true, true, false, Broken::None, Draw::Good),
                                    (true, false, true, Broken::None, Draw::Good),
                                    (false, false, false, Broken::None, Draw::Good),
                                    (true, false, false, Broken::Vllm, Draw::Good),
                                    (true, false, false, Broken::All, Draw::Good),
                                    (true, false, false, Broken::None, Draw::Stuck),
                                    (true, true, false, Broken::None, Draw::Portless),
                                    (true, false, false, Broken::None, Draw::Speechless),
                                ]
                                .into_iter()
                                .map(move |(guarded, outage, gap, broken, draw)| Case {
                                    known,
                                    first,
                                    second,
                                    replicas,
                                    deleting,
                                    guarded,
                                    ended,
                                    age,
                                    outage,
                                    gap,
                                    broken,
                                    draw,
                                })
                                // A machine matters only to a session that waits for it.
                                .filter(|case: &Case| {
                                    case.draw == Draw::Good || (case.replicas == 1 && !case.ended)
                                })
                            })
                        })
                    })
                })
        })
    })
}

fn build(case: Case) -> World {
    let Case {
        known,
        first,
        second,
        replicas,
        deleting,
        guarded,
        ended,
        age,
        outage,
        gap,
        broken,
        draw,
    } = case;
    let mut world = World::under_way();
    world.broken = broken;
    world.draws = vec![draw];
    world.now = start() + Duration::from_secs(age);
    world.session.replicas = replicas;
    world.session.deleting = deleting;
    world.session.finalizer = guarded;
    world.outage = if outage { 3 } else { 0 };
    world.gap = gap.then(|| Gap {
        from: start() + Duration::from_secs(1),
        until: world.now - Duration::from_secs(1),
    });
    let now = world.now;
    let ledger = world.ledger.as_mut().unwrap();
    note(ledger, known, now);
    if ended {
        ledger.run.ended = Some(Ended {
            at: now,
            reason: EndReason::Lifetime,
        });
    }
    if matches!(known, Known::Served) {
        world.published = true;
        let address = Address {
            host: "192.0.2.1".to_owned(),
            port: 22,
        };
        world.route = RouteSeen::Is {
            token: Some("hash".to_owned()),
            host: Some((host_key(1), address)),
        };
    }
    let mut pods: Vec<Real> = Vec::new();
    if let Some(status) = first {
        let mut pod = real(1, 1, start(), status);
        pod.draw = draw;
        if known == Known::Restarted {
            (pod.boot, pod.key) = (boot_id(9), host_key(9));
        }
        pod.deployed = (known == Known::Served).then(|| (start(), Engine::Vllm));
        pods.push(pod);
    }
    pods.extend(second.map(|status| real(2, 1, start() + Duration::from_secs(1), status)));
    world.pods = pods;
    world
}

fn note(ledger: &mut Ledger, known: Known, now: Timestamp) {
    if known == Known::Nothing {
        return;
    }
    ledger.apply(Change::Intend {
        attempt: Box::new(attempt(1, start(), Outcome::Open { misses: Vec::new() })),
        plan: None,
    });
    if known == Known::Open {
        return;
    }
    ledger.apply(Change::Rented {
        pod: Box::new(written(known, now)),
    });
}

fn written(known: Known, now: Timestamp) -> PodRecord {
    let at = now - Duration::from_secs(1);
    let mut pod = record(1, 1, start());
    let step = KNOWN.iter().position(|other| *other == known).unwrap();
    let reached = |other: Known| step >= KNOWN.iter().position(|each| *each == other).unwrap();
    if reached(Known::Pinned) {
        pod.pin = Some(Pin {
            at: start(),
            boot: boot_id(1),
            key: host_key(1),
        });
    }
    if reached(Known::Reached) {
        pod.reached = Some(start());
    }
    if reached(Known::Served) {
        pod.served = Some(Served {
            at: start(),
            medium: Medium::Memory,
            quota: 1,
        });
    }
    if reached(Known::Doomed) {
        pod.doom = Some(Doom {
            at,
            why: Why::Paused,
            detail: String::new(),
        });
    }
    if reached(Known::Wiped) {
        pod.wipe = Some(Wipe {
            at,
            result: WipeResult::Cleared,
            detail: String::new(),
        });
    }
    if reached(Known::Deleted) {
        pod.deleted = Some(start());
        pod.deleted_last = Some(start());
    }
    if reached(Known::ProvedOnce) {
        pod.proofs.push(start() + Duration::from_secs(2));
    }
    if reached(Known::Gone) {
        pod.proofs.push(start() + Duration::from_secs(2));
        pod.gone = Some(crate::session::ledger::Gone {
            at: start() + Duration::from_secs(3),
            how: crate::session::ledger::GoneHow::Proved,
        });
    }
    pod
}

/// What must be true of a world at rest.
fn at_rest(world: &World, verdict: &Verdict) {
    match verdict {
        Verdict::Serving => {
            assert_eq!(world.billing(), 1, "serves with one pod");
            let current = world.ledger.as_ref().unwrap().current().unwrap();
            assert!(
                world
                    .pods
                    .iter()
                    .any(|pod| pod.id == current.id && pod.bills())
            );
        }
        Verdict::Paused | Verdict::Ended(_) | Verdict::Finished => {
            assert_eq!(world.billing(), 0, "rests without a pod\n{}", world.story());
            assert!(
                !matches!(
                    &world.route,
                    RouteSeen::Is {
                        token: _,
                        host: Some(_)
                    }
                ),
                "rests with an open door"
            );
        }
        other => panic!("not a state of rest: {other:?}"),
    }
}

fn expect(case: Case, world: &World, verdict: &Verdict) {
    let gone = !world.exists;
    if case.deleting && case.guarded {
        assert!(gone, "a deleted session goes");
    } else if case.deleting {
        assert_eq!(*verdict, Verdict::Finished);
    } else if case.replicas == 0 {
        assert_eq!(*verdict, Verdict::Paused);
    } else if case.ended {
        assert_eq!(*verdict, Verdict::Ended(EndReason::Lifetime));
    } else {
        let run = &world.ledger.as_ref().unwrap().run;
        assert!(
            *verdict == Verdict::Serving || run.ended.is_some(),
            "a wanted session serves, or a limit ended it: {verdict:?}"
        );
    }
}

#[test]
fn every_small_world_settles_pays_once_and_ends_empty() {
    let mut worlds = 0;
    for case in cases() {
        let trial = std::panic::catch_unwind(|| {
            let mut world = build(case);
            let verdict = world.settle();
            at_rest(&world, &verdict);
            expect(case, &world, &verdict);
            // Where no engine starts, each attempt is paid for; one that has another engine to fall back to is paid for once.
            let most = match (case.broken, case.draw) {
                (Broken::All, _) => 3,
                // A bad draw is paid for, and then a good one.
                (Broken::None | Broken::Vllm, Draw::Stuck | Draw::Portless | Draw::Speechless) => 2,
                (Broken::None | Broken::Vllm, Draw::Good) => 1,
            };
            assert!(
                world.created <= most,
                "pays once for one outcome\n{}",
                world.story()
            );
            stays(world, &verdict);
        });
        assert!(trial.is_ok(), "{case:?}");
        worlds += 1;
    }
    assert!(worlds > 20_000, "only {worlds} worlds");
}

/// Looked at again, and again after a restart that forgot everything but the ledger, nothing changes any more.
fn stays(mut world: World, verdict: &Verdict) {
    if !world.exists {
        return;
    }
    // What was billed may become known later; nothing is done about it.
    let unbilled = |world: &World| {
        let mut ledger = world.ledger.clone();
        for pod in ledger.iter_mut().flat_map(|ledger| &mut ledger.pods) {
            pod.bill = None;
        }
        (ledger, world.pods.len(), world.created)
    };
    let before = unbilled(&world);
    world.forget();
    assert_eq!(
        world.settle(),
        *verdict,
        "stays as it is\n{}",
        world.story()
    );
    assert_eq!(
        unbilled(&world),
        before,
        "and nothing is done\n{}",
        world.story()
    );
}

#[test]
fn a_session_serves_once_whatever_its_first_create_does() {
    for create in [
        Create::Answers,
        Create::MadeAndLost,
        Create::Lost,
        Create::Twice,
        Create::Refuses,
    ] {
        for outage in [0, 1, 5] {
            for deaf in [0, 1, 3] {
                let mut world = World::new();
                (world.create, world.outage, world.deaf) = (create, outage, deaf);
                assert_eq!(world.settle(), Verdict::Serving);
                at_rest(&world, &Verdict::Serving);
                world.session.deleting = true;
                assert_eq!(
                    world.settle(),
                    Verdict::Finished,
                    "{create:?} {outage} {deaf}"
                );
                assert!(!world.exists);
                at_rest(&world, &Verdict::Finished);
            }
        }
    }
}

#[test]
fn a_session_that_is_deleted_after_any_number_of_steps_goes_and_leaves_nothing() {
    for create in [
        Create::Answers,
        Create::MadeAndLost,
        Create::Lost,
        Create::Twice,
        Create::Refuses,
    ] {
        for steps in 0..40 {
            let mut world = World::new();
            world.create = create;
            for _ in 0..steps {
                let decision = world.pass();
                if let (true, Some(again)) = (decision.idle(), decision.again) {
                    world.now = world.now.max(again);
                }
            }
            world.session.deleting = true;
            // Without a finalizer the API server lets it go at once.
            world.exists = world.session.finalizer;
            assert_eq!(
                world.settle(),
                Verdict::Finished,
                "{create:?} after {steps}"
            );
            at_rest(&world, &Verdict::Finished);
        }
    }
}

#[test]
fn a_controller_that_forgets_everything_after_any_step_goes_on_as_before() {
    for create in [
        Create::Answers,
        Create::MadeAndLost,
        Create::Lost,
        Create::Twice,
        Create::Refuses,
    ] {
        let mut world = World::new();
        world.create = create;
        for _ in 0..400 {
            let decision = world.pass();
            if decision.idle() {
                if decision.verdict == Verdict::Serving {
                    break;
                }
                world.now = world.now.max(decision.again.unwrap());
            }
            world.forget();
        }
        assert_eq!(world.settle(), Verdict::Serving);
        at_rest(&world, &Verdict::Serving);
        assert_eq!(world.pods.iter().filter(|pod| pod.bills()).count(), 1);
        let _ = pod_id(1);
    }
}
