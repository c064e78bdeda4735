//! What can be rented, asked once for all sessions that plan at the same time.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use crate::provider::{Cloud, Error, Offer, runpod::RunPod};

/// Prices and stock are believed for so long: stock is a hint anyway, since a create decides.
pub const FRESH: Duration = Duration::from_secs(15);

/// Offers by count and cloud, each read at most once per [`FRESH`].
#[derive(Debug, Default)]
pub struct Catalog {
    read: Mutex<HashMap<(u32, Cloud), Read>>,
}

/// When it was asked for, and what was answered.
type Read = (Instant, Arc<[Offer]>);

impl Catalog {
    /// What `provider` offers for `count` GPUs in any of `clouds`, in the catalog's order.
    ///
    /// A failure is not kept: everyone who asks learns it anew, at the rate that the budget allows.
    pub async fn offers(
        &self,
        provider: &RunPod,
        count: u32,
        clouds: &[Cloud],
    ) -> Result<Vec<Offer>, Error> {
        let mut read = self.read.lock().await;
        let mut offers = Vec::new();
        for &cloud in clouds {
            let kept = read
                .get(&(count, cloud))
                .filter(|(at, _)| at.elapsed() < FRESH)
                .map(|(_, offers)| offers.clone());
            let known = match kept {
                Some(known) => known,
                None => {
                    let known: Arc<[Offer]> = provider.offers(count, cloud).await?.into();
                    read.insert((count, cloud), (Instant::now(), known.clone()));
                    known
                }
            };
            offers.extend_from_slice(&known);
        }
        Ok(offers)
    }

    /// Forgets all it knows, so that the next question is asked anew: after a refusal for capacity, or with another key.
    pub async fn forget(&self) {
        self.read.lock().await.clear();
    }
}
