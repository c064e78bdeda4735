//! What is said when no offer can be taken: what is needed, what comes nearest, and the smallest change that would help.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use srchat_crds::conditions::Planned;
use srchat_crds::session::Quantization;
use srchat_crds::status::RejectedReason;
use srchat_crds::{Dollars, Size};

use crate::hub::{Cache, Facts};
use crate::provider::Offer;

use super::{Choice, Judged, Refusal, Wish, against_all, context_bounds, gpus, serving};

impl Choice<'_> {
    /// Names the reason, and puts it into a sentence.
    pub(super) fn refuse(&self, facts: &Facts, offers: &[Offer], judged: &[Judged<'_>]) -> Refusal {
        let rejected = against_all(judged);
        let need = Size::gib_for(self.need().memory(self.bounds.least, 1).per_gpu);
        let each = if self.wish.gpu_count > 1 {
            " on each GPU"
        } else {
            ""
        };
        let having = |reason: RejectedReason| {
            judged
                .iter()
                .filter(move |(_, fit)| fit.as_ref().err() == Some(&reason))
                .map(|(offer, _)| *offer)
        };
        let dear = having(RejectedReason::OverPrice).min_by_key(|offer| offer.price);
        let empty: BTreeSet<&str> = having(RejectedReason::NoStock)
            .map(|offer| offer.name.as_str())
            .collect();
        let mut message = format!("needs {need}{each}: ");
        let reason = if !empty.is_empty() {
            let names: Vec<&str> = empty.into_iter().collect();
            let _ = write!(
                message,
                "{} would fit, and none is in stock",
                names.join(", ")
            );
            if let Some(offer) = dear {
                let _ = write!(
                    message,
                    "; {} at ${} is, limit is ${}",
                    offer.name,
                    self.price(offer),
                    self.wish.max_hourly_cost
                );
            }
            Planned::OutOfStock
        } else if let Some(offer) = dear {
            let _ = write!(
                message,
                "{} at ${} fits, limit is ${}",
                offer.name,
                self.price(offer),
                self.wish.max_hourly_cost
            );
            Planned::OverPrice
        } else if having(RejectedReason::Excluded).next().is_some() {
            message.push_str("what would fit failed a short while ago and is left out for now");
            Planned::OutOfStock
        } else {
            message.push_str(&self.too_little(offers));
            Planned::NoFittingGPU
        };
        if let Some(hint) = self.hint(facts, offers) {
            let _ = write!(message, "; fits with {hint}");
        }
        Refusal {
            reason,
            message,
            rejected,
        }
    }

    fn price(&self, offer: &Offer) -> Dollars {
        offer.price.times(self.wish.gpu_count)
    }

    /// Why not a single offer is large enough and allowed.
    fn too_little(&self, offers: &[Offer]) -> String {
        let anywhere = Wish {
            gpu_types: Vec::new(),
            gpu_min_memory: None,
            cloud: None,
            data_centers: Vec::new(),
            ..self.wish.clone()
        };
        let free = Choice {
            wish: &anywhere,
            serving: self.serving.clone(),
            bounds: self.bounds,
            excluded: self.excluded,
        };
        let judged: Vec<Judged<'_>> = offers
            .iter()
            .map(|offer| (offer, free.judge(offer)))
            .collect();
        if let Some((offer, _)) = free.best(&judged) {
            let ruled_out = match self.judge(offer) {
                Err(RejectedReason::WrongType) => "gpu.types",
                Err(RejectedReason::WrongCloud) => "runpod.cloud",
                Err(RejectedReason::WrongDataCenter) => "runpod.dataCenters",
                Err(RejectedReason::TooSmall) => "gpu.minMemory",
                Err(_) | Ok(_) => "the spec",
            };
            return format!(
                "{} at ${} fits, and {ruled_out} rules it out",
                offer.name,
                self.price(offer)
            );
        }
        if offers.is_empty() {
            return "the provider offers no GPU at all".to_owned();
        }
        match offers
            .iter()
            .filter(|offer| self.runs_on(gpus::of(offer)))
            .max_by_key(|offer| gpus::of(offer).visible_mib)
        {
            Some(offer) => format!(
                "the largest on offer, {}, shows {}",
                offer.name,
                Size::within(gpus::of(offer).visible_mib << 20)
            ),
            None => "none of the GPUs on offer can run it".to_owned(),
        }
    }

    /// The smallest change of the spec with which something could be rented.
    fn hint(&self, facts: &Facts, offers: &[Offer]) -> Option<String> {
        let works = |wish: &Wish| {
            let serving = serving::choose(wish, facts).ok()?;
            let bounds = context_bounds(wish, &serving).ok()?;
            let other = Choice {
                wish,
                serving,
                bounds,
                excluded: self.excluded,
            };
            other.divisible().ok()?;
            offers.iter().find_map(|offer| other.judge(offer).ok())
        };
        let quantized = |quantization| Wish {
            quantization,
            ..self.wish.clone()
        };
        if self.wish.quantization == Quantization::Auto
            && self.serving.quantization == Quantization::None
        {
            if works(&quantized(Quantization::Fp8)).is_some() {
                return Some("quantization: FP8".to_owned());
            }
            if works(&quantized(Quantization::Int4)).is_some() {
                return Some("quantization: Int4".to_owned());
            }
        }
        if self.wish.context.is_some()
            && works(&Wish {
                context: None,
                ..self.wish.clone()
            })
            .is_some()
        {
            return Some("a shorter contextLength".to_owned());
        }
        // A latent cache does not shrink with more GPUs, but the weights' share does.
        let more = [2, 4, 8]
            .into_iter()
            .filter(|count| *count > self.wish.gpu_count);
        let splits = !matches!(&self.serving.shape.cache, Cache::Heads { kv_heads, .. } if kv_heads.is_empty());
        more.filter(|_| splits)
            .find(|count| {
                works(&Wish {
                    gpu_count: *count,
                    ..self.wish.clone()
                })
                .is_some()
            })
            .map(|count| format!("gpu.count: {count}"))
    }
}
