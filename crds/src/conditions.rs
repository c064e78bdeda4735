//! The nine conditions of a session. Their reasons are closed enums, and only [`Conditions::project`] moves
//! `lastTransitionTime`.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde::{Deserialize, Serialize};

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

macro_rules! reasons {
    ($(#[$doc:meta])* $condition:ident { $(#[doc = $sentence:literal] $reason:ident $truth:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $condition {
            $(#[doc = $sentence] $reason,)*
        }

        impl $condition {
            /// Every reason of this condition.
            pub const ALL: &[Self] = &[$(Self::$reason),*];
        }

        impl Reason for $condition {
            fn name(self) -> &'static str {
                match self { $(Self::$reason => stringify!($reason),)* }
            }

            fn truth(self) -> Truth {
                match self { $(Self::$reason => Truth::$truth,)* }
            }

            fn sentence(self) -> &'static str {
                match self { $(Self::$reason => $sentence.trim_ascii(),)* }
            }
        }

        impl fmt::Display for $condition {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

reasons! {
    /// Why it is, or is not, settled what to rent for the model.
    Planned {
        /// A GPU that fits the model is on offer within the limits.
        Fits True,
        /// Looking up the model and the offers.
        Planning False,
        /// The Hub has no such model, or does not show it to this token.
        ModelNotFound False,
        /// The model's licence has to be accepted on the Hub, with the account of the token given.
        GatedModel False,
        /// No engine can serve this model.
        UnsupportedModel False,
        /// No GPU on offer is large enough.
        NoFittingGPU False,
        /// What fits costs more than the session may.
        OverPrice False,
        /// What fits is not available now.
        OutOfStock False,
        /// Starting this model takes longer than limits.startup allows.
        StartupTooLong False,
        /// The Hub does not answer.
        HubUnavailable False,
        /// Not looked at yet.
        Pending Unknown,
        /// No longer applies.
        Released False,
    }
}

reasons! {
    /// Why there is, or is not, a running pod.
    Provisioned {
        /// The pod runs.
        Running True,
        /// A pod is being asked for.
        Renting False,
        /// The provider has no such pod free; asking again.
        WaitingForCapacity False,
        /// The pod is starting.
        Booting False,
        /// The pod could not start.
        BootFailed False,
        /// The pod is gone.
        InstanceLost False,
        /// The pod was restarted, and lost what it knew.
        HostRestarted False,
        /// The pod is billed at more than was offered.
        PriceDrift False,
        /// The provider's account has no money left.
        InsufficientBalance False,
        /// The provider does not accept the key.
        ProviderUnauthorized False,
        /// The provider does not answer.
        ProviderUnavailable Unknown,
        /// The model did not answer within limits.startup.
        StartupTimeout False,
        /// Nothing has been rented yet.
        Pending Unknown,
        /// Nothing is rented any more.
        Released False,
    }
}

reasons! {
    /// Why the host is, or is not, known to be the pod that was rented.
    HostTrusted {
        /// The host's key was proved to be the pod's, and is pinned.
        KeyPinned True,
        /// The pod has not announced its key yet.
        WaitingForKey False,
        /// The host showed another key than the pod announced.
        KeyMismatch False,
        /// There is no host yet.
        Pending Unknown,
        /// There is no host any more.
        Released False,
    }
}

reasons! {
    /// Why the model does, or does not, answer.
    ModelServed {
        /// The model answers.
        Healthy True,
        /// Connecting to the host.
        Connecting False,
        /// Installing the engine.
        Installing False,
        /// Downloading the model.
        Downloading False,
        /// Loading the model.
        Loading False,
        /// The engine ended.
        EngineFailed False,
        /// The model did not fit into memory.
        OutOfMemory False,
        /// There is no trusted host yet.
        Pending Unknown,
        /// There is no engine any more.
        Released False,
    }
}

reasons! {
    /// Why the endpoint can, or cannot, be used.
    EndpointPublished {
        /// The endpoint answers.
        Published True,
        /// The endpoint opens when the model answers.
        WaitingForModel False,
        /// A Secret of the name that this session publishes exists and is not its own.
        SecretNameTaken False,
        /// Nothing to publish yet.
        Pending Unknown,
        /// The endpoint is closed.
        Released False,
    }
}

reasons! {
    /// Why the run may, or may not, go on.
    WithinLimits {
        /// No limit is near.
        UnderLimits True,
        /// A limit will end the run soon.
        NearLimit True,
        /// The run has lived as long as limits.lifetime allows.
        LifetimeReached False,
        /// Nobody has used the model for as long as limits.idle allows.
        IdleReached False,
        /// The session has cost as much as limits.maxTotalCost allows.
        CostReached False,
        /// The run has used as many pods as limits.attempts allows.
        AttemptsUsed False,
        /// Somebody has to confirm that this session shall rent again.
        NeedsConfirmation False,
        /// No run has started yet.
        Pending Unknown,
        /// No run that could reach a limit.
        Released False,
    }
}

reasons! {
    /// Whether the host was cleared before it was given back.
    Wiped {
        /// The host was cleared, and read back.
        Cleared True,
        /// Nothing of the user's ever reached the host.
        NothingToWipe True,
        /// The host is being cleared.
        Wiping False,
        /// The host could not be reached to clear it.
        HostUnreachable False,
        /// The host was not trusted, so nothing was sent to it.
        HostUntrusted False,
        /// Clearing the host took longer than teardown.wipeTimeout.
        WipeTimedOut False,
        /// Nothing ends yet.
        NotEnding Unknown,
    }
}

reasons! {
    /// Whether the pod is proved gone.
    Terminated {
        /// The provider no longer has the pod, seen twice.
        ProvedAbsent True,
        /// The provider was asked to end the pod.
        Requested False,
        /// Making sure that the pod is gone.
        VerifyingAbsence False,
        /// The provider could not end the pod yet.
        ProviderError False,
        /// The provider does not accept the key any more, so nobody can end the pod or prove it gone.
        ProviderUnauthorized False,
        /// The key in use belongs to no account that is known to have had the pod.
        AccountUnknown False,
        /// The pod was let go of without proof, as the annotation asked.
        Abandoned False,
        /// Nothing ends yet.
        NotEnding Unknown,
    }
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

    /// `Ready`: the first thing on the way that does not hold is its reason.
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

    fn blocking(&self) -> Option<Said<'_>> {
        [
            Type::Planned,
            Type::Provisioned,
            Type::HostTrusted,
            Type::ModelServed,
            Type::EndpointPublished,
            Type::WithinLimits,
        ]
        .into_iter()
        .map(|type_| self.said(type_))
        .find(|said| said.truth != Truth::True)
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
