//! What can be rented: the fixture prices of the design, stock that tests can change, and the catalog's query rules.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::problem::Problem;

/// How much is in stock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// A create is refused.
    None,
    /// A few.
    Low,
    /// Some.
    Medium,
    /// Plenty.
    High,
}

/// One kind of GPU. Prices are in thousandths of a dollar an hour.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// The id that creates use.
    pub id: &'static str,
    /// The short name.
    pub name: &'static str,
    /// GB.
    pub memory: u32,
    /// In the provider's own data centers.
    pub secure_millis: u64,
    /// On machines of others; `None` when it is not offered there.
    pub community_millis: Option<u64>,
    /// The most on one machine.
    pub max_count: u32,
    /// Which data centers have it.
    pub centers: &'static [&'static str],
}

const EU: &[&str] = &["EU-RO-1", "EU-SE-1"];
const US: &[&str] = &["US-KS-2", "US-TX-3"];
const BOTH: &[&str] = &["EU-RO-1", "US-KS-2"];

/// The catalog.
pub const GPUS: [Gpu; 17] = [
    gpu("NVIDIA RTX A4000", "RTX A4000", 16, 250, Some(170), 8, BOTH),
    gpu(
        "NVIDIA RTX 2000 Ada Generation",
        "RTX 2000 Ada",
        16,
        240,
        None,
        4,
        EU,
    ),
    gpu("NVIDIA RTX A5000", "RTX A5000", 24, 270, Some(160), 8, BOTH),
    gpu(
        "NVIDIA GeForce RTX 3090",
        "RTX 3090",
        24,
        500,
        Some(220),
        8,
        US,
    ),
    gpu("NVIDIA L4", "L4", 24, 490, None, 8, EU),
    gpu(
        "NVIDIA GeForce RTX 4090",
        "RTX 4090",
        24,
        690,
        Some(340),
        8,
        BOTH,
    ),
    gpu(
        "NVIDIA GeForce RTX 5090",
        "RTX 5090",
        32,
        990,
        Some(690),
        8,
        US,
    ),
    gpu("NVIDIA A40", "A40", 48, 440, None, 10, EU),
    gpu("NVIDIA L40S", "L40S", 48, 790, None, 8, BOTH),
    gpu("NVIDIA L40", "L40", 48, 820, None, 8, EU),
    gpu(
        "NVIDIA A100 80GB PCIe",
        "A100 PCIe",
        80,
        1_390,
        Some(1_190),
        8,
        BOTH,
    ),
    gpu("NVIDIA H100 PCIe", "H100 PCIe", 80, 1_990, None, 8, BOTH),
    gpu("NVIDIA H100 NVL", "H100 NVL", 94, 3_190, None, 8, US),
    gpu(
        "NVIDIA RTX PRO 6000 Blackwell Server Edition",
        "RTX PRO 6000",
        96,
        1_790,
        None,
        8,
        EU,
    ),
    gpu("NVIDIA H200", "H200 SXM", 141, 4_590, None, 8, BOTH),
    gpu("NVIDIA B200", "B200", 180, 5_980, None, 8, US),
    gpu("AMD Instinct MI300X OAM", "MI300X", 192, 2_490, None, 8, EU),
];

const fn gpu(
    id: &'static str,
    name: &'static str,
    memory: u32,
    secure_millis: u64,
    community_millis: Option<u64>,
    max_count: u32,
    centers: &'static [&'static str],
) -> Gpu {
    Gpu {
        id,
        name,
        memory,
        secure_millis,
        community_millis,
        max_count,
        centers,
    }
}

/// The data centers, with what people call them and their country.
const CENTERS: [(&str, &str, &str); 4] = [
    ("EU-RO-1", "Romania 1", "RO"),
    ("EU-SE-1", "Sweden 1", "SE"),
    ("US-KS-2", "US Kansas 2", "US"),
    ("US-TX-3", "US Texas 3", "US"),
];

/// Whether there is such a data center.
pub(super) fn is_center(id: &str) -> bool {
    CENTERS.iter().any(|(center, _, _)| *center == id)
}

/// A GPU by id.
pub(super) fn find(id: &str) -> Option<&'static Gpu> {
    GPUS.iter().find(|gpu| gpu.id == id)
}

/// Stock that differs from "plenty".
#[derive(Debug, Default)]
pub(super) struct Stock(pub(super) BTreeMap<String, Level>);

impl Stock {
    pub(super) fn of(&self, gpu: &Gpu, count: u32, secure: bool) -> Level {
        let offered = secure || gpu.community_millis.is_some();
        if count > gpu.max_count || !offered {
            Level::None
        } else {
            self.0.get(gpu.id).copied().unwrap_or(Level::High)
        }
    }
}

/// What a catalog read asked for.
#[derive(Debug)]
pub(super) struct Query {
    availability: bool,
    count: u32,
    secure: bool,
    countries: Vec<String>,
    cuda: Vec<String>,
}

impl Query {
    /// Reads the query strictly; parameters that do not exist are ignored, as RunPod does.
    pub(super) fn parse(query: &BTreeMap<String, String>) -> Result<Self, Problem> {
        let list = |name: &str| -> Vec<String> {
            query
                .get(name)
                .map(|text| {
                    text.split(',')
                        .filter(|item| !item.is_empty())
                        .map(str::to_owned)
                        .collect()
                })
                .unwrap_or_default()
        };
        let mut errors = Vec::new();
        let mut check = |name: &str, fits: &dyn Fn(&str) -> bool| {
            errors.extend(
                list(name)
                    .iter()
                    .filter(|value| !fits(value))
                    .map(|value| format!("{name}: {value:?} is not allowed")),
            );
        };
        check("include", &|value| value == "AVAILABILITY");
        check("product", &|value| {
            matches!(value, "POD" | "CLUSTER" | "SERVERLESS")
        });
        check("cloud", &|value| matches!(value, "SECURE" | "COMMUNITY"));
        check("count", &|value| {
            value.parse::<u32>().is_ok_and(|count| count > 0)
        });
        check("countryCodes", &|value| {
            value.len() == 2 && value.bytes().all(|b| b.is_ascii_uppercase())
        });
        check("cudaVersions", &is_version);
        check("minCudaVersion", &|value| {
            is_version(value) || (!value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()))
        });
        if !errors.is_empty() {
            return Err(Problem::invalid(errors));
        }
        let availability = !list("include").is_empty();
        if availability && !query.contains_key("product") {
            return Err(Problem::new(400, "include=AVAILABILITY requires product"));
        }
        let only_with = [
            "product",
            "count",
            "cloud",
            "countryCodes",
            "cudaVersions",
            "minCudaVersion",
        ];
        if let (false, Some(name)) = (
            availability,
            only_with.iter().find(|name| query.contains_key(**name)),
        ) {
            return Err(Problem::new(
                400,
                format!("{name} is valid only with include=AVAILABILITY"),
            ));
        }
        if query.contains_key("cudaVersions") && query.contains_key("minCudaVersion") {
            return Err(Problem::new(
                400,
                "cudaVersions and minCudaVersion are mutually exclusive",
            ));
        }
        Ok(Self {
            availability,
            count: query
                .get("count")
                .and_then(|count| count.parse().ok())
                .unwrap_or(1),
            secure: query.get("cloud").is_none_or(|cloud| cloud == "SECURE"),
            countries: list("countryCodes"),
            cuda: list("cudaVersions"),
        })
    }
}

fn is_version(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    text.split_once('.')
        .is_some_and(|(major, minor)| digits(major) && digits(minor))
}

/// Every machine of the simulator has this driver: new enough for each of srchat's default images.
pub(super) const CUDA: &str = "13.0";

/// The catalog as it answers this query.
pub(super) fn list(query: &Query, stock: &Stock) -> Value {
    let gpus = GPUS.iter().filter(|gpu| !centers(gpu, query).is_empty());
    json!({"gpus": gpus.map(|gpu| describe(gpu, query, stock)).collect::<Vec<_>>()})
}

fn centers(gpu: &Gpu, query: &Query) -> Vec<&'static (&'static str, &'static str, &'static str)> {
    let here = |country: &str| {
        query.countries.is_empty() || query.countries.iter().any(|wanted| wanted == country)
    };
    CENTERS
        .iter()
        .filter(|(id, _, country)| gpu.centers.contains(id) && here(country))
        .collect()
}

/// One kind of GPU as this query answers it.
pub(super) fn describe(gpu: &Gpu, query: &Query, stock: &Stock) -> Value {
    let amd = gpu.id.starts_with("AMD");
    let dollars = |millis: u64| millis as f64 / 1_000.0;
    let mut seen = json!({
        "id": gpu.id,
        "name": gpu.name,
        "pool": null,
        "manufacturer": if amd { "AMD" } else { "NVIDIA" },
        "memory": gpu.memory,
        "secure": true,
        "community": gpu.community_millis.is_some(),
        "price": {"secure": dollars(gpu.secure_millis), "community": dollars(gpu.community_millis.unwrap_or(0))},
        "maxCount": {"secure": gpu.max_count, "community": if gpu.community_millis.is_some() { gpu.max_count } else { 0 }},
    });
    if query.availability {
        let centers = centers(gpu, query);
        let level = if centers.is_empty() {
            Level::None
        } else {
            stock.of(gpu, query.count, query.secure)
        };
        seen["availability"] = json!(level);
        if level > Level::None {
            let center = |(id, name, _): &&(&str, &str, &str)| json!({"id": id, "name": name, "availability": level});
            seen["dataCenters"] = centers.iter().map(center).collect();
        }
        if !amd && (query.cuda.is_empty() || query.cuda.iter().any(|version| version == CUDA)) {
            seen["cudaVersions"] = json!([{"version": CUDA, "available": level > Level::None}]);
        }
    }
    seen
}
