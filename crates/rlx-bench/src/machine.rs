//! The machine: what it is, and how busy others keep it.

use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Processor and system, for the record.
pub fn describe() -> Value {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| Some(l.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    json!({ "cpu": model, "cpus": cores, "os": std::env::consts::OS, "arch": std::env::consts::ARCH })
}

/// The figure of a line `name:  123 kB` of a file of `/proc`, in bytes.
fn kilobytes(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Bytes of memory that programs could still take, where the system tells.
pub fn available_memory() -> Option<u64> {
    kilobytes("/proc/meminfo", "MemAvailable")
}

/// Bytes of this process's memory in 2 MiB pages, where the system tells.
pub fn huge_pages() -> Option<u64> {
    kilobytes("/proc/self/smaps_rollup", "AnonHugePages")
}

/// Clock ticks of all processors: in all, and idle.
fn ticks() -> Option<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let v: Vec<u64> = stat.lines().next()?.split_whitespace().skip(1).take(8).filter_map(|t| t.parse().ok()).collect();
    Some((v.iter().sum(), v.get(3)? + v.get(4)?))
}

/// How many processors are busy, over half a second; `None` where the system does not tell.
pub fn busy() -> Option<f64> {
    let before = ticks()?;
    std::thread::sleep(Duration::from_millis(500));
    let after = ticks()?;
    let (all, idle) = (after.0.saturating_sub(before.0).max(1), after.1.saturating_sub(before.1));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    Some(cpus * (1.0 - idle as f64 / all as f64).max(0.0))
}

/// Waits until less than 0.3 processors are busy, at most `patience`; returns how busy they are then.
pub fn quiet(patience: Duration) -> Option<f64> {
    let started = Instant::now();
    loop {
        let now = busy()?;
        if now < 0.3 || started.elapsed() >= patience {
            return Some(now);
        }
    }
}
