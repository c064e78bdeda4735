//! The nine conditions of a session. Their reasons are closed enums, and only [`Conditions::project`] moves
//! `lastTransitionTime`.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

mod reasons;

pub use reasons::{
    EndpointPublished, HostTrusted, ModelServed, Planned, Provisioned, Terminated, Wiped,
    WithinLimits,
};

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody can say yet.
    Unknown,
}

impl Truth {
    /// As Kubernetes spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// A reason that one type of condition can give.
pub trait Reason: Copy {
    /// The reason's name, as it stands in the condition.
    fn name(self) -> &'static str;
    /// The status of a condition with this reason.
    fn truth(self) -> Truth;
    /// What the reason means, when there is nothing more to say.
    fn sentence(self) -> &'static str;
}

/// The types of condition, in the order in which a session reaches them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    /// All of it works.
    Ready,
    /// See [`Planned`].
    Planned,
    /// See [`Provisioned`].
    Provisioned,
    /// See [`HostTrusted`].
    HostTrusted,
    /// See [`ModelServed`].
    ModelServed,
    /// See [`EndpointPublished`].
    EndpointPublished,
    /// See [`WithinLimits`].
    WithinLimits,
    /// See [`Wiped`].
    Wiped,
    /// See [`Terminated`].
    Terminated,
}

impl Type {
    /// All nine.
    pub const ALL: [Self; 9] = [
        Self::Ready,
        Self::Planned,
        Self::Provisioned,
        Self::HostTrusted,
        Self::ModelServed,
        Self::EndpointPublished,
        Self::WithinLimits,
        Self::Wiped,
        Self::Terminated,
    ];

    /// The type's name, as it stands in the condition.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Planned => "Planned",
            Self::Provisioned => "Provisioned",
            Self::HostTrusted => "HostTrusted",
            Self::ModelServed => "ModelServed",
            Self::EndpointPublished => "EndpointPublished",
            Self::WithinLimits => "WithinLimits",
            Self::Wiped => "Wiped",
            Self::Terminated => "Terminated",
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A reason and the sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict<R> {
    /// Why.
    pub reason: R,
    /// The sentence; never a secret, a prompt or a file name.
    pub message: String,
}

impl<R: Reason> Verdict<R> {
    /// A reason with a sentence of its own.
    pub fn new(reason: R, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    fn said(&self) -> Said<'_> {
        Said {
            truth: self.reason.truth(),
            name: self.reason.name(),
            message: &self.message,
        }
    }
}

impl<R: Reason> From<R> for Verdict<R> {
    /// The reason with its plain sentence.
    fn from(reason: R) -> Self {
        Self::new(reason, reason.sentence())
    }
}

/// What is wanted of a session, as far as `Ready` is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Life {
    /// It shall run.
    Wanted,
    /// It has `replicas: 0`.
    Paused,
    /// A limit ended its run.
    Ended,
    /// It is being deleted.
    Deleting,
}

/// What is to be said of a session, one verdict a condition: `Ready` follows from the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// What is wanted of the session.
    pub life: Life,
    /// What to rent.
    pub planned: Verdict<Planned>,
    /// The pod.
    pub provisioned: Verdict<Provisioned>,
    /// The host's identity.
    pub host_trusted: Verdict<HostTrusted>,
    /// The model.
    pub model_served: Verdict<ModelServed>,
    /// The endpoint.
    pub endpoint_published: Verdict<EndpointPublished>,
    /// The limits of the run.
    pub within_limits: Verdict<WithinLimits>,
    /// The clearing.
    pub wiped: Verdict<Wiped>,
    /// The end of the pod.
    pub terminated: Verdict<Terminated>,
}

struct Said<'a> {
    truth: Truth,
    name: &'static str,
    message: &'a str,
}

impl Conditions {
    /// Nothing has been looked at yet.
    pub fn pending(life: Life) -> Self {
        Self {
            life,
            planned: Planned::Pending.into(),
            provisioned: Provisioned::Pending.into(),
            host_trusted: HostTrusted::Pending.into(),
            model_served: ModelServed::Pending.into(),
            endpoint_published: EndpointPublished::Pending.into(),
            within_limits: WithinLimits::Pending.into(),
            wiped: Wiped::NotEnding.into(),
            terminated: Terminated::NotEnding.into(),
        }
    }

    /// Nothing of a run is left, or ever will be: paused or ended, or on the way out.
    pub fn released(life: Life) -> Self {
        Self {
            life,
            planned: Planned::Released.into(),
            provisioned: Provisioned::Released.into(),
            host_trusted: HostTrusted::Released.into(),
            model_served: ModelServed::Released.into(),
            endpoint_published: EndpointPublished::Released.into(),
            within_limits: WithinLimits::Released.into(),
            wiped: Wiped::NotEnding.into(),
            terminated: Terminated::NotEnding.into(),
        }
    }

    /// All nine conditions for `status`. A time of transition is kept where `previous` has the same status value, else it is
    /// `now`.
    pub fn project(&self, previous: &[Condition], generation: i64, now: &Time) -> Vec<Condition> {
        Type::ALL
            .into_iter()
            .map(|type_| {
                let said = self.said(type_);
                let kept =
                    find(previous, type_).filter(|before| before.status == said.truth.as_str());
                Condition {
                    type_: type_.as_str().to_owned(),
                    status: said.truth.as_str().to_owned(),
                    reason: said.name.to_owned(),
                    message: said.message.to_owned(),
                    observed_generation: Some(generation),
                    last_transition_time: kept
                        .map_or(now, |before| &before.last_transition_time)
                        .clone(),
                }
            })
            .collect()
    }

    /// The reason of `Ready`, which `kubectl get` shows as STATE.
    pub fn state(&self) -> &'static str {
        self.ready().name
    }

    fn said(&self, type_: Type) -> Said<'_> {
        match type_ {
            Type::Ready => self.ready(),
            Type::Planned => self.planned.said(),
            Type::Provisioned => self.provisioned.said(),
            Type::HostTrusted => self.host_trusted.said(),
            Type::ModelServed => self.model_served.said(),
            Type::EndpointPublished => self.endpoint_published.said(),
            Type::WithinLimits => self.within_limits.said(),
            Type::Wiped => self.wiped.said(),
            Type::Terminated => self.terminated.said(),
        }
    }

    /// `Ready`: the first thing that stands in the way is its reason.
    fn ready(&self) -> Said<'_> {
        match self.life {
            Life::Wanted => self.blocking().unwrap_or(Said {
                truth: Truth::True,
                name: "Serving",
                message: "The model answers at the endpoint.",
            }),
            Life::Paused => Said {
                truth: Truth::False,
                name: "Paused",
                message: "Nothing is rented: replicas is 0.",
            },
            Life::Ended => Said {
                truth: Truth::False,
                name: "Ended",
                message: &self.within_limits.message,
            },
            Life::Deleting => Said {
                truth: Truth::False,
                ..self.ending()
            },
        }
    }

    /// What is known to be wrong comes before what is not known yet: without a key no plan is ever made, and it is the key that a
    /// person has to hear of.
    fn blocking(&self) -> Option<Said<'_>> {
        let mut open = [
            Type::Planned,
            Type::Provisioned,
            Type::HostTrusted,
            Type::ModelServed,
            Type::EndpointPublished,
            Type::WithinLimits,
        ]
        .into_iter()
        .map(|type_| self.said(type_))
        .filter(|said| said.truth != Truth::True);
        open.clone()
            .find(|said| said.truth == Truth::False)
            .or_else(|| open.next())
    }

    /// How far the end of a session is.
    fn ending(&self) -> Said<'_> {
        let wiping =
            self.wiped.reason == Wiped::Wiping || self.terminated.reason == Terminated::NotEnding;
        if wiping {
            self.wiped.said()
        } else {
            self.terminated.said()
        }
    }
}

/// The condition of one type, where it is among these.
pub fn find(conditions: &[Condition], type_: Type) -> Option<&Condition> {
    conditions
        .iter()
        .find(|condition| condition.type_ == type_.as_str())
}
