//! The reasons that each condition can give: a name, a status, a sentence.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Reason, Truth};

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
        /// The spec, as it is stored, cannot be read any more.
        SpecUnreadable False,
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
        /// srchat may not handle Secrets in this namespace, and rents nothing: watchNamespaces of its installation has to name it.
        SecretsForbidden False,
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
