//! The rules of the nine conditions.

#![allow(clippy::unwrap_used, missing_docs)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use srchat_crds::conditions::{
    Conditions, EndpointPublished, HostTrusted, Life, ModelServed, Planned, Provisioned,
    Terminated, Type, Wiped, WithinLimits, find,
};

fn at(time: &str) -> Time {
    Time(time.parse().unwrap())
}

fn serving() -> Conditions {
    Conditions {
        life: Life::Wanted,
        planned: Planned::Fits.into(),
        provisioned: Provisioned::Running.into(),
        host_trusted: HostTrusted::KeyPinned.into(),
        model_served: ModelServed::Healthy.into(),
        endpoint_published: EndpointPublished::Published.into(),
        within_limits: WithinLimits::UnderLimits.into(),
        wiped: Wiped::NotEnding.into(),
        terminated: Terminated::NotEnding.into(),
    }
}

fn seen(conditions: &[Condition], type_: Type) -> (&str, &str) {
    let condition = find(conditions, type_).unwrap();
    (&condition.status, &condition.reason)
}

#[test]
fn all_nine_are_there_from_the_first_pass() {
    let first = Conditions::pending(Life::Wanted).project(&[], 1, &at("2026-11-01T10:00:00Z"));
    let types: Vec<_> = first
        .iter()
        .map(|condition| condition.type_.as_str())
        .collect();
    assert_eq!(types, Type::ALL.map(Type::as_str));
    for condition in &first {
        let expected = match condition.type_.as_str() {
            "Wiped" | "Terminated" => ("Unknown", "NotEnding"),
            _ => ("Unknown", "Pending"),
        };
        assert_eq!(
            (condition.status.as_str(), condition.reason.as_str()),
            expected,
            "{}",
            condition.type_
        );
        assert!(!condition.message.is_empty());
        assert_eq!(condition.observed_generation, Some(1));
    }
}

#[test]
fn a_time_of_transition_moves_only_with_the_status_value() {
    let (early, late) = (at("2026-11-01T10:00:00Z"), at("2026-11-01T11:00:00Z"));
    let mut world = serving();
    world.model_served = ModelServed::Connecting.into();
    let before = world.project(&[], 1, &early);

    world.model_served = ModelServed::Loading.into();
    let reason_changed = world.project(&before, 2, &late);
    let loading = find(&reason_changed, Type::ModelServed).unwrap();
    assert_eq!(
        (loading.reason.as_str(), &loading.last_transition_time),
        ("Loading", &early)
    );
    assert_eq!(loading.observed_generation, Some(2));

    world.model_served = ModelServed::Healthy.into();
    let became_true = world.project(&reason_changed, 2, &late);
    assert_eq!(
        find(&became_true, Type::ModelServed)
            .unwrap()
            .last_transition_time,
        late
    );
    assert_eq!(
        find(&became_true, Type::Planned)
            .unwrap()
            .last_transition_time,
        early
    );
}

#[test]
fn the_same_world_projects_to_the_same_conditions() {
    let first = serving().project(&[], 1, &at("2026-11-01T10:00:00Z"));
    assert_eq!(
        serving().project(&first, 1, &at("2026-11-01T11:00:00Z")),
        first
    );
}

#[test]
fn ready_names_the_first_thing_in_the_way() {
    let now = at("2026-11-01T10:00:00Z");
    let ready = |world: &Conditions| {
        let conditions = world.project(&[], 1, &now);
        let (status, reason) = seen(&conditions, Type::Ready);
        assert_eq!(reason, world.state());
        (status.to_owned(), reason.to_owned())
    };
    let is = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());

    assert_eq!(ready(&serving()), is("True", "Serving"));

    let mut world = serving();
    world.endpoint_published = EndpointPublished::WaitingForModel.into();
    world.model_served = ModelServed::Downloading.into();
    assert_eq!(ready(&world), is("False", "Downloading"));
    world.provisioned = Provisioned::HostRestarted.into();
    assert_eq!(ready(&world), is("False", "HostRestarted"));

    let mut world = serving();
    world.within_limits = WithinLimits::NearLimit.into();
    assert_eq!(ready(&world), is("True", "Serving"));
}

#[test]
fn ready_names_what_is_wrong_before_what_is_not_known_yet() {
    let mut world = Conditions::pending(Life::Wanted);
    assert_eq!(world.state(), "Pending");
    world.provisioned = Provisioned::ProviderUnauthorized.into();
    world.model_served = ModelServed::EngineFailed.into();
    assert_eq!(world.state(), "ProviderUnauthorized");
    world.planned = Planned::OverPrice.into();
    assert_eq!(world.state(), "OverPrice");
}

#[test]
fn ready_says_paused_and_ended() {
    assert_eq!(Conditions::released(Life::Paused).state(), "Paused");
    let mut ended = Conditions::released(Life::Ended);
    ended.within_limits = WithinLimits::LifetimeReached.into();
    let conditions = ended.project(&[], 1, &at("2026-11-01T10:00:00Z"));
    assert_eq!(seen(&conditions, Type::Ready), ("False", "Ended"));
    assert_eq!(
        seen(&conditions, Type::WithinLimits),
        ("False", "LifetimeReached")
    );
    assert_eq!(seen(&conditions, Type::Provisioned), ("False", "Released"));
}

#[test]
fn ready_follows_the_end_of_a_deleted_session() {
    let mut world = Conditions::released(Life::Deleting);
    world.wiped = Wiped::Wiping.into();
    assert_eq!(world.state(), "Wiping");
    world.wiped = Wiped::Cleared.into();
    world.terminated = Terminated::VerifyingAbsence.into();
    assert_eq!(world.state(), "VerifyingAbsence");
    world.terminated = Terminated::ProvedAbsent.into();
    let conditions = world.project(&[], 1, &at("2026-11-01T10:00:00Z"));
    assert_eq!(seen(&conditions, Type::Ready), ("False", "ProvedAbsent"));
}
