//! One sentence a test, in the order of the invariants that they are about.

use std::time::Duration;

use jiff::Timestamp;
use srchat_crds::Dollars;
use srchat_crds::status::CostSource;

use super::super::world::{
    Broken, Create, World, account, attempt, boot_id, host_key, pod_id, real, record, start,
};
use super::super::{Action, Blocked, Ending, Verdict, decide};
use crate::provider::{Fingerprint, PodStatus};
use crate::route::Engine;
use crate::session::ledger::{Change, EndReason, GoneHow, Outcome, Pin, Why, WipeResult, span};
use crate::session::observe::{
    EngineSeen, FailedAt, Gap, LedgerSeen, NoAccount, Observation, RouteSeen,
};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A world that serves.
fn serving() -> World {
    let mut world = World::new();
    assert_eq!(world.settle(), Verdict::Serving);
    world
}

fn ended(world: &World) -> Option<EndReason> {
    world
        .ledger
        .as_ref()
        .unwrap()
        .run
        .ended
        .map(|ended| ended.reason)
}

fn only_pod(world: &World) -> &crate::session::ledger::PodRecord {
    let pods = &world.ledger.as_ref().unwrap().pods;
    assert_eq!(pods.len(), 1);
    &pods[0]
}

/// How often an action was done.
fn done(world: &World, action: &str) -> usize {
    world
        .lines()
        .iter()
        .filter(|line| line.contains(action))
        .count()
}

fn when(world: &World, action: &str) -> usize {
    world
        .lines()
        .iter()
        .position(|line| line.contains(action))
        .unwrap_or_else(|| panic!("{action} never happened"))
}

#[test]
fn s1_the_first_action_is_the_ledger_and_the_second_the_finalizer() {
    let mut world = World::new();
    assert!(matches!(
        world.pass().action,
        Some(Action::Open {
            adrift: false,
            latch: None
        })
    ));
    assert_eq!(world.pass().action, Some(Action::Guard));
    assert_eq!(world.settle(), Verdict::Serving);
    assert!(
        when(&world, "Guard") < when(&world, "Publish")
            && when(&world, "Publish") < when(&world, " Rent {")
    );
}

#[test]
fn s2_an_attempt_of_unknown_outcome_is_waited_out_before_anything_else_is_rented() {
    let mut world = World::new();
    world.create = Create::Lost;
    assert_eq!(world.settle(), Verdict::Serving);
    let ledger = world.ledger.as_ref().unwrap();
    assert_eq!((ledger.folded.absent, ledger.folded.highest), (1, 1));
    assert_eq!(only_pod(&world).attempt, 2, "a number is never used twice");
    let quiet = seconds(60 + 60 + 10);
    assert!(
        only_pod(&world).created > start() + quiet,
        "two lists, ten seconds apart, begun after deadline + 60 s"
    );
}

#[test]
fn s2_of_two_pods_of_one_unanswered_request_the_oldest_is_adopted_and_the_other_ended() {
    let mut world = World::under_way();
    let open = attempt(1, start(), Outcome::Open { misses: Vec::new() });
    world.ledger.as_mut().unwrap().apply(Change::Intend {
        attempt: Box::new(open),
        plan: None,
    });
    world.pods = vec![
        real(7, 1, start() + seconds(2), PodStatus::Running),
        real(5, 1, start() + seconds(1), PodStatus::Running),
    ];
    world.pods.sort_by_key(|pod| pod.created);
    assert_eq!(world.settle(), Verdict::Serving);
    let ledger = world.ledger.as_ref().unwrap();
    assert_eq!(ledger.current().unwrap().id, pod_id(5));
    assert_eq!(
        ledger.pod(&pod_id(7)).unwrap().doom.as_ref().unwrap().why,
        Why::Duplicate
    );
    assert!(ledger.pod(&pod_id(7)).unwrap().gone.is_some());
    assert_eq!(world.created, 0);
}

#[test]
fn s2_a_refused_attempt_is_closed_and_another_offer_tried() {
    let mut world = World::new();
    world.create = Create::Refuses;
    assert_eq!(world.settle(), Verdict::Serving);
    assert_eq!(world.ledger.as_ref().unwrap().folded.refused, 1);
    assert_eq!(
        world.ledger.as_ref().unwrap().used(),
        1,
        "a refusal costs no attempt"
    );
}

#[test]
fn s5_s7_nothing_is_rented_while_the_provider_cannot_be_read() {
    let mut world = World::new();
    world.outage = u32::MAX;
    for _ in 0..200 {
        let decision = world.pass();
        if let (true, Some(again)) = (decision.idle(), decision.again) {
            world.now = world.now.max(again);
        }
    }
    assert_eq!(world.created, 0);
    assert_eq!(done(&world, " Rent {"), 0);
}

#[test]
fn s6_a_deleted_session_waits_out_a_request_that_may_have_made_a_pod() {
    let mut world = World::new();
    world.create = Create::MadeAndLost;
    for _ in 0..20 {
        if world.created == 0 {
            let _ = world.pass();
        }
    }
    world.session.deleting = true;
    assert_eq!(world.settle(), Verdict::Finished);
    assert_eq!(done(&world, "Rented"), 1, "it was found by its name");
    assert!(
        when(&world, "Terminate") < when(&world, "Receipt")
            && when(&world, "Receipt") < when(&world, "Release")
    );
}

#[test]
fn s6_a_finalizer_without_a_ledger_counts_as_one_request_of_unknown_outcome() {
    let mut world = World::new();
    world.session.finalizer = true;
    world.session.deleting = true;
    world.pods = vec![real(1, 4, start(), PodStatus::Running)];
    assert_eq!(world.settle(), Verdict::Finished);
    assert!(
        world.pods.is_empty(),
        "a pod that nobody remembered was found and ended"
    );
    assert!(
        world.now > start() + seconds(60 + 10),
        "and its quiet period was waited out"
    );
}

#[test]
fn s7_a_pod_is_gone_only_after_two_observations_ten_seconds_apart() {
    let mut world = serving();
    world.session.deleting = true;
    let from = world.now;
    assert_eq!(world.settle(), Verdict::Finished);
    assert_eq!(done(&world, "Note(Proved"), 2);
    assert!(world.now >= from + seconds(10));
}

#[test]
fn s7_one_list_without_a_pod_is_not_a_loss() {
    let mut world = serving();
    world.now += seconds(120);
    let hidden = world.pods.clone();
    world.pods.clear();
    world.poll();
    let decision = world.pass();
    assert!(
        matches!(
            decision.action,
            Some(Action::Note(Change::Missing { since: Some(_), .. }))
        ),
        "{decision:?}"
    );
    world.pods = hidden;
    world.now += seconds(10);
    world.poll();
    assert_eq!(world.settle(), Verdict::Serving);
    assert_eq!(world.created, 1);
    assert_eq!(only_pod(&world).missing, None);
}

#[test]
fn s7_a_pod_that_two_lists_and_a_look_do_not_find_is_lost_and_replaced() {
    let mut world = serving();
    world.now += seconds(120);
    world.pods.clear();
    world.poll();
    let _ = world.pass();
    world.now += seconds(11);
    world.poll();
    assert_eq!(world.settle(), Verdict::Serving);
    assert_eq!(world.created, 2);
    assert_eq!(
        world.ledger.as_ref().unwrap().pods[0]
            .doom
            .as_ref()
            .unwrap()
            .why,
        Why::Lost
    );
}

#[test]
fn s7_a_pod_that_vanishes_while_it_serves_is_missed_long_before_the_next_visit() {
    let mut world = serving();
    let vanished = world.now;
    world.pods.clear();
    // The poller wakes the session once: from then on all lists are alike.
    world.poll();
    while world.ledger.as_ref().unwrap().current().is_some() {
        let decision = world.pass();
        if decision.idle() {
            world.now = world.now.max(decision.again.unwrap());
        }
    }
    let doom = only_pod(&world).doom.clone().unwrap();
    assert_eq!(doom.why, Why::Lost);
    assert!(doom.at < vanished + seconds(90), "{}", world.story());
    assert_eq!(world.settle(), Verdict::Serving);
    assert_eq!(world.created, 2);
}

#[test]
fn s7_another_accounts_silence_proves_nothing() {
    let mut world = serving();
    world.session.deleting = true;
    world.account = Fingerprint("another".to_owned());
    world.pods.clear();
    for _ in 0..100 {
        let decision = world.pass();
        if let (true, Some(again)) = (decision.idle(), decision.again) {
            world.now = world.now.max(again);
            if decision.verdict == Verdict::Ending(Ending::AccountUnknown) {
                assert!(world.exists);
                world.account = account();
                assert_eq!(
                    world.settle(),
                    Verdict::Finished,
                    "with the key that made it, it ends"
                );
                return;
            }
        }
    }
    panic!(
        "it never said that the account is unknown\n{}",
        world.story()
    );
}

#[test]
fn s7_a_delete_that_is_answered_and_not_obeyed_is_sent_again() {
    let mut world = serving();
    world.deaf = 3;
    world.session.deleting = true;
    assert_eq!(world.settle(), Verdict::Finished);
    assert_eq!(done(&world, "Terminate"), 4);
}

#[test]
fn s8_the_host_is_cleared_before_its_pod_is_terminated() {
    let mut world = serving();
    world.session.replicas = 0;
    assert_eq!(world.settle(), Verdict::Paused);
    assert!(
        when(&world, "CloseDoor") < when(&world, "Clear")
            && when(&world, "Clear") < when(&world, "Terminate")
    );
    assert_eq!(
        only_pod(&world).wipe.as_ref().unwrap().result,
        WipeResult::Cleared
    );
}

#[test]
fn s8_a_host_that_does_not_answer_delays_its_end_by_the_wipe_timeout_and_no_longer() {
    let mut world = serving();
    world.mute = true;
    world.session.deleting = true;
    let from = world.now;
    assert_eq!(world.settle(), Verdict::Finished);
    assert!(world.now < from + world.session.wipe_timeout + seconds(30));
    assert_eq!(done(&world, "HostUnreachable"), 1);
}

#[test]
fn s8_a_pod_that_was_never_trusted_has_nothing_to_clear() {
    let mut world = World::under_way();
    let ledger = world.ledger.as_mut().unwrap();
    let intent = attempt(1, start(), Outcome::Open { misses: Vec::new() });
    ledger.apply(Change::Intend {
        attempt: Box::new(intent),
        plan: None,
    });
    ledger.apply(Change::Rented {
        pod: Box::new(record(1, 1, start())),
    });
    world.pods = vec![real(1, 1, start(), PodStatus::Running)];
    world.session.deleting = true;
    assert_eq!(world.settle(), Verdict::Finished);
    assert_eq!(
        (done(&world, "Clear"), done(&world, "NothingToWipe")),
        (0, 1)
    );
}

#[test]
fn s9_a_host_that_was_restarted_is_never_spoken_to_again() {
    let mut world = serving();
    let restarted = &mut world.pods[0];
    (restarted.boot, restarted.key, restarted.deployed) = (boot_id(9), host_key(9), None);
    world.now += seconds(400);
    assert_eq!(world.settle(), Verdict::Serving);
    let first = &world.ledger.as_ref().unwrap().pods[0];
    assert_eq!(first.doom.as_ref().unwrap().why, Why::HostRestarted);
    assert_eq!(
        first.wipe.as_ref().unwrap().result,
        WipeResult::HostUntrusted
    );
    assert_eq!(world.created, 2);
}

#[test]
fn s9_nobody_is_led_to_a_host_that_moved_because_it_was_started_again() {
    let mut world = serving();
    let moved_at = world.now;
    let restarted = &mut world.pods[0];
    (restarted.boot, restarted.key, restarted.deployed) = (boot_id(9), host_key(9), None);
    restarted.port = 2222;
    world.now += seconds(20);
    assert_eq!(world.settle(), Verdict::Serving);
    let first = &world.ledger.as_ref().unwrap().pods[0];
    let doom = first.doom.as_ref().unwrap();
    assert_eq!(doom.why, Why::HostRestarted);
    assert!(
        doom.at < moved_at + seconds(60),
        "long before the next visit"
    );
    let doors = world
        .lines()
        .into_iter()
        .filter(|line| line.contains("OpenDoor"));
    assert!(doors.clone().all(|line| !line.contains("2222")));
    assert_eq!(doors.count(), 2, "the first pod's and its successor's");
}

#[test]
fn a_host_that_only_moved_is_led_to_where_it_is() {
    let mut world = serving();
    world.pods[0].port = 2222;
    world.now += seconds(20);
    assert_eq!(world.settle(), Verdict::Serving);
    assert_eq!(world.created, 1);
    let RouteSeen::Is {
        host: Some((_, address)),
        ..
    } = &world.route
    else {
        panic!("no route: {:?}", world.route);
    };
    assert_eq!(address.port, 2222);
}

#[test]
fn what_is_served_is_found_where_the_route_leads_while_the_provider_is_away() {
    let mut world = serving();
    world.forget();
    world.outage = u32::MAX;
    let decision = loop {
        let decision = world.pass();
        assert_eq!(decision.verdict, Verdict::Serving, "{}", world.story());
        if decision.idle() {
            break decision;
        }
    };
    assert!(decision.again.is_some());
    assert!(world.observation().host.unwrap().found.is_ok());
}

#[test]
fn s9_a_key_that_no_line_of_the_log_explains_condemns_the_host() {
    let mut world = serving();
    let pin = only_pod(&world).pin.clone().unwrap();
    world.pods[0].key = host_key(9);
    assert_eq!(world.pods[0].boot, pin.boot);
    world.now += seconds(400);
    assert_eq!(world.settle(), Verdict::Serving);
    assert_eq!(
        world.ledger.as_ref().unwrap().pods[0]
            .doom
            .as_ref()
            .unwrap()
            .why,
        Why::KeyMismatch
    );
    assert_eq!(
        world.ledger.as_ref().unwrap().pods[0].pin,
        Some(Pin { ..pin }),
        "it is never pinned anew"
    );
}

#[test]
fn s10_the_way_in_is_closed_before_anything_else_ends() {
    let mut world = serving();
    world.session.deleting = true;
    assert_eq!(world.settle(), Verdict::Finished);
    assert!(when(&world, "DropRoute") < when(&world, "Clear"));
}

#[test]
fn s12_a_pod_that_costs_more_than_its_offer_is_ended_and_replaced() {
    let mut world = serving();
    world.pods[0].cost = Dollars::cents(60);
    world.poll();
    assert_eq!(world.settle(), Verdict::Serving);
    let ledger = world.ledger.as_ref().unwrap();
    assert_eq!(ledger.pods[0].doom.as_ref().unwrap().why, Why::PriceDrift);
    assert_eq!(
        ledger.left_out.len(),
        1,
        "and its offer is left out for a while"
    );
    assert_eq!(ledger.used(), 2, "it costs an attempt");
}

#[test]
fn s12_rounding_is_no_drift() {
    let mut world = serving();
    world.pods[0].cost = Dollars::micros(500_000);
    world.poll();
    assert_eq!(world.settle(), Verdict::Serving);
    assert_eq!(world.created, 1);
}

#[test]
fn s12_a_budget_that_does_not_pay_for_a_start_and_an_end_rents_nothing() {
    let mut world = World::new();
    world.session.limits.total = Some(Dollars::cents(1));
    world.session.limits.startup = Some(seconds(1200));
    for _ in 0..20 {
        let decision = world.pass();
        if decision.idle() {
            assert!(
                matches!(decision.verdict, Verdict::Blocked(Blocked::Budget { .. })),
                "{decision:?}"
            );
            assert_eq!((world.created, ended(&world)), (0, None));
            return;
        }
    }
    panic!("it never said so");
}

#[test]
fn s12_the_total_cost_ends_the_run_before_it_is_spent() {
    let mut world = World::new();
    world.session.limits.total = Some(Dollars::cents(50));
    assert_eq!(world.settle(), Verdict::Serving);
    let expiry = world.expiry();
    assert_eq!(expiry.reason, EndReason::Cost);
    assert_eq!(world.pods[0].deadline, expiry.time, "the host knows it");
    world.now = expiry.time;
    assert_eq!(world.settle(), Verdict::Ended(EndReason::Cost));
    assert!(world.ledger.as_ref().unwrap().spent(world.now) <= Dollars::cents(50));
}

#[test]
fn s13_a_list_that_is_old_is_not_enough_to_rent_on() {
    let mut world = World::new();
    for _ in 0..20 {
        if world.created == 0 && !done(&world, "look List").eq(&1) {
            let _ = world.pass();
        }
    }
    world.now += seconds(25);
    assert!(
        decide(&world.observation()).look.is_some(),
        "looks again first"
    );
}

#[test]
fn s14_after_a_gap_a_run_without_a_pod_is_not_rented_for() {
    for known in [false, true] {
        let mut world = if known {
            World::under_way()
        } else {
            World::new()
        };
        world.now = start() + seconds(7200);
        world.gap = Some(Gap {
            from: start() + seconds(60),
            until: world.now - seconds(1),
        });
        assert_eq!(
            world.settle(),
            Verdict::Ended(EndReason::NeedsConfirmation),
            "{known}"
        );
        assert_eq!(world.created, 0);
        world.session.replicas = 0;
        assert_eq!(world.settle(), Verdict::Paused);
        world.session.replicas = 1;
        assert_eq!(
            world.settle(),
            Verdict::Serving,
            "somebody has confirmed it"
        );
    }
}

#[test]
fn s14_after_a_gap_what_serves_goes_on_serving_and_what_is_new_is_rented_for() {
    let mut world = serving();
    world.now += seconds(900);
    world.gap = Some(Gap {
        from: start() + seconds(60),
        until: world.now - seconds(1),
    });
    assert_eq!(world.settle(), Verdict::Serving);
    assert_eq!(world.created, 1);

    let mut young = World::new();
    young.now = start() + seconds(900);
    young.session.created = start() + seconds(300);
    young.gap = Some(Gap {
        from: start() + seconds(60),
        until: young.now - seconds(1),
    });
    assert_eq!(young.settle(), Verdict::Serving);
}

#[test]
fn a_limit_latches_the_end_of_a_run_until_replicas_was_seen_at_0_and_then_at_1() {
    let mut world = serving();
    world.now = start() + seconds(4 * 3600 + 60);
    assert_eq!(world.settle(), Verdict::Ended(EndReason::Lifetime));
    world.session.limits.lifetime = seconds(8 * 3600);
    world.forget();
    assert_eq!(
        world.settle(),
        Verdict::Ended(EndReason::Lifetime),
        "a longer limit does not rent again"
    );
    world.session.replicas = 0;
    assert_eq!(world.settle(), Verdict::Paused);
    world.session.replicas = 1;
    assert_eq!(world.settle(), Verdict::Serving);
    assert_eq!(
        (world.created, world.ledger.as_ref().unwrap().run.number),
        (2, 2)
    );
}

#[test]
fn idleness_ends_a_run_only_when_it_could_be_read() {
    let mut world = World::new();
    world.session.limits.idle = Some(seconds(1800));
    assert_eq!(world.settle(), Verdict::Serving);
    world.last_use = Some(world.now);
    let due = world.now + seconds(1800);

    let mut deaf = world.clone();
    deaf.mute = true;
    deaf.now = due + seconds(1);
    let _ = deaf.pass();
    assert_eq!(ended(&deaf), None, "what cannot be read is never idle");

    world.now = due - seconds(30);
    assert_eq!(world.settle(), Verdict::Serving);
    world.now = due + seconds(1);
    assert_eq!(world.settle(), Verdict::Ended(EndReason::Idle));
}

#[test]
fn use_puts_idleness_off() {
    let mut world = World::new();
    world.session.limits.idle = Some(seconds(1800));
    assert_eq!(world.settle(), Verdict::Serving);
    world.now += seconds(3000);
    assert_eq!(world.settle(), Verdict::Serving, "it is used all the while");
}

#[test]
fn a_pod_that_never_answers_is_replaced_the_last_after_the_startup_deadline_and_then_the_run_ends()
{
    let mut world = World::new();
    world.mute = true;
    assert_eq!(world.settle(), Verdict::Ended(EndReason::Attempts));
    assert_eq!(world.created, 3);
    assert_eq!(done(&world, "BadDraw"), 2);
    assert_eq!(done(&world, "StartupTimeout"), 1);
    assert_eq!(world.billing(), 0);
}

#[test]
fn a_deadline_that_moves_is_told_to_the_host_before_it_is_shown() {
    let mut world = serving();
    world.session.limits.lifetime = seconds(6 * 3600);
    world.now += seconds(5);
    assert_eq!(world.settle(), Verdict::Serving);
    assert_eq!(only_pod(&world).host_deadline, world.expiry().time);
    assert_eq!(world.pods[0].deadline, world.expiry().time);
}

#[test]
fn a_session_without_a_key_says_so_and_goes_when_it_is_deleted() {
    let mut world = World::new();
    world.no_account = Some(NoAccount::Missing);
    let decision = (0..10)
        .map(|_| world.pass())
        .find(super::super::Decision::idle)
        .unwrap();
    assert_eq!(
        decision.verdict,
        Verdict::Blocked(Blocked::NoAccount(NoAccount::Missing))
    );
    world.session.deleting = true;
    assert_eq!(world.settle(), Verdict::Finished);
}

#[test]
fn an_unconfirmed_session_rents_nothing_and_is_deleted_when_its_time_is_over() {
    let mut world = World::new();
    world.session.replicas = 0;
    world.session.unconfirmed_until = Some(start() + seconds(600));
    for _ in 0..50 {
        let decision = world.pass();
        if decision.action == Some(Action::Discard) {
            assert!(world.now >= start() + seconds(600));
            assert_eq!(world.settle(), Verdict::Finished);
            assert_eq!(world.created, 0);
            return;
        }
        if let (true, Some(again)) = (decision.idle(), decision.again) {
            world.now = world.now.max(again);
        }
    }
    panic!("it was never deleted\n{}", world.story());
}

#[test]
fn a_pod_that_cannot_be_proved_gone_is_let_go_of_by_name_only() {
    let mut world = serving();
    world.session.deleting = true;
    world.account = Fingerprint("another".to_owned());
    let id = only_pod(&world).id.clone();
    world.session.abandon = Some("another-pod".to_owned());
    for _ in 0..50 {
        let decision = world.pass();
        world.now = world.now.max(decision.again.unwrap_or(world.now));
    }
    assert!(world.exists);
    world.session.abandon = Some(id.to_string());
    let _ = world.pass();
    assert_eq!(only_pod(&world).gone.unwrap().how, GoneHow::Abandoned);
}

#[test]
fn a_door_that_leads_nowhere_useful_is_closed_whatever_else_is_open() {
    let mut world = serving();
    let address = crate::provider::Address {
        host: "198.51.100.9".to_owned(),
        port: 22,
    };
    world.route = RouteSeen::Is {
        token: Some("hash".to_owned()),
        host: Some((host_key(9), address)),
    };
    world.session.replicas = 0;
    assert_eq!(world.settle(), Verdict::Paused);
    assert!(
        matches!(
            world.route,
            RouteSeen::Is {
                token: Some(_),
                host: None
            }
        ),
        "and the token stays"
    );
}

#[test]
fn a_clock_at_the_end_of_time_panics_nobody() {
    let mut world = serving();
    world.now = Timestamp::MAX - seconds(1);
    world.session.deleting = true;
    let _ = decide(&world.observation());
}

#[test]
fn an_engine_that_does_not_start_gives_way_to_the_other_one_on_the_same_pod() {
    let mut world = World::new();
    world.broken = Broken::Vllm;
    assert_eq!(world.settle(), Verdict::Serving);
    let ledger = world.ledger.as_ref().unwrap();
    assert_eq!(
        ledger.plan.as_ref().unwrap().engine,
        Engine::Transformers,
        "and the plan in force says so"
    );
    let fallback = ledger.run.fallback.as_ref().unwrap();
    assert_eq!(fallback.pod, only_pod(&world).id);
    assert_eq!(fallback.said, "no kernel image is available");
    assert_eq!(
        (world.created, ledger.used(), done(&world, "FellBack")),
        (1, 1, 1)
    );
}

#[test]
fn no_engine_gives_way_twice_in_a_run() {
    let mut world = World::new();
    world.broken = Broken::All;
    assert_eq!(world.settle(), Verdict::Ended(EndReason::Attempts));
    assert_eq!(
        (world.created, done(&world, "FellBack")),
        (3, 1),
        "later pods of the run begin with the engine that is left"
    );
    assert_eq!(done(&world, " Deploy {"), 4);

    world.broken = Broken::None;
    world.session.replicas = 0;
    assert_eq!(world.settle(), Verdict::Paused);
    world.session.replicas = 1;
    assert_eq!(world.settle(), Verdict::Serving);
    let ledger = world.ledger.as_ref().unwrap();
    assert_eq!(
        ledger.plan.as_ref().unwrap().engine,
        Engine::Vllm,
        "another run tries the planned one again"
    );
    assert_eq!(ledger.run.fallback, None);
}

#[test]
fn a_controller_that_forgets_everything_while_an_engine_gives_way_deploys_the_other_one() {
    let mut world = World::new();
    world.broken = Broken::Vllm;
    for _ in 0..400 {
        let decision = world.pass();
        if decision.verdict == Verdict::Serving && decision.idle() {
            break;
        }
        if let (true, Some(again)) = (decision.idle(), decision.again) {
            world.now = world.now.max(again);
        }
        world.forget();
    }
    assert_eq!(world.settle(), Verdict::Serving);
    assert_eq!((world.created, done(&world, "FellBack")), (1, 1));
}

#[test]
fn weights_that_do_not_arrive_and_engines_that_served_are_no_reason_for_another_engine() {
    let world = serving();
    let mut seen = world.observation();
    let failed = |at| {
        let mut host = seen.host.clone().unwrap();
        host.found.as_mut().unwrap().engine = EngineSeen::Failed {
            at,
            said: "no".to_owned(),
        };
        Some(host)
    };
    let (weights, start) = (failed(FailedAt::Weights), failed(FailedAt::Starting));
    let doomed = |seen: &Observation| match decide(seen).action {
        Some(Action::Note(Change::Doomed { doom, .. })) => Some(doom.why),
        _ => None,
    };
    seen.host = start;
    assert_eq!(doomed(&seen), Some(Why::EngineFailed), "it has served");
    let LedgerSeen::Is(ledger) = &mut seen.ledger else {
        panic!("there is a ledger");
    };
    ledger.pods[0].served = None;
    assert!(
        matches!(
            decide(&seen).action,
            Some(Action::Note(Change::FellBack { .. }))
        ),
        "it has never served"
    );
    seen.host = weights;
    assert_eq!(doomed(&seen), Some(Why::EngineFailed));
}

fn source(world: &World) -> (Dollars, CostSource) {
    world.ledger.as_ref().unwrap().account(world.now)
}

#[test]
fn a_pod_that_is_gone_is_accounted_as_it_was_billed_and_asked_about_once() {
    let mut world = serving();
    world.now += seconds(3600);
    assert_eq!(source(&world).1, CostSource::Estimated, "it is billed on");
    world.session.replicas = 0;
    assert_eq!(world.settle(), Verdict::Paused);
    let (cost, from) = source(&world);
    assert_eq!(from, CostSource::Billed);
    assert_eq!(Some(cost), only_pod(&world).billed());
    assert_eq!(done(&world, "look Bill"), 1);
    assert!(
        when(&world, "look Bill") < when(&world, "Note(Billed") && done(&world, "Note(Billed") == 1,
    );
}

#[test]
fn a_bill_that_cannot_be_had_holds_no_end_up() {
    let end = |late| {
        let mut world = serving();
        world.bills_from = late;
        world.session.deleting = true;
        let from = world.now;
        assert_eq!(world.settle(), Verdict::Finished);
        assert_eq!(done(&world, "look Bill"), 1, "\n{}", world.story());
        span(from, world.now)
    };
    let late = end(Some(Timestamp::MAX));
    assert!(late < end(None) + seconds(1), "{late:?}");

    let mut deaf = serving();
    deaf.session.deleting = true;
    for _ in 0..200 {
        if done(&deaf, "Note(Proved") == 1 && done(&deaf, "look Bill") == 0 {
            deaf.outage = 1;
        }
        let decision = deaf.pass();
        if !deaf.exists {
            break;
        }
        if let (true, Some(again)) = (decision.idle(), decision.again) {
            deaf.now = deaf.now.max(again);
        }
    }
    assert!(!deaf.exists, "{}", deaf.story());
    assert_eq!(done(&deaf, "look Bill"), 1);
}

#[test]
fn a_bill_that_is_late_is_asked_for_ever_more_seldom_and_after_a_day_no_more() {
    let rest = |bills_from| {
        let mut world = serving();
        world.bills_from = Some(bills_from);
        world.session.replicas = 0;
        let mut asked = 0;
        for _ in 0..200 {
            let decision = world.pass();
            asked = done(&world, "look Bill");
            if decision.idle() {
                match decision.again {
                    None => break,
                    Some(again) => world.now = world.now.max(again),
                }
            }
        }
        assert!(
            world.now < start() + seconds(26 * 3600),
            "it rests at last\n{}",
            world.story()
        );
        (asked, source(&world).1)
    };
    let (asked, from) = rest(start() + seconds(7200));
    assert!((3..8).contains(&asked), "{asked}");
    assert_eq!(from, CostSource::Billed);
    let (asked, from) = rest(Timestamp::MAX);
    assert!((5..12).contains(&asked), "{asked}");
    assert_eq!(from, CostSource::Estimated);
}

/// The same, as its ledger remembers it, when its spec cannot be read any more.
fn illegible(mut world: World) -> World {
    world.session.unreadable = Some("unknown variant".to_owned());
    world
}

#[test]
fn a_session_whose_spec_cannot_be_read_rents_nothing_and_goes_when_it_is_deleted() {
    let mut world = illegible(World::new());
    let decision = world.pass();
    assert_eq!(decision.verdict, Verdict::Blocked(Blocked::Unreadable));
    assert!(decision.idle() && world.ledger.is_none(), "nothing is done");

    let mut known = illegible(World::under_way());
    for _ in 0..10 {
        let _ = known.pass();
    }
    assert_eq!(known.created, 0);
    known.session.deleting = true;
    assert_eq!(known.settle(), Verdict::Finished);
}

#[test]
fn what_a_session_has_rented_is_ended_without_its_spec() {
    let mut world = illegible(serving());
    assert_eq!(world.settle(), Verdict::Serving, "it is kept until its end");
    let mut deleted = world.clone();
    deleted.session.deleting = true;
    assert_eq!(deleted.settle(), Verdict::Finished);
    assert!(deleted.receipt && deleted.billing() == 0);
    assert!(when(&deleted, "Clear") < when(&deleted, "Terminate"));

    world.now = world.pods[0].deadline;
    assert_eq!(world.settle(), Verdict::Ended(EndReason::Lifetime));
    assert_eq!(world.billing(), 0);
}
