//! What bounds a session, and its end.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{Dollars, Span};

/// What a session may cost and how long it may live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.idle) || self.idle <= self.lifetime")
        .message("idle may not be longer than lifetime (4h when not given)"),
    validation = Rule::new("!has(self.startup) || self.startup < self.lifetime")
        .message("startup must be shorter than lifetime (4h when not given)")
)]
pub struct Limits {
    /// The most that an hour may cost, in dollars. Quote it: "0.79".
    #[serde(default = "default_hourly")]
    #[schemars(schema_with = "crate::money::written_schema", extend("default" = "1"))]
    #[x_kube(
        validation = Rule::new(
            "quantity(string(self)).isGreaterThan(quantity('0')) && quantity(string(self)).compareTo(quantity('1000')) <= 0"
        )
        .message("maxHourlyCost is more than 0 and at most 1000 dollars")
    )]
    pub max_hourly_cost: Dollars,
    /// The most that the session may cost over all its runs, in dollars; without it, maxHourlyCost and lifetime bound a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::money::written_schema")]
    #[x_kube(
        validation = Rule::new(
            "quantity(string(self)).isGreaterThan(quantity('0')) && quantity(string(self)).compareTo(quantity('100000')) <= 0"
        )
        .message("maxTotalCost is more than 0 and at most 100000 dollars")
    )]
    pub max_total_cost: Option<Dollars>,
    /// How long a run may last, counted from its first pod.
    #[serde(default = "default_lifetime")]
    #[schemars(schema_with = "crate::duration::schema", extend("default" = "4h"))]
    #[x_kube(
        validation = Rule::new("self > duration('0s') && self <= duration('168h')")
            .message("lifetime is more than 0s and at most 168h")
    )]
    pub lifetime: Span,
    /// How long nobody may use it before it ends; 0s turns this off. Without it, 30m, or lifetime when that is shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::duration::schema")]
    pub idle: Option<Span>,
    /// How long a pod may take until the model answers; without it, 20m, or three times the plan's estimate when that is longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::duration::schema")]
    #[x_kube(
        validation = Rule::new("self > duration('0s')").message("startup is more than 0s")
    )]
    pub startup: Option<Span>,
    /// How many pods a run may use.
    #[serde(default = "default_attempts")]
    #[schemars(extend("default" = 3, "format" = "int32", "minimum" = 1, "maximum" = 10))]
    pub attempts: u32,
}

/// How a session ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Teardown {
    /// How long clearing the host may take before it is terminated anyway.
    #[serde(default = "default_wipe")]
    #[schemars(schema_with = "crate::duration::schema", extend("default" = "60s"))]
    #[x_kube(
        validation = Rule::new("self <= duration('10m')").message("wipeTimeout is at most 10m")
    )]
    pub wipe_timeout: Span,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_hourly_cost: default_hourly(),
            max_total_cost: None,
            lifetime: default_lifetime(),
            idle: None,
            startup: None,
            attempts: default_attempts(),
        }
    }
}

impl Default for Teardown {
    fn default() -> Self {
        Self {
            wipe_timeout: Span::seconds(60),
        }
    }
}

impl Limits {
    /// How long nobody may use the session before it ends; `None` when idleness never ends it.
    pub fn idle_in_force(&self) -> Option<Span> {
        const DEFAULT: Span = Span::minutes(30);
        Some(self.idle.unwrap_or(DEFAULT.min(self.lifetime))).filter(|idle| !idle.is_zero())
    }

    /// How long a pod may take until the model answers, for a plan that expects `estimate`.
    pub fn startup_in_force(&self, estimate: Span) -> Span {
        const DEFAULT: Span = Span::minutes(20);
        self.startup
            .unwrap_or(DEFAULT.max(Span::seconds(estimate.as_secs().saturating_mul(3))))
    }
}

fn default_hourly() -> Dollars {
    Dollars::whole(1)
}

fn default_lifetime() -> Span {
    Span::hours(4)
}

fn default_attempts() -> u32 {
    3
}

fn default_wipe() -> Span {
    Span::seconds(60)
}
