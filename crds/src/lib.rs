//! The `ChatSession` resource: its spec, its status and the values in them. Nothing here talks to anything.

pub mod conditions;
pub mod duration;
pub mod events;
pub mod model;
pub mod money;
pub mod named;
pub mod session;
pub mod size;
pub mod status;

pub use duration::Span;
pub use model::ModelId;
pub use money::Dollars;
pub use session::{ChatSession, ChatSessionSpec};
pub use size::Size;
pub use status::ChatSessionStatus;

/// The API group of everything srchat defines.
pub const GROUP: &str = "srchat.dev";
/// Keeps a session until its pod is proved gone.
pub const FINALIZER: &str = "srchat.dev/teardown";
/// The one writer of status, ledgers and routes.
pub const FIELD_MANAGER: &str = "srchat-controller";
/// Label: the name of the session that an object belongs to.
pub const LABEL_SESSION: &str = "srchat.dev/session";
/// Label: the UID of the session that an object belongs to.
pub const LABEL_UID: &str = "srchat.dev/uid";
/// Label: who made an object; its value is [`MANAGED_BY`].
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`LABEL_MANAGED_BY`] on every object that the operator makes.
pub const MANAGED_BY: &str = "srchat";
/// Label by which the owner of a Secret offers it as a model token; its value must be `"true"`.
pub const LABEL_MODEL_TOKEN: &str = "srchat.dev/model-token";
/// Annotation: the id of a pod that its owner lets go of, unproved.
pub const ANNOTATION_ABANDON: &str = "srchat.dev/abandon";
/// Annotation: until when (RFC 3339) a session waits for somebody to confirm its plan.
pub const ANNOTATION_UNCONFIRMED_UNTIL: &str = "srchat.dev/unconfirmed-until";
/// What follows a session's name in the name of the Secret it publishes.
pub const PUBLISHED_SUFFIX: &str = "-chat";
