//! Machines that do not get a pod up: replaced in time, and never for want of looking.

use std::time::Duration;

use jiff::Timestamp;
use srchat_crds::Dollars;

use super::super::Verdict;
use super::super::world::{Draw, World, start};
use crate::session::ledger::{Doom, EndReason, Ledger, Why, WipeResult};

const BAD: [Draw; 3] = [Draw::Stuck, Draw::Portless, Draw::Speechless];

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A world whose first pod draws this.
fn drawing(draw: Draw) -> World {
    let mut world = World::new();
    world.draws = vec![draw];
    world
}

/// Goes on until this moment.
fn until(world: &mut World, moment: Timestamp) {
    while world.now < moment {
        let decision = world.pass();
        if let (true, Some(again)) = (decision.idle(), decision.again) {
            world.now = world.now.max(again);
        }
    }
}

fn ledger(world: &World) -> &Ledger {
    world.ledger.as_ref().unwrap()
}

fn doom(world: &World) -> Option<&Doom> {
    ledger(world).pods[0].doom.as_ref()
}

/// How long after its intent the first pod was condemned, and why.
fn condemned(world: &World) -> (Why, Duration) {
    let doom = doom(world).unwrap();
    let intent = ledger(world).attempts[0].intent;
    (doom.why, doom.at.duration_since(intent).unsigned_abs())
}

#[test]
fn a_pod_that_is_not_up_in_six_minutes_is_replaced_while_the_run_may_have_another() {
    for draw in BAD {
        let mut world = drawing(draw);
        assert_eq!(world.settle(), Verdict::Serving, "{draw:?}");
        let (why, after) = condemned(&world);
        assert_eq!(why, Why::BadDraw, "{draw:?}");
        assert!(
            (seconds(360)..seconds(400)).contains(&after),
            "{draw:?} after {after:?}"
        );
        let pods = &ledger(&world).pods;
        assert_eq!((world.created, pods.len()), (2, 2));
        let wipe = pods[0].wipe.as_ref().unwrap();
        assert_eq!(wipe.result, WipeResult::NothingToWipe);
        assert!(pods[1].created > pods[0].gone.unwrap().at);
        assert_eq!(ledger(&world).left_out.len(), 1);
    }
}

#[test]
fn a_bad_draw_is_said_in_a_sentence_that_tells_what_was_seen() {
    for (draw, words) in [
        (Draw::Stuck, "still looks for a machine"),
        (Draw::Portless, "has no address"),
        (Draw::Speechless, "does not show that it has booted"),
    ] {
        let mut world = drawing(draw);
        world.settle();
        let said = &doom(&world).unwrap().detail;
        assert!(said.contains(words) && said.contains("6 minutes"), "{said}");
    }
}

#[test]
fn the_last_pod_of_a_run_is_allowed_its_whole_start() {
    for draw in BAD {
        let mut world = drawing(draw);
        world.session.limits.attempts = 1;
        assert_eq!(world.settle(), Verdict::Ended(EndReason::Attempts));
        let (why, after) = condemned(&world);
        assert_eq!(why, Why::StartupTimeout, "{draw:?}");
        assert!(after >= seconds(20 * 60), "{draw:?} after {after:?}");
    }
    let mut world = World::new();
    world.draws = BAD.to_vec();
    assert_eq!(world.settle(), Verdict::Ended(EndReason::Attempts));
    let whys: Vec<Why> = ledger(&world)
        .pods
        .iter()
        .map(|pod| pod.doom.as_ref().unwrap().why)
        .collect();
    assert_eq!(whys, [Why::BadDraw, Why::BadDraw, Why::StartupTimeout]);
}

#[test]
fn a_run_without_the_money_for_another_start_waits_for_the_pod_it_has() {
    let mut world = drawing(Draw::Stuck);
    // At $0.49 an hour: enough for six minutes and this pod's end, and not for another one's start.
    world.session.limits.total = Some(Dollars::cents(7));
    assert_eq!(world.settle(), Verdict::Ended(EndReason::Cost));
    assert_eq!(condemned(&world).0, Why::Limit(EndReason::Cost));
    assert_eq!(world.created, 1);
}

#[test]
fn a_run_without_the_time_for_another_start_waits_for_the_pod_it_has() {
    let mut world = drawing(Draw::Stuck);
    world.session.limits.lifetime = seconds(420);
    assert_eq!(world.settle(), Verdict::Ended(EndReason::Lifetime));
    assert_eq!(world.created, 1);
}

#[test]
fn a_provider_that_cannot_be_read_says_nothing_about_its_machines() {
    let mut world = drawing(Draw::Stuck);
    until(&mut world, start() + seconds(300));
    world.outage = u32::MAX;
    until(&mut world, start() + seconds(900));
    assert_eq!(doom(&world), None);
    world.outage = 0;
    assert_eq!(world.settle(), Verdict::Serving);
    assert_eq!(condemned(&world).0, Why::BadDraw);
}

#[test]
fn a_host_that_was_reached_once_is_no_bad_draw_however_silent_it_is_later() {
    let mut world = World::new();
    while ledger_reached(&world).is_none() {
        world.pass();
    }
    world.mute = true;
    // Nor for a controller that was not there when it was reached.
    world.forget();
    until(&mut world, start() + seconds(1000));
    assert_eq!(doom(&world), None);
    until(&mut world, start() + seconds(1300));
    assert_eq!(doom(&world).unwrap().why, Why::StartupTimeout);
}

fn ledger_reached(world: &World) -> Option<Timestamp> {
    world.ledger.as_ref()?.pods.first()?.reached
}

#[test]
fn an_image_that_takes_longer_is_given_the_time_that_its_plan_expects() {
    let mut world = drawing(Draw::Stuck);
    until(&mut world, start() + seconds(10));
    let plan = world.ledger.as_mut().unwrap().plan.as_mut().unwrap();
    plan.boot_seconds = 900;
    until(&mut world, start() + seconds(890));
    assert_eq!(doom(&world), None);
    assert_eq!(world.settle(), Verdict::Serving);
    let (why, after) = condemned(&world);
    assert_eq!(why, Why::BadDraw);
    assert!(after >= seconds(900), "{after:?}");
    assert!(doom(&world).unwrap().detail.contains("15 minutes"));
}

#[test]
fn a_host_that_shows_itself_late_is_given_a_minute_to_be_reached() {
    let mut world = drawing(Draw::Speechless);
    until(&mut world, start() + seconds(350));
    world.pods[0].draw = Draw::Portless;
    assert_eq!(world.settle(), Verdict::Serving);
    let pinned = ledger(&world).pods[0].pin.as_ref().unwrap().at;
    let doom = doom(&world).unwrap();
    assert_eq!(doom.why, Why::BadDraw);
    assert!(doom.at >= pinned + seconds(60), "{pinned} {}", doom.at);
}

#[test]
fn a_provider_whose_clock_is_wrong_condemns_nothing() {
    let mut world = drawing(Draw::Good);
    while world.created == 0 {
        world.pass();
    }
    let record = &mut world.ledger.as_mut().unwrap().pods[0];
    record.created -= seconds(900);
    assert_eq!(world.settle(), Verdict::Serving);
    assert_eq!(world.created, 1);
}
