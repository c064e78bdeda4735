//! The controller's Lease: renewed once a minute, so that a later controller can tell how long there was none (S14). It elects
//! nobody: safety comes from the ledgers.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use srchat_crds::{LABEL_MANAGED_BY, MANAGED_BY};

/// The Lease's name.
pub const NAME: &str = "srchat-controller";
/// Between two renewals.
pub const RENEW_EVERY: Duration = Duration::from_secs(60);
/// Without renewal for longer than this, what the API server holds may be a restored copy: ten renewals were missed.
pub const GAP: Duration = Duration::from_secs(600);

/// Kept on the Lease itself: a controller that dies right after it noticed a gap must not make its successor forget it.
const GAP_FROM: &str = "srchat.dev/gap-from";
const GAP_UNTIL: &str = "srchat.dev/gap-until";

/// A time in which no controller renewed the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last renewal before it.
    pub from: Timestamp,
    /// The first one after it.
    pub until: Timestamp,
}

/// Renews the Lease, makes it where there is none, and tells the last gap that any controller noticed.
pub async fn renew(
    client: &Client,
    namespace: &str,
    now: Timestamp,
) -> Result<Option<Gap>, kube::Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let Some(found) = leases.get_opt(NAME).await? else {
        let lease = renewed(Lease::default(), namespace, now);
        leases.create(&PostParams::default(), &lease).await?;
        return Ok(None);
    };
    let lease = renewed(found, namespace, now);
    // By PUT with the version that was read: a gap that another controller noticed meanwhile is not overwritten.
    leases.replace(NAME, &PostParams::default(), &lease).await?;
    Ok(gap_on(&lease))
}

fn renewed(mut lease: Lease, namespace: &str, now: Timestamp) -> Lease {
    let spec = lease.spec.take().unwrap_or_default();
    let last = spec.renew_time.as_ref().map(|time| time.0);
    let metadata = ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(BTreeMap::from([(
            LABEL_MANAGED_BY.to_owned(),
            MANAGED_BY.to_owned(),
        )])),
        ..lease.metadata
    };
    let mut lease = Lease {
        metadata,
        spec: Some(LeaseSpec {
            holder_identity: Some(NAME.to_owned()),
            lease_duration_seconds: i32::try_from(2 * RENEW_EVERY.as_secs()).ok(),
            renew_time: Some(MicroTime(now)),
            ..spec
        }),
    };
    if let Some(last) = last.filter(|last| *last + GAP < now) {
        let annotations = lease.metadata.annotations.get_or_insert_default();
        annotations.insert(GAP_FROM.to_owned(), last.to_string());
        annotations.insert(GAP_UNTIL.to_owned(), now.to_string());
    }
    lease
}

fn gap_on(lease: &Lease) -> Option<Gap> {
    let annotations = lease.metadata.annotations.as_ref()?;
    let time = |name: &str| annotations.get(name)?.parse().ok();
    Some(Gap {
        from: time(GAP_FROM)?,
        until: time(GAP_UNTIL)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs())
    }

    fn after(renewals: &[i64]) -> Option<Gap> {
        let lease = renewals.iter().fold(Lease::default(), |lease, t| {
            renewed(lease, "srchat-system", at(*t))
        });
        gap_on(&lease)
    }

    #[test]
    fn renewals_in_time_leave_no_gap() {
        assert_eq!(after(&[0]), None);
        assert_eq!(after(&[0, 60, 120, 720]), None);
    }

    #[test]
    fn a_long_absence_is_a_gap_that_later_renewals_keep() {
        let gap = Gap {
            from: at(60),
            until: at(661),
        };
        assert_eq!(after(&[0, 60, 661]), Some(gap));
        assert_eq!(after(&[0, 60, 661, 720, 780]), Some(gap));
    }

    #[test]
    fn the_last_gap_counts() {
        assert_eq!(
            after(&[0, 1000, 3000]),
            Some(Gap {
                from: at(1000),
                until: at(3000)
            })
        );
    }
}
