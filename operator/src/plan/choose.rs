//! Goes through the offers: each gets a reason against it or stays, the best of those is taken, and when none stays, the sentence
//! says what would.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use srchat_crds::Size;
use srchat_crds::conditions::Planned;
use srchat_crds::session::Quantization;
use srchat_crds::status::RejectedReason;

use crate::host::{engine, image};
use crate::hub::{Cache, Facts};
use crate::provider::{Offer, Stock};
use crate::route::Engine;

use super::memory::Need;
use super::serving::{self, Serving};
use super::{Memory, OfferKey, Plan, Refusal, Rejected, Wish, gpus, host_engine, startup};

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
                rejected: reasons(judged, None),
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
            startup_seconds,
            rejected: reasons(judged, Some(offer)),
        };
        // The arguments that the user adds are refused before anything is rented for them.
        match engine::launch(&plan.engine_spec(&plan.model)) {
            Ok(_) => Ok(plan),
            Err(reserved) => Err(refuse(Planned::UnsupportedModel, reserved.to_string())),
        }
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

    fn refuse(&self, facts: &Facts, offers: &[Offer], judged: &[Judged<'_>]) -> Refusal {
        let rejected = reasons(judged, None);
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

    fn price(&self, offer: &Offer) -> srchat_crds::Dollars {
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

#[cfg(test)]
mod tests;
