//! The events that a session can have, each sent on a transition only.

use std::fmt;

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident $kind:ident,)*) => {
        /// What an event says happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Event {
            $($(#[$doc])* $name,)*
        }

        impl Event {
            /// Every event there is.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The event's reason, as Kubernetes shows it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// Whether it is an ordinary step or a warning.
            pub const fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)* }
            }
        }
    };
}

/// The two types of event that Kubernetes knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A step on the way.
    Normal,
    /// Something to look at.
    Warning,
}

events! {
    /// A GPU was chosen for the model.
    Planned Normal,
    /// A pod is being asked for.
    Renting Normal,
    /// A pod whose creation had not been answered was found and taken over.
    InstanceAdopted Normal,
    /// A pod was created.
    InstanceCreated Normal,
    /// The host's key was proved and pinned.
    HostKeyPinned Normal,
    /// The model answers.
    ModelServed Normal,
    /// The endpoint can be used.
    EndpointPublished Normal,
    /// The session ends soon, because nobody uses it.
    IdleSoon Normal,
    /// Most of what the session may cost is spent.
    CostNear Normal,
    /// The host was cleared.
    Wiped Normal,
    /// The pod was proved gone.
    Terminated Normal,
    /// No GPU on offer fits the model.
    NoFittingGPU Warning,
    /// What would fit costs more than allowed.
    OverPrice Warning,
    /// What would fit has no stock.
    WaitingForCapacity Warning,
    /// The host showed a key that it had not announced.
    HostKeyMismatch Warning,
    /// The provider bills more than it offered.
    PriceDrift Warning,
    /// The model did not answer in time.
    StartupTimeout Warning,
    /// The pod went away or was restarted.
    InstanceLost Warning,
    /// A limit ended the run.
    LimitReached Warning,
    /// The host could not be cleared before it was terminated.
    WipeIncomplete Warning,
    /// The pod could not be proved gone yet.
    TerminationUnverified Warning,
    /// A pod that nobody owned was terminated.
    OrphanTerminated Warning,
    /// The provider does not accept the key.
    ProviderUnauthorized Warning,
    /// The spec, as it is stored, cannot be read any more.
    SpecUnreadable Warning,
    /// The session is not at rest, and nothing about it has changed for five minutes.
    NoProgress Warning,
    /// The engine that was planned does not start, and another one serves instead.
    EngineFallback Warning,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Kind {
    /// The type, as Kubernetes spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}
