//! How much of a matrix product is worked on at once and by how many threads, by processor: what was measured, or what
//! follows from the caches and cores.

use crate::simd::Level;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::OnceLock;

/// Block sizes of matrix products, in bytes.  They change how long a product takes, never its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Activations that are multiplied with all weights before the next rows' turn.
    pub act: usize,
    /// Packed weights that are multiplied with all tiles of such a block before the next weights' turn; what is packed
    /// at a time where weights are packed as they are multiplied.
    pub weight: usize,
}

impl Blocks {
    /// Sizes that can be asked for.
    pub const BYTES: RangeInclusive<usize> = 16 << 10..=64 << 20;

    /// The sizes of this processor with these instructions: from the table, else an eighth to a half of what a core has
    /// of the second cache.
    pub fn of(level: Level) -> Blocks {
        static CACHE: OnceLock<Option<usize>> = OnceLock::new();
        Row::of(level).map_or_else(|| Blocks::from_cache(*CACHE.get_or_init(second_cache)), |row| row.blocks)
    }

    /// What follows from the size of the second cache alone; of 512 KiB where the system does not tell.
    fn from_cache(bytes: Option<usize>) -> Blocks {
        let bytes = bytes.unwrap_or(512 << 10).clamp(128 << 10, 4 << 20);
        Blocks { act: bytes / 2, weight: bytes / 4 }
    }
}

/// The threads of a team of which no number is asked for: as many to a core as the table says, else one, since hardware
/// threads of a core share the units that kernels keep busy; no more than this process may run at once.
pub fn threads(level: Level) -> usize {
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    team(usable, cores(), Row::of(level))
}

fn team(usable: usize, cores: Option<usize>, row: Option<&Row>) -> usize {
    cores.map_or(usable, |n| usable.min(n * row.map_or(1, |row| row.threads_per_core)))
}

/// Cores of this machine, hardware threads of one core counted once, where the system tells.
fn cores() -> Option<usize> {
    let siblings = |i: usize| std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list"));
    let cores: BTreeSet<String> = (0..).map_while(|i| siblings(i).ok()).collect();
    (!cores.is_empty()).then_some(cores.len())
}

/// A processor.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Model {
    /// `AuthenticAMD`, `GenuineIntel`.
    vendor: String,
    family: u32,
    model: u32,
}

impl Model {
    #[cfg(target_arch = "x86_64")]
    fn this() -> Option<Model> {
        use std::arch::x86_64::__cpuid;
        let (name, signature) = (__cpuid(0), __cpuid(1).eax);
        let vendor = [name.ebx, name.edx, name.ecx].iter().flat_map(|r| r.to_le_bytes()).map(char::from).collect();
        let (family, model) = decode(signature);
        Some(Model { vendor, family, model })
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn this() -> Option<Model> {
        None
    }
}

/// Family and model of the signature of leaf 1, as both vendors' manuals put them together.
#[cfg(target_arch = "x86_64")]
fn decode(signature: u32) -> (u32, u32) {
    let (family, model) = (signature >> 8 & 15, signature >> 4 & 15);
    let more = signature >> 16 & 15;
    match family {
        15 => (15 + (signature >> 20 & 255), model | more << 4),
        6 => (6, model | more << 4),
        _ => (family, model),
    }
}

/// Bytes of the second cache of a core, where the system tells.
fn second_cache() -> Option<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").ok()?;
    text.trim().strip_suffix('K')?.parse::<usize>().ok()?.checked_mul(1024)
}

/// What was measured on a processor.
struct Row {
    vendor: &'static str,
    family: u32,
    models: RangeInclusive<u32>,
    level: Level,
    blocks: Blocks,
    threads_per_core: usize,
}

impl Row {
    /// The row of this processor with these instructions.
    fn of(level: Level) -> Option<&'static Row> {
        static THIS: OnceLock<Option<Model>> = OnceLock::new();
        THIS.get_or_init(Model::this).as_ref().and_then(|m| Row::find(TABLE, m, level))
    }

    fn find<'t>(table: &'t [Row], m: &Model, level: Level) -> Option<&'t Row> {
        let fits = |r: &&Row| r.vendor == m.vendor && r.family == m.family && r.models.contains(&m.model) && r.level == level;
        table.iter().find(fits)
    }
}

/// Sizes and threads that `rlx-bench tune` found none better than beyond the noise; the first row that fits counts.
const TABLE: &[Row] = &[
    // Zen 3 servers.  Threads were measured where each core showed one hardware thread: what a second one of a core would
    // add was not.
    Row {
        vendor: "AuthenticAMD",
        family: 25,
        models: 0..=0x0f,
        level: Level::Avx2,
        blocks: Blocks { act: 256 << 10, weight: 128 << 10 },
        threads_per_core: 1,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_of_the_table_and_of_any_cache_can_be_asked_for() {
        let caches = [None, Some(0), Some(256 << 10), Some(2 << 20), Some(usize::MAX)].map(Blocks::from_cache);
        let this = Level::available().into_iter().map(Blocks::of);
        for b in TABLE.iter().map(|r| r.blocks).chain(caches).chain(this) {
            assert!(Blocks::BYTES.contains(&b.act) && Blocks::BYTES.contains(&b.weight), "{b:?}");
        }
        assert!(TABLE.iter().all(|r| !r.models.is_empty() && r.vendor.len() == 12 && r.threads_per_core > 0));
    }

    #[test]
    fn a_team_has_as_many_threads_to_a_core_as_its_row_says_and_may_run() {
        let row = |threads_per_core| Row {
            vendor: "GenuineIntel",
            family: 6,
            models: 0..=0,
            level: Level::Scalar,
            blocks: Blocks::from_cache(None),
            threads_per_core,
        };
        // Eight cores of two hardware threads each; of those, processors that this process may use.
        assert_eq!([16, 12, 4].map(|usable| team(usable, Some(8), None)), [8, 8, 4]);
        assert_eq!([16, 12, 4].map(|usable| team(usable, Some(8), Some(&row(1)))), [8, 8, 4]);
        assert_eq!([16, 12, 4].map(|usable| team(usable, Some(8), Some(&row(2)))), [16, 12, 4]);
        assert_eq!(team(6, None, Some(&row(2))), 6, "where the system does not tell, all");
    }

    #[test]
    fn a_row_is_of_one_vendor_family_range_of_models_and_level() {
        let milan = Model { vendor: "AuthenticAMD".into(), family: 25, model: 1 };
        assert!(Row::find(TABLE, &milan, Level::Avx2).is_some());
        assert!(Row::find(TABLE, &milan, Level::Scalar).is_none());
        let others = [
            Model { family: 26, ..milan.clone() },
            Model { model: 0x11, ..milan.clone() },
            Model { vendor: "GenuineIntel".into(), ..milan },
        ];
        assert!(others.iter().all(|m| Row::find(TABLE, m, Level::Avx2).is_none()));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn signatures_are_read_as_the_manuals_say() {
        // EPYC 7003, EPYC 9004, Xeon of Sapphire Rapids.
        assert_eq!([0x00a0_0f11, 0x00a1_0f11, 0x0008_06f8].map(decode), [(25, 1), (25, 17), (6, 143)]);
    }
}
