//! Goes through the offers: each gets a reason against it or stays, and the best of those is taken.

mod refusal;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BTreeSet;

use srchat_crds::conditions::Planned;
use srchat_crds::session::{self, Quantization};
use srchat_crds::status::RejectedReason;

use crate::host::{engine, image};
use crate::hub::Facts;
use crate::provider::{Offer, Stock};
use crate::route::Engine;

use super::memory::Need;
use super::serving::{self, Serving};
use super::{
    Fallback, Memory, OfferKey, Plan, Refusal, Rejected, Wish, gpus, host_engine, startup,
};

/// Context that nobody asked for stays below this: more costs memory, and few conversations are longer.
const USUAL_CONTEXT: u32 = 32_768;
/// A card on which less than this is left for an open context counts as too small, unless the model itself has less.
const LEAST_CONTEXT: u32 = 8_192;
/// What a model is taken for that does not say how much context it was made for.
const UNSAID_CONTEXT: u32 = 4_096;
/// llama.cpp serves this many requests at once where memory allows.
const MOST_SLOTS: u32 = 4;
/// For the download's own bookkeeping, logs, caches and what the engine compiles.
const DISK_HEADROOM: u64 = 10_000_000_000;
const LEAST_DISK_GB: u32 = 50;
/// vLLM's kernels want Ampere or newer; FP8 made while loading wants Ada.
const AMPERE: u32 = 80;
const ADA: u32 = 89;

/// Chooses what to rent. `offers` are for `wish.gpu_count` GPUs; `excluded` failed a short while ago.
pub fn plan(
    wish: &Wish,
    facts: &Facts,
    offers: &[Offer],
    excluded: &BTreeSet<OfferKey>,
) -> Result<Plan, Box<Refusal>> {
    let unsupported = |message: String| {
        Box::new(Refusal {
            reason: Planned::UnsupportedModel,
            message,
            rejected: Vec::new(),
        })
    };
    let serving = serving::choose(wish, facts).map_err(unsupported)?;
    let bounds = context_bounds(wish, &serving).map_err(unsupported)?;
    let choice = Choice {
        wish,
        serving,
        bounds,
        excluded,
    };
    choice.divisible().map_err(unsupported)?;
    let judged: Vec<(&Offer, Result<Fit, RejectedReason>)> = offers
        .iter()
        .map(|offer| (offer, choice.judge(offer)))
        .collect();
    match choice.best(&judged) {
        Some((offer, fit)) => choice.take(facts, offer, fit, &judged),
        None => Err(Box::new(choice.refuse(facts, offers, &judged))),
    }
}

/// Tokens of context: the least that is worth renting for, and the most that would be used.
#[derive(Clone, Copy)]
struct Bounds {
    least: u32,
    most: u32,
}

fn context_bounds(wish: &Wish, serving: &Serving<'_>) -> Result<Bounds, String> {
    let allowed = serving
        .shape
        .context
        .map_or(UNSAID_CONTEXT, |context| context.get());
    match wish.context {
        Some(wished) if serving.shape.context.is_some() && wished > allowed => Err(format!(
            "contextLength {wished} is more than the {allowed} tokens that {} was made for",
            wish.model.repository()
        )),
        Some(wished) => Ok(Bounds {
            least: wished,
            most: wished,
        }),
        None => {
            let most = allowed.min(USUAL_CONTEXT);
            Ok(Bounds {
                least: most.min(LEAST_CONTEXT),
                most,
            })
        }
    }
}

/// One model's needs, ready to be held against offers.
struct Choice<'a> {
    wish: &'a Wish,
    serving: Serving<'a>,
    bounds: Bounds,
    excluded: &'a BTreeSet<OfferKey>,
}

/// How a model would run on an offer.
#[derive(Clone, Copy)]
struct Fit {
    context: u32,
    slots: u32,
    memory: Memory,
}

type Judged<'a> = (&'a Offer, Result<Fit, RejectedReason>);

impl Choice<'_> {
    fn need(&self) -> Need<'_> {
        Need {
            weights: self.serving.weights,
            shape: self.serving.shape,
            vision: self.serving.vision,
            gpus: self.wish.gpu_count,
        }
    }

    /// vLLM gives each GPU the same number of heads.
    fn divisible(&self) -> Result<(), String> {
        let (heads, count) = (self.serving.shape.heads, u64::from(self.wish.gpu_count));
        if self.serving.engine != Engine::Vllm || heads.is_multiple_of(count) {
            return Ok(());
        }
        let counts: Vec<String> = (1..=8)
            .filter(|count| heads.is_multiple_of(*count))
            .map(|count| count.to_string())
            .collect();
        Err(format!(
            "vLLM cannot share {heads} attention heads among {count} GPUs: gpu.count may be {}",
            counts.join(", ")
        ))
    }

    /// The first thing that speaks against an offer: what the user ruled out, then what cannot work, then price and stock.
    fn judge(&self, offer: &Offer) -> Result<Fit, RejectedReason> {
        let wish = self.wish;
        if !wish.gpu_types.is_empty() && self.preference(offer).is_none() {
            return Err(RejectedReason::WrongType);
        }
        if wish.cloud.is_some_and(|cloud| cloud != offer.cloud) {
            return Err(RejectedReason::WrongCloud);
        }
        let stock = self.stock(offer).ok_or(RejectedReason::WrongDataCenter)?;
        let gpu = gpus::of(offer);
        if !self.runs_on(gpu) || offer.max_count < wish.gpu_count {
            return Err(RejectedReason::Unsupported);
        }
        if self.excluded.contains(&OfferKey::of(offer)) {
            return Err(RejectedReason::Excluded);
        }
        if wish
            .gpu_min_memory
            .is_some_and(|least| u64::from(offer.memory_gb) < least.nominal())
        {
            return Err(RejectedReason::TooSmall);
        }
        let fit = self
            .fit(gpu.visible_mib << 20)
            .ok_or(RejectedReason::TooSmall)?;
        if offer.price.times(wish.gpu_count) > wish.max_hourly_cost {
            return Err(RejectedReason::OverPrice);
        }
        if stock == Stock::None {
            Err(RejectedReason::NoStock)
        } else {
            Ok(fit)
        }
    }

    /// The place of an offer in `gpu.types`.
    fn preference(&self, offer: &Offer) -> Option<usize> {
        self.wish
            .gpu_types
            .iter()
            .position(|wanted| gpus::is_called(offer, wanted))
    }

    /// Stock where the user allows it; `None` when none of those data centers has this card.
    fn stock(&self, offer: &Offer) -> Option<Stock> {
        if self.wish.data_centers.is_empty() || offer.data_centers.is_empty() {
            return Some(offer.stock);
        }
        self.wish
            .data_centers
            .iter()
            .filter_map(|center| offer.data_centers.get(center).copied())
            .max()
    }

    fn runs_on(&self, gpu: gpus::Gpu) -> bool {
        // Whoever brings an image may bring one for another kind of card.
        let cuda = gpu.cuda || self.wish.image.is_some();
        let least = match (
            self.serving.engine,
            self.serving.online,
            self.serving.quantization,
        ) {
            (Engine::Vllm, true, Quantization::Fp8) => ADA,
            (Engine::Vllm, _, _) => AMPERE,
            (Engine::Transformers | Engine::LlamaCpp, _, _) => 0,
        };
        cuda && gpu.capability >= least
    }

    fn fit(&self, visible: u64) -> Option<Fit> {
        let need = self.need();
        let context = need.longest_context(visible, self.bounds.most);
        if context < self.bounds.least || context == 0 {
            return None;
        }
        let slots = match self.serving.engine {
            Engine::LlamaCpp => need.sequences(visible, context, MOST_SLOTS),
            Engine::Vllm | Engine::Transformers => 1,
        };
        Some(Fit {
            context,
            slots,
            memory: need.memory(context, slots),
        })
    }

    /// The first listed, else the cheapest; then more memory, then more stock, then by name so that the answer is always the same.
    fn best<'o>(&self, judged: &[Judged<'o>]) -> Option<(&'o Offer, Fit)> {
        let good = judged
            .iter()
            .filter_map(|(offer, fit)| Some((*offer, *fit.as_ref().ok()?)));
        good.min_by_key(|(offer, _)| {
            (
                self.preference(offer),
                offer.price,
                Reverse(offer.memory_gb),
                Reverse(offer.stock),
                offer.gpu.clone(),
                offer.cloud,
            )
        })
    }

    fn take(
        &self,
        facts: &Facts,
        offer: &Offer,
        fit: Fit,
        judged: &[Judged<'_>],
    ) -> Result<Plan, Box<Refusal>> {
        let Self { wish, serving, .. } = self;
        let image = Pod::of(serving.engine, wish.image.as_deref());
        let download = serving
            .files
            .iter()
            .map(|file| file.size)
            .fold(0, u64::saturating_add);
        let startup_seconds =
            startup::seconds(serving.engine, image.known, download, serving.weights);
        let refuse = |reason, message| {
            Box::new(Refusal {
                reason,
                message,
                rejected: against_all(judged),
            })
        };
        self.in_time(startup_seconds)
            .map_err(|message| refuse(Planned::StartupTooLong, message))?;
        let disk_gb = self
            .disk(download)
            .map_err(|message| refuse(Planned::NoFittingGPU, message))?;
        let wanted = wish.data_centers.iter();
        let data_centers = wanted
            .filter(|center| {
                offer
                    .data_centers
                    .get(*center)
                    .is_none_or(|stock| *stock > Stock::None)
            })
            .cloned();
        let plan = Plan {
            model: facts.id.clone(),
            revision: facts.sha.clone(),
            engine: serving.engine,
            quantization: serving.quantization,
            quantize_online: serving.online,
            vision: serving.vision,
            abilities: serving.abilities,
            context_length: fit.context,
            slots: fit.slots,
            memory: fit.memory,
            gpu: offer.gpu.clone(),
            gpu_name: offer.name.clone(),
            gpu_count: wish.gpu_count,
            cloud: offer.cloud,
            data_centers: data_centers.collect(),
            hourly_cost: offer.price.times(wish.gpu_count),
            disk_gb,
            image: image.reference,
            min_cuda: image.min_cuda,
            files: serving.files.clone(),
            gguf: serving.gguf.clone(),
            trust_remote_code: wish.trust_remote_code,
            extra_args: wish.extra_args.clone(),
            fallback: self.fallback(facts),
            boot_seconds: startup::boot_seconds(image.known),
            startup_seconds,
            rejected: reasons(judged, Some(offer)),
        };
        // The arguments that the user adds are refused before anything is rented for them.
        match engine::launch(&plan.engine_spec(&plan.model)) {
            Ok(_) => Ok(plan),
            Err(reserved) => Err(refuse(Planned::UnsupportedModel, reserved.to_string())),
        }
    }

    /// transformers in the place of vLLM, where the choice was ours and it can serve the model as wished. Arguments that the user
    /// added were written for the other engine.
    fn fallback(&self, facts: &Facts) -> Option<Fallback> {
        let ours = self.wish.engine == session::Engine::Auto && self.wish.extra_args.is_empty();
        if self.serving.engine != Engine::Vllm || !ours {
            return None;
        }
        let wish = Wish {
            engine: session::Engine::Transformers,
            ..self.wish.clone()
        };
        let Serving {
            engine,
            quantization,
            online,
            vision,
            abilities,
            weights: _,
            shape: _,
            files: _,
            gguf: _,
        } = serving::choose(&wish, facts).ok()?;
        Some(Fallback {
            engine,
            quantization,
            quantize_online: online,
            vision,
            abilities,
        })
    }

    fn in_time(&self, seconds: u64) -> Result<(), String> {
        let limit = startup::limit(self.wish.startup, seconds);
        let minutes = |seconds: u64| seconds.div_ceil(60);
        if self.wish.startup.is_some() && seconds > limit.as_secs() {
            return Err(format!(
                "starting takes about {} minutes and limits.startup allows {}: raise it, or choose a smaller model",
                minutes(seconds),
                minutes(limit.as_secs())
            ));
        }
        if seconds >= self.wish.lifetime.as_secs() {
            return Err(format!(
                "starting takes about {} minutes, which is longer than limits.lifetime: raise it, or choose a smaller model",
                minutes(seconds)
            ));
        }
        Ok(())
    }

    /// Whole GB: files, a fifth more, and headroom; or what was asked for, when the files fit on it.
    fn disk(&self, download: u64) -> Result<u32, String> {
        let gb = |bytes: u64| u32::try_from(bytes.div_ceil(1_000_000_000)).unwrap_or(u32::MAX);
        let Some(asked) = self.wish.disk else {
            let wanted = download
                .saturating_add(download / 5)
                .saturating_add(DISK_HEADROOM);
            return Ok(gb(wanted).max(LEAST_DISK_GB));
        };
        if asked.bytes() < download.saturating_add(download / 20) {
            return Err(format!(
                "a disk of {asked} does not hold the {} GB of the model's files: leave disk out, or raise it",
                gb(download)
            ));
        }
        Ok(u32::try_from(asked.gb_up()).unwrap_or(u32::MAX))
    }
}

/// The image that will run.
struct Pod {
    reference: String,
    known: Option<&'static image::Image>,
    min_cuda: Option<String>,
}

impl Pod {
    fn of(engine: Engine, named: Option<&str>) -> Self {
        let own = image::default_for(host_engine(engine));
        match named {
            None => Self {
                reference: own.reference.to_owned(),
                known: Some(own),
                min_cuda: Some(own.min_cuda.to_owned()),
            },
            // Another tag may be built for another CUDA.
            Some(name) => Self {
                reference: name.to_owned(),
                known: image::known(name),
                min_cuda: None,
            },
        }
    }
}

/// Every offer with its reason, the one with most memory first: where nothing fits, it came nearest.
fn against_all(judged: &[Judged<'_>]) -> Vec<Rejected> {
    let mut judged = judged.to_vec();
    judged.sort_by_key(|(offer, _)| Reverse(gpus::of(offer).visible_mib));
    reasons(&judged, None)
}

/// Every offer but the one taken, with its reason.
fn reasons(judged: &[Judged<'_>], taken: Option<&Offer>) -> Vec<Rejected> {
    let others = judged
        .iter()
        .filter(|(offer, _)| taken.is_none_or(|taken| !std::ptr::eq(*offer, taken)));
    others
        .map(|(offer, fit)| Rejected {
            gpu: offer.name.clone(),
            cloud: offer.cloud,
            reason: fit
                .as_ref()
                .err()
                .copied()
                .unwrap_or(RejectedReason::Dearer),
        })
        .collect()
}
