//! Threads that run a kernel at the same time, each on a processor of its own where the system allows it.

use anyhow::Context;
use rlx_cpu::team::Team;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A team for measurements.  It lives on a thread of its own, so that the caller stays on the processors it was on.
pub struct Gang {
    team: Team,
    /// Whether every thread has a processor to itself.
    pub pinned: bool,
}

impl Gang {
    /// Runs `work` with a gang of `n` threads.
    pub fn with<T: Send>(n: usize, work: impl FnOnce(&mut Gang) -> T + Send) -> anyhow::Result<T> {
        let spawned = std::thread::scope(|scope| {
            let start = || Ok(work(&mut Gang::new(n)?));
            std::thread::Builder::new().name("limits".into()).spawn_scoped(scope, start).map(|t| t.join())
        });
        match spawned.context("cannot start a thread")? {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    fn new(n: usize) -> anyhow::Result<Gang> {
        let mut team = Team::new(n).with_context(|| format!("cannot start {n} threads"))?;
        let cpus = processors();
        let pinned = Mutex::new(n <= cpus.len());
        if n <= cpus.len() {
            team.run(&|w, _| {
                if !pin(cpus[w.ith]) {
                    *pinned.lock().expect("nobody panics holding it") = false;
                }
            });
        }
        Ok(Gang { team, pinned: pinned.into_inner().expect("nobody panics holding it") })
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// Runs `job(i)` on every thread `i`; the time from the first one's start to the last one's end.
    pub fn time(&mut self, job: impl Fn(usize) + Sync) -> Duration {
        let spans = Mutex::new(vec![]);
        self.team.run(&|w, barrier| {
            barrier.wait();
            let start = Instant::now();
            job(w.ith);
            let end = Instant::now();
            spans.lock().expect("nobody panics holding it").push((start, end));
        });
        let spans = spans.into_inner().expect("nobody panics holding it");
        let (start, end) = (spans.iter().map(|s| s.0).min(), spans.iter().map(|s| s.1).max());
        start.zip(end).map_or(Duration::ZERO, |(start, end)| end - start)
    }
}

/// The processors this process may use, one of each core before the second ones.
#[cfg(target_os = "linux")]
fn processors() -> Vec<usize> {
    // SAFETY: the set is plain bits, and is filled by the call.
    let allowed = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return vec![];
        }
        (0..libc::CPU_SETSIZE as usize).filter(|&i| libc::CPU_ISSET(i, &set)).collect::<Vec<_>>()
    };
    let core = |i: usize| std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list"));
    let mut cores = vec![];
    let (first, second): (Vec<usize>, Vec<usize>) = allowed.into_iter().partition(|&i| match core(i) {
        Ok(siblings) if cores.contains(&siblings) => false,
        Ok(siblings) => {
            cores.push(siblings);
            true
        }
        Err(_) => true,
    });
    [first, second].concat()
}

#[cfg(not(target_os = "linux"))]
fn processors() -> Vec<usize> {
    vec![]
}

/// Keeps the calling thread on a processor; whether the system agreed.
#[cfg(target_os = "linux")]
fn pin(cpu: usize) -> bool {
    // SAFETY: the set is plain bits; processors come from the system's own set.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) == 0
    }
}

#[cfg(not(target_os = "linux"))]
fn pin(_: usize) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn all_threads_run_and_the_time_is_the_slowest_ones() {
        let hits = AtomicUsize::new(0);
        let before = processors();
        let spent = Gang::with(2, |gang| {
            gang.time(|i| {
                hits.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5 * (i as u64 + 1)));
            })
        });
        assert_eq!(hits.into_inner(), 2);
        assert!(spent.unwrap() >= Duration::from_millis(10));
        assert_eq!(processors(), before, "the caller may run where it could before");
    }
}
