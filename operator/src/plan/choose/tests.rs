#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use srchat_crds::session::ChatSessionSpec;
use srchat_crds::{Dollars, ModelId, Size};

use crate::hub::{Cache, File, Gguf, Shape, Stored};
use crate::plan::GgufFiles;
use crate::provider::Cloud;

use super::*;

/// The prices of the fixtures: dollars an hour in the secure cloud, in cents.
const CATALOG: [(&str, &str, u32, u32); 8] = [
    ("NVIDIA RTX A4000", "RTX A4000", 16, 25),
    ("NVIDIA RTX A5000", "RTX A5000", 24, 27),
    ("NVIDIA A40", "A40", 48, 44),
    ("NVIDIA GeForce RTX 4090", "RTX 4090", 24, 69),
    ("NVIDIA L40S", "L40S", 48, 79),
    ("NVIDIA A100 80GB PCIe", "A100 PCIe", 80, 139),
    ("NVIDIA H200", "H200", 141, 459),
    ("AMD Instinct MI300X OAM", "MI300X", 192, 249),
];

fn offers() -> Vec<Offer> {
    let offer = |(gpu, name, memory_gb, cents): &(&str, &str, u32, u32)| Offer {
        gpu: (*gpu).into(),
        name: (*name).into(),
        memory_gb: *memory_gb,
        count: 1,
        cloud: Cloud::Secure,
        price: Dollars::cents(*cents),
        stock: Stock::High,
        data_centers: BTreeMap::new(),
        max_count: 8,
    };
    CATALOG.iter().map(offer).collect()
}

fn without_stock(names: &[&str]) -> Vec<Offer> {
    let mut offers = offers();
    for offer in offers
        .iter_mut()
        .filter(|offer| names.contains(&offer.name.as_str()))
    {
        offer.stock = Stock::None;
    }
    offers
}

fn wish(model: &str) -> Wish {
    Wish::of(&ChatSessionSpec::of(model.parse::<ModelId>().unwrap()))
}

fn file(path: &str, size: u64) -> File {
    File {
        path: path.into(),
        size,
        sha256: Some("a".repeat(64)),
    }
}

fn shape(layers: usize, kv_heads: u64, heads: u64, hidden: u64) -> Shape {
    Shape {
        context: NonZeroU32::new(131_072),
        hidden,
        heads,
        vocabulary: 128_256,
        tied: false,
        cache: Cache::Heads {
            kv_heads: vec![kv_heads; layers],
            widths: 256,
        },
        state_layers: 0,
        window: None,
    }
}

fn llama_8b() -> Facts {
    Facts {
        id: "meta-llama/Llama-3.1-8B-Instruct".into(),
        sha: "0e9e39f249a16976918f6564b8830bc894c89659".into(),
        pipeline: Some("text-generation".into()),
        architectures: vec!["LlamaForCausalLM".into()],
        vision: false,
        remote_code: false,
        chat_template: true,
        adapter: false,
        parameters: BTreeMap::from([("BF16".into(), 8_030_261_248)]),
        stored: None,
        shape: Some(shape(32, 8, 32, 4096)),
        gguf: None,
        files: vec![
            file("config.json", 855),
            file("model-00001-of-00002.safetensors", 9_000_000_000),
            file("model-00002-of-00002.safetensors", 7_060_556_672),
            file("original/consolidated.00.pth", 16_060_617_592),
            file("tokenizer.json", 9_085_657),
            file("README.md", 40_883),
            file(".gitattributes", 1519),
        ],
    }
}

fn llama_70b() -> Facts {
    Facts {
        id: "meta-llama/Llama-3.3-70B-Instruct".into(),
        parameters: BTreeMap::from([("BF16".into(), 70_553_706_496)]),
        shape: Some(shape(80, 8, 64, 8192)),
        files: vec![
            file("config.json", 900),
            file("model.safetensors", 141_107_412_992),
        ],
        ..llama_8b()
    }
}

/// The small model that the rig serves.
fn coder() -> Facts {
    let weights = file("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", 491_400_064);
    Facts {
        id: "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF".into(),
        architectures: vec![],
        parameters: BTreeMap::new(),
        shape: Some(Shape {
            context: NonZeroU32::new(32_768),
            ..shape(24, 2, 14, 896)
        }),
        gguf: Some(Gguf {
            file: weights.path.clone(),
            parts: vec![weights.clone()],
            mmproj: None,
            variant: "Q4_K_M".into(),
        }),
        files: vec![weights, file("README.md", 1)],
        ..llama_8b()
    }
}

fn choose(wish: &Wish, facts: &Facts) -> Plan {
    plan(wish, facts, &offers(), &BTreeSet::new()).unwrap()
}

fn refusal(wish: &Wish, facts: &Facts, offers: &[Offer]) -> Refusal {
    *plan(wish, facts, offers, &BTreeSet::new()).unwrap_err()
}

fn reason(plan: &Plan, gpu: &str) -> RejectedReason {
    plan.rejected
        .iter()
        .find(|rejected| rejected.gpu == gpu)
        .unwrap()
        .reason
}

#[test]
fn the_cheapest_card_that_fits_is_taken_and_every_other_offer_has_a_reason() {
    let plan = choose(&wish("meta-llama/Llama-3.1-8B-Instruct"), &llama_8b());
    assert_eq!(
        (plan.gpu.as_str(), plan.hourly_cost, plan.engine),
        ("NVIDIA RTX A5000", Dollars::cents(27), Engine::Vllm)
    );
    assert_eq!(plan.memory.weights, 16_060_522_496);
    assert_eq!(plan.memory.kv_per_token, 131_072);
    assert!(plan.memory.per_gpu <= 24_100 << 20);
    assert!((LEAST_CONTEXT..=USUAL_CONTEXT).contains(&plan.context_length));
    assert_eq!(reason(&plan, "RTX A4000"), RejectedReason::TooSmall);
    assert_eq!(reason(&plan, "A40"), RejectedReason::Dearer);
    assert_eq!(reason(&plan, "A100 PCIe"), RejectedReason::OverPrice);
    assert_eq!(reason(&plan, "MI300X"), RejectedReason::Unsupported);
    assert_eq!(plan.rejected.len(), CATALOG.len() - 1);
}

#[test]
fn the_plan_names_only_the_files_that_the_engine_opens() {
    let plan = choose(&wish("meta-llama/Llama-3.1-8B-Instruct"), &llama_8b());
    let paths: Vec<&str> = plan.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "tokenizer.json"
        ]
    );
    assert_eq!(plan.disk_gb, 50);
    assert!(
        plan.startup_seconds > 300 && plan.startup_seconds < 900,
        "{}",
        plan.startup_seconds
    );
}

#[test]
fn the_rigs_small_model_is_served_by_llama_cpp_on_the_cheapest_card() {
    let mut asked = wish("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF:Q4_K_M");
    asked.context = Some(4096);
    let plan = choose(&asked, &coder());
    assert_eq!(
        (plan.engine, plan.quantization, plan.quantize_online),
        (Engine::LlamaCpp, Quantization::Int4, false)
    );
    assert_eq!(
        (plan.gpu_name.as_str(), plan.context_length, plan.slots),
        ("RTX A4000", 4096, 4)
    );
    assert_eq!(
        plan.gguf,
        Some(GgufFiles {
            model: "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf".into(),
            mmproj: None
        })
    );
    assert_eq!(plan.files.len(), 1);
    assert_eq!(
        (image::form(&plan.image), plan.min_cuda.as_deref()),
        (image::Form::Json, Some("12.8"))
    );
    assert!(plan.abilities.chat && plan.abilities.structured_output && !plan.abilities.embeddings);
}

#[test]
fn a_plan_survives_the_ledger() {
    for plan in [
        choose(&wish("a/b"), &llama_8b()),
        choose(&wish("a/b"), &coder()),
    ] {
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    }
}

#[test]
fn the_first_listed_type_is_taken_even_when_it_is_dearer() {
    let mut asked = wish("a/b");
    asked.gpu_types = vec!["l40s".into(), "NVIDIA A40".into()];
    let plan = choose(&asked, &llama_8b());
    assert_eq!(plan.gpu_name, "L40S");
    assert_eq!(
        (reason(&plan, "A40"), reason(&plan, "RTX A5000")),
        (RejectedReason::Dearer, RejectedReason::WrongType)
    );
}

#[test]
fn the_nominal_memory_is_what_min_memory_compares() {
    let mut asked = wish("a/b");
    asked.gpu_min_memory = Some(Size::gib(48));
    let plan = choose(&asked, &llama_8b());
    assert_eq!(
        (plan.gpu_name.as_str(), reason(&plan, "RTX A5000")),
        ("A40", RejectedReason::TooSmall)
    );
}

#[test]
fn clouds_and_data_centers_rule_offers_out() {
    let mut offers = offers();
    offers[1].cloud = Cloud::Community;
    offers[2].data_centers = BTreeMap::from([("US-TX-3".into(), Stock::High)]);
    offers[3].data_centers = BTreeMap::from([
        ("EU-RO-1".into(), Stock::Low),
        ("EU-SE-1".into(), Stock::None),
    ]);
    let mut asked = wish("a/b");
    asked.data_centers = vec!["EU-RO-1".into(), "EU-SE-1".into()];
    let plan = plan(&asked, &llama_8b(), &offers, &BTreeSet::new()).unwrap();
    assert_eq!(
        (plan.gpu_name.as_str(), plan.data_centers.as_slice()),
        ("RTX 4090", &["EU-RO-1".to_owned()][..])
    );
    assert_eq!(
        (reason(&plan, "RTX A5000"), reason(&plan, "A40")),
        (RejectedReason::WrongCloud, RejectedReason::WrongDataCenter)
    );
}

#[test]
fn an_offer_that_failed_is_left_out() {
    let excluded = BTreeSet::from([OfferKey {
        gpu: "NVIDIA RTX A5000".into(),
        cloud: Cloud::Secure,
    }]);
    let plan = plan(&wish("a/b"), &llama_8b(), &offers(), &excluded).unwrap();
    assert_eq!(
        (plan.gpu_name.as_str(), reason(&plan, "RTX A5000")),
        ("A40", RejectedReason::Excluded)
    );
}

#[test]
fn what_fits_but_costs_too_much_is_named_with_its_price() {
    let mut asked = wish("a/b");
    asked.max_hourly_cost = Dollars::cents(25);
    let mut facts = llama_8b();
    facts.parameters = BTreeMap::from([("BF16".into(), 12_000_000_000)]);
    let refused = refusal(&asked, &facts, &offers());
    assert_eq!(refused.reason, Planned::OverPrice);
    assert_eq!(
        refused.message,
        "needs 30Gi: A40 at $0.44 fits, limit is $0.25; fits with quantization: Int4"
    );
    assert_eq!(refused.rejected.len(), CATALOG.len());
}

#[test]
fn a_refusal_names_what_came_nearest_and_what_speaks_against_it() {
    let mut asked = wish("a/b");
    asked.gpu_types = vec!["RTX A4000".into()];
    asked.max_hourly_cost = Dollars::cents(1);
    let refused = refusal(&asked, &llama_8b(), &offers());
    let said = refused.to_string();
    let named = said.strip_prefix(&refused.message).unwrap();
    assert!(named.starts_with("; not taken: "), "{said}");
    assert!(named.contains(" (not in gpu.types)"), "{said}");
    assert!(named.contains(" more ("), "{said}");
    // The largest first, and never more than a handful for one reason.
    let largest = offers()
        .into_iter()
        .max_by_key(|offer| gpus::of(offer).visible_mib);
    assert!(
        named.contains(&format!("not taken: {}", largest.unwrap().name)),
        "{said}"
    );
    assert!(said.len() < 1000, "{said}");
}

#[test]
fn what_is_not_in_stock_is_named() {
    let mut asked = wish("a/b");
    asked.gpu_types = vec!["RTX A5000".into()];
    let refused = refusal(&asked, &llama_8b(), &without_stock(&["RTX A5000"]));
    assert_eq!(
        (
            refused.reason,
            refused
                .message
                .contains("RTX A5000 would fit, and none is in stock")
        ),
        (Planned::OutOfStock, true),
        "{}",
        refused.message
    );
}

#[test]
fn a_model_that_fits_nowhere_is_told_what_would_help() {
    let mut asked = wish("a/b");
    asked.max_hourly_cost = Dollars::whole(20);
    let small: Vec<Offer> = offers()
        .into_iter()
        .filter(|offer| offer.memory_gb <= 80)
        .collect();
    let refused = refusal(&asked, &llama_70b(), &small);
    assert_eq!(refused.reason, Planned::NoFittingGPU);
    assert!(
        refused.message.starts_with("needs 15")
            && refused
                .message
                .contains("the largest on offer, A100 PCIe, shows"),
        "{}",
        refused.message
    );
    assert!(
        refused.message.ends_with("fits with quantization: Int4"),
        "{}",
        refused.message
    );
    asked.quantization = Quantization::None;
    let refused = refusal(&asked, &llama_70b(), &small);
    assert!(
        refused.message.ends_with("fits with gpu.count: 4")
            || refused.message.ends_with("fits with gpu.count: 2"),
        "{}",
        refused.message
    );
    assert_eq!(
        refusal(&asked, &llama_8b(), &[]).message,
        "needs 21Gi: the provider offers no GPU at all"
    );
}

#[test]
fn a_constraint_that_rules_out_what_would_fit_is_named() {
    let mut asked = wish("a/b");
    asked.gpu_types = vec!["RTX A4000".into()];
    let refused = refusal(&asked, &llama_8b(), &offers());
    assert_eq!(refused.reason, Planned::NoFittingGPU);
    assert!(
        refused
            .message
            .contains("RTX A5000 at $0.27 fits, and gpu.types rules it out"),
        "{}",
        refused.message
    );
}

#[test]
fn several_gpus_share_the_weights_and_are_paid_for() {
    let mut asked = wish("a/b");
    asked.gpu_count = 4;
    asked.max_hourly_cost = Dollars::whole(4);
    let plan = choose(&asked, &llama_70b());
    assert_eq!(
        (plan.gpu_name.as_str(), plan.gpu_count, plan.hourly_cost),
        ("A40", 4, Dollars::cents(176))
    );
    assert_eq!(plan.memory.required, 4 * plan.memory.per_gpu);
    assert!(plan.disk_gb >= 180, "{}", plan.disk_gb);
    asked.gpu_count = 3;
    let refused = refusal(&asked, &llama_70b(), &offers());
    assert_eq!(
        (
            refused.reason,
            refused.message.contains("gpu.count may be 1, 2, 4, 8")
        ),
        (Planned::UnsupportedModel, true),
        "{}",
        refused.message
    );
}

#[test]
fn context_is_kept_when_written_and_capped_when_not() {
    let mut asked = wish("a/b");
    asked.context = Some(65_536);
    let plan = choose(&asked, &llama_8b());
    assert_eq!(
        (plan.context_length, plan.gpu_name.as_str()),
        (65_536, "A40"),
        "24 GB do not hold so much"
    );
    asked.context = Some(200_000);
    assert_eq!(
        refusal(&asked, &llama_8b(), &offers()).reason,
        Planned::UnsupportedModel
    );
    asked.context = None;
    asked.gpu_types = vec!["L40S".into()];
    assert_eq!(choose(&asked, &llama_8b()).context_length, USUAL_CONTEXT);
}

#[test]
fn four_bits_on_request_mean_transformers_and_eight_mean_ada() {
    let mut asked = wish("a/b");
    asked.quantization = Quantization::Int4;
    let four = choose(&asked, &llama_8b());
    assert_eq!(
        (four.engine, four.quantization, four.quantize_online),
        (Engine::Transformers, Quantization::Int4, true)
    );
    assert_eq!(four.gpu_name, "RTX A4000");
    // 2 x 128256 x 4096 parameters of embedding and head stay at two bytes; the rest shrinks to 0.55.
    let expected = 2 * 2 * 128_256 * 4096 + (8_030_261_248u64 - 2 * 128_256 * 4096) * 55 / 100;
    assert!(
        four.memory.weights.abs_diff(expected) < 1000,
        "{} is not {expected}",
        four.memory.weights
    );
    asked.quantization = Quantization::Fp8;
    let eight = choose(&asked, &llama_8b());
    assert_eq!(
        (eight.engine, eight.quantize_online, eight.gpu_name.as_str()),
        (Engine::Vllm, true, "RTX 4090")
    );
    assert_eq!(reason(&eight, "RTX A5000"), RejectedReason::Unsupported);
}

#[test]
fn stored_quantizations_are_served_as_they_are() {
    let mut facts = llama_8b();
    facts.stored = Some(Stored {
        method: "awq".into(),
        bits: Some(4),
    });
    // Packed: eight weights in each 32-bit number.
    facts.parameters = BTreeMap::from([("I32".into(), 875_000_000), ("F16".into(), 1_050_000_000)]);
    let plan = choose(&wish("a/b"), &facts);
    assert_eq!(
        (plan.engine, plan.quantization, plan.quantize_online),
        (Engine::Vllm, Quantization::Int4, false)
    );
    assert_eq!(plan.memory.weights, 875_000_000 * 4 + 1_050_000_000 * 2);
    let mut asked = wish("a/b");
    for refused in [Quantization::None, Quantization::Fp8] {
        asked.quantization = refused;
        assert_eq!(
            refusal(&asked, &facts, &offers()).reason,
            Planned::UnsupportedModel
        );
    }
    facts.stored = Some(Stored {
        method: "bitsandbytes".into(),
        bits: Some(4),
    });
    assert_eq!(choose(&wish("a/b"), &facts).engine, Engine::Transformers);
}

#[test]
fn models_that_nothing_serves_are_refused_in_a_sentence() {
    let sentence = |wish: &Wish, facts: &Facts| {
        let refused = refusal(wish, facts, &offers());
        assert_eq!(refused.reason, Planned::UnsupportedModel);
        refused.message
    };
    let plain = wish("a/b");
    let pickled = Facts {
        files: vec![file("config.json", 1), file("pytorch_model.bin", 9)],
        ..llama_8b()
    };
    assert!(sentence(&plain, &pickled).contains("pickled"));
    let adapter = Facts {
        adapter: true,
        ..llama_8b()
    };
    assert!(sentence(&plain, &adapter).contains("adapter"));
    let painter = Facts {
        pipeline: Some("text-to-image".into()),
        ..llama_8b()
    };
    assert!(sentence(&plain, &painter).contains("text-to-image"));
    let strange = Facts {
        architectures: vec!["NobodyKnowsForCausalLM".into()],
        ..llama_8b()
    };
    assert!(sentence(&plain, &strange).contains("NobodyKnowsForCausalLM"));
    let foreign = Facts {
        remote_code: true,
        ..strange
    };
    assert!(sentence(&plain, &foreign).contains("trustRemoteCode"));
    let trusting = Wish {
        trust_remote_code: true,
        ..plain.clone()
    };
    assert_eq!(choose(&trusting, &foreign).engine, Engine::Transformers);
    let llama_cpp = Wish {
        engine: srchat_crds::session::Engine::LlamaCpp,
        ..plain.clone()
    };
    assert!(sentence(&llama_cpp, &llama_8b()).contains("GGUF"));
    let unknown = Facts {
        shape: None,
        ..llama_8b()
    };
    assert!(sentence(&plain, &unknown).contains("config.json"));
}

#[test]
fn vision_counts_and_is_told() {
    let seeing = Facts {
        vision: true,
        pipeline: Some("image-text-to-text".into()),
        architectures: vec!["Qwen2_5_VLForConditionalGeneration".into()],
        ..llama_8b()
    };
    let plan = choose(&wish("a/b"), &seeing);
    assert!(plan.vision && plan.abilities.vision);
    assert!(plan.memory.overhead > choose(&wish("a/b"), &llama_8b()).memory.overhead);
}

#[test]
fn embedding_models_embed_and_do_nothing_else() {
    let embedding = Facts {
        pipeline: Some("sentence-similarity".into()),
        architectures: vec!["BertModel".into()],
        ..llama_8b()
    };
    let abilities = choose(&wish("a/b"), &embedding).abilities;
    assert!(abilities.embeddings && !abilities.chat && !abilities.completions);
}

#[test]
fn a_startup_that_takes_too_long_is_refused_before_anything_is_rented() {
    let mut asked = wish("a/b");
    asked.startup = Some(Duration::from_secs(120));
    let refused = refusal(&asked, &llama_8b(), &offers());
    assert_eq!(
        (
            refused.reason,
            refused.message.contains("limits.startup allows 2")
        ),
        (Planned::StartupTooLong, true),
        "{}",
        refused.message
    );
    asked.startup = None;
    asked.lifetime = Duration::from_secs(60);
    assert!(
        refusal(&asked, &llama_8b(), &offers())
            .message
            .contains("limits.lifetime")
    );
    assert_eq!(startup::limit(None, 100), Duration::from_secs(1200));
    assert_eq!(startup::limit(None, 1000), Duration::from_secs(3000));
}

#[test]
fn arguments_that_would_open_the_engine_are_refused_before_anything_is_rented() {
    let mut asked = wish("a/b");
    asked.extra_args = vec!["--host=0.0.0.0".into()];
    let refused = refusal(&asked, &llama_8b(), &offers());
    assert_eq!(
        (refused.reason, refused.message.contains("--host")),
        (Planned::UnsupportedModel, true),
        "{}",
        refused.message
    );
}

#[test]
fn the_command_line_quantizes_only_what_is_not_quantized_already() {
    let mut asked = wish("a/b");
    asked.quantization = Quantization::Int4;
    assert_eq!(
        choose(&asked, &llama_8b()).engine_spec("m").quantization,
        engine::Quantization::Int4
    );
    assert_eq!(
        choose(&asked, &coder()).engine_spec("m").quantization,
        engine::Quantization::None
    );
}

#[test]
fn a_disk_that_cannot_hold_the_files_is_refused_and_others_are_rounded_up() {
    let mut asked = wish("a/b");
    asked.disk = Some("10G".parse().unwrap());
    assert_eq!(
        refusal(&asked, &llama_8b(), &offers()).reason,
        Planned::NoFittingGPU
    );
    asked.disk = Some(Size::gib(60));
    assert_eq!(
        choose(&asked, &llama_8b()).disk_gb,
        65,
        "60 GiB are 64.4 GB"
    );
}

#[test]
fn status_shows_a_card_once() {
    let mut offers = offers();
    let mut community = offers[1].clone();
    community.cloud = Cloud::Community;
    offers.push(community);
    let plan = plan(&wish("a/b"), &llama_8b(), &offers, &BTreeSet::new()).unwrap();
    let status = srchat_crds::status::Plan::from(&plan);
    assert!(
        status
            .rejected
            .iter()
            .all(|rejected| rejected.gpu != "RTX A5000")
    );
    assert_eq!(status.required_memory, Size::gib_for(plan.memory.per_gpu));
    assert_eq!(status.disk.gb_up(), 50);
}

#[test]
fn vllm_has_transformers_in_reserve_where_the_choice_was_ours() {
    let facts = llama_8b();
    let auto = wish("meta-llama/Llama-3.1-8B-Instruct");
    let plan = choose(&auto, &facts);
    let instead = plan.instead().unwrap();
    assert_eq!(
        (plan.engine, instead.engine),
        (Engine::Vllm, Engine::Transformers)
    );
    assert!(plan.abilities.structured_output && !instead.abilities.structured_output);
    assert_eq!(
        Plan {
            engine: plan.engine,
            abilities: plan.abilities,
            fallback: plan.fallback,
            ..instead.clone()
        },
        plan,
        "the same files on the same card"
    );
    assert_eq!(instead.instead(), None, "once");

    let mut asked = auto.clone();
    asked.engine = session::Engine::Vllm;
    assert_eq!(choose(&asked, &facts).fallback, None, "it was asked for");
    let mut flags = auto.clone();
    flags.extra_args = vec!["--enable-prefix-caching".into()];
    assert_eq!(
        choose(&flags, &facts).fallback,
        None,
        "arguments for vLLM are none for transformers"
    );
    let mut eight = auto;
    eight.quantization = Quantization::Fp8;
    assert_eq!(
        choose(&eight, &facts).fallback,
        None,
        "only vLLM makes FP8 while loading"
    );
}
