//! What is known of GPUs by the provider's ids. A card that is not here is not refused: its memory is taken for nine tenths of the
//! label, and its abilities for those of the newest, since the cards that appear later are newer.

use crate::provider::Offer;

/// A card, as CUDA shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// MiB that `torch.cuda.mem_get_info` calls total on an idle card.
    pub visible_mib: u64,
    /// Compute capability, major and minor in one number: 89 is Ada.
    pub capability: u32,
    /// Runs CUDA.
    pub cuda: bool,
}

const NEWEST: u32 = 120;

/// Provider's id, visible MiB, compute capability. The memory is what users' out-of-memory messages call "total capacity", the
/// least where reports differ (ECC takes a sixteenth on some boards).
const KNOWN: [(&str, u64, u32); 46] = [
    ("NVIDIA A30", 24_060, 80),
    ("NVIDIA A40", 45_400, 86),
    ("NVIDIA A100 80GB PCIe", 81_040, 80),
    ("NVIDIA A100-SXM4-40GB", 40_330, 80),
    ("NVIDIA A100-SXM4-80GB", 81_040, 80),
    ("NVIDIA B200", 182_620, 100),
    ("NVIDIA B300 SXM6 AC", 274_000, 103),
    ("NVIDIA GeForce RTX 3070", 7_850, 86),
    ("NVIDIA GeForce RTX 3080", 9_860, 86),
    ("NVIDIA GeForce RTX 3080 Ti", 11_900, 86),
    ("NVIDIA GeForce RTX 3090", 24_150, 86),
    ("NVIDIA GeForce RTX 3090 Ti", 24_150, 86),
    ("NVIDIA GeForce RTX 4070 Ti", 11_870, 89),
    ("NVIDIA GeForce RTX 4080", 15_960, 89),
    ("NVIDIA GeForce RTX 4080 SUPER", 15_960, 89),
    ("NVIDIA GeForce RTX 4090", 24_110, 89),
    ("NVIDIA GeForce RTX 5080", 15_840, 120),
    ("NVIDIA GeForce RTX 5090", 32_110, 120),
    ("NVIDIA H100 80GB HBM3", 81_000, 90),
    ("NVIDIA H100 NVL", 95_230, 90),
    ("NVIDIA H100 PCIe", 81_000, 90),
    ("NVIDIA H200", 143_150, 90),
    ("NVIDIA H200 NVL", 143_150, 90),
    ("NVIDIA L4", 22_480, 89),
    ("NVIDIA L40", 45_390, 89),
    ("NVIDIA L40S", 45_460, 89),
    ("NVIDIA RTX 2000 Ada Generation", 15_900, 89),
    ("NVIDIA RTX 4000 Ada Generation", 20_000, 89),
    ("NVIDIA RTX 4000 SFF Ada Generation", 20_000, 89),
    ("NVIDIA RTX 5000 Ada Generation", 32_200, 89),
    ("NVIDIA RTX 6000 Ada Generation", 48_500, 89),
    ("NVIDIA RTX A2000", 5_900, 86),
    ("NVIDIA RTX A4000", 15_960, 86),
    ("NVIDIA RTX A4500", 20_000, 86),
    ("NVIDIA RTX A5000", 24_100, 86),
    ("NVIDIA RTX A6000", 48_500, 86),
    ("NVIDIA RTX PRO 4500 Blackwell", 32_100, 120),
    (
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        97_240,
        120,
    ),
    ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97_240, 120),
    (
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
        97_240,
        120,
    ),
    ("Tesla T4", 14_900, 75),
    ("Tesla V100-FHHL-16GB", 16_150, 70),
    ("Tesla V100-PCIE-16GB", 16_150, 70),
    ("Tesla V100-SXM2-16GB", 16_150, 70),
    ("Tesla V100-SXM2-32GB", 32_490, 70),
    ("Tesla V100-SXM3-32GB", 32_490, 70),
];

/// The card behind an offer.
pub fn of(offer: &Offer) -> Gpu {
    let known = KNOWN.iter().find(|(id, _, _)| *id == offer.gpu);
    let cuda = !offer.gpu.starts_with("AMD ");
    match known {
        Some((_, visible_mib, capability)) => Gpu {
            visible_mib: *visible_mib,
            capability: *capability,
            cuda,
        },
        None => Gpu {
            visible_mib: u64::from(offer.memory_gb) * 1024 * 9 / 10,
            capability: NEWEST,
            cuda,
        },
    }
}

/// Whether `wanted` is this offer's id or short name, whatever case and spaces it is written with.
pub fn is_called(offer: &Offer, wanted: &str) -> bool {
    let plain = |text: &str| -> String {
        let kept = text
            .chars()
            .filter(|c| c.is_alphanumeric())
            .flat_map(char::to_lowercase);
        kept.collect()
    };
    let wanted = plain(wanted);
    !wanted.is_empty() && (plain(&offer.gpu) == wanted || plain(&offer.name) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_card_shows_more_than_its_label_or_much_less() {
        for (id, mib, capability) in KNOWN {
            assert!(
                (5_000..=300_000).contains(&mib) && (70..=NEWEST).contains(&capability),
                "{id}"
            );
            let label = id
                .split(|c: char| !c.is_alphanumeric())
                .find_map(|part| part.strip_suffix("GB")?.parse::<u64>().ok());
            if let Some(label) = label {
                assert!(mib <= label * 1024 && mib >= label * 1024 * 9 / 10, "{id}");
            }
        }
    }

    #[test]
    fn no_card_is_listed_twice() {
        let ids: std::collections::BTreeSet<&str> = KNOWN.iter().map(|(id, _, _)| *id).collect();
        assert_eq!(ids.len(), KNOWN.len());
    }
}
