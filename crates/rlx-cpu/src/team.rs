//! A team of threads that run the same program side by side (SPMD).
//!
//! The caller is thread 0; the others wait, spinning first and then asleep, for the next job.
//! Inside a job the threads meet at a [`Barrier`].  There is no queue and no task per op.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// How often a waiting thread looks without giving way: some ten microseconds, longer than threads with
/// equal work are apart on an idle machine.
const SPINS: u32 = 1_000;
/// How often it looks between giving way to other threads, its own team's among them, before it goes to
/// sleep.  Where cores are shared, spinning on would keep the thread it waits for from running.
const YIELDS: u32 = 200;

/// Number and index of a thread in its team.
#[derive(Clone, Copy, Debug)]
pub struct Worker {
    /// This thread, from 0.
    pub ith: usize,
    /// Threads of the team.
    pub nth: usize,
}

impl Worker {
    /// This thread's share of `n` items, contiguous.
    pub fn share(self, n: usize) -> std::ops::Range<usize> {
        n * self.ith / self.nth..n * (self.ith + 1) / self.nth
    }
}

/// Items that the threads of a team divide as they go: most of them beforehand, the others to whoever is done first.
/// Where processors are shared with other work, or differ, equal shares would all wait for the slowest.
#[derive(Default)]
pub(crate) struct Claims {
    next: AtomicUsize,
    done: AtomicUsize,
}

impl Claims {
    /// Of eight items, how many are divided beforehand.
    const BEFOREHAND: usize = 6;

    /// This thread's ranges of `n` items.  Every thread of the team runs its iterator to the end, then meets the others
    /// at a barrier before the claims are used again.
    pub fn share(&self, w: Worker, n: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
        let fixed = if w.nth == 1 { n } else { n * Self::BEFOREHAND / 8 };
        std::iter::once(w.share(fixed)).chain(std::iter::from_fn(move || self.claim(w.nth, n - fixed, fixed))).filter(|r| !r.is_empty())
    }

    /// The next of `n` items from `first`; the last thread to find none left leaves the claims as they were.
    fn claim(&self, nth: usize, n: usize, first: usize) -> Option<std::ops::Range<usize>> {
        let piece = |at: usize| ((n - at) / (2 * nth)).max(1);
        match self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| (at < n).then(|| at + piece(at))) {
            Ok(at) => Some(first + at..first + at + piece(at)),
            Err(_) => {
                if self.done.fetch_add(1, Ordering::AcqRel) + 1 == nth {
                    self.done.store(0, Ordering::Relaxed);
                    self.next.store(0, Ordering::Relaxed);
                }
                None
            }
        }
    }
}

/// A counter that threads wait on: spin, then sleep.
#[derive(Default)]
struct Event {
    epoch: AtomicUsize,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Event {
    /// Waits until the epoch is no longer `seen`.
    fn wait(&self, seen: usize) {
        for _ in 0..SPINS {
            if self.epoch.load(Ordering::Acquire) != seen {
                return;
            }
            std::hint::spin_loop();
        }
        for _ in 0..YIELDS {
            std::thread::yield_now();
            if self.epoch.load(Ordering::Acquire) != seen {
                return;
            }
        }
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while self.epoch.load(Ordering::SeqCst) == seen {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Starts the next epoch.
    fn advance(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }
}

/// Where the threads of a team meet.
pub struct Barrier {
    n: usize,
    arrived: AtomicUsize,
    event: Event,
    failed: AtomicBool,
}

impl Barrier {
    fn new(n: usize) -> Barrier {
        Barrier { n, arrived: AtomicUsize::new(0), event: Event::default(), failed: AtomicBool::new(false) }
    }

    /// Returns when all threads have called it.
    ///
    /// # Panics
    /// When another thread of the team panicked.
    pub fn wait(&self) {
        if self.n == 1 {
            return;
        }
        let epoch = self.event.epoch.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.n {
            self.arrived.store(0, Ordering::Relaxed);
            self.event.advance();
        } else if !self.failed.load(Ordering::Acquire) {
            self.event.wait(epoch);
        }
        assert!(!self.failed.load(Ordering::Acquire), "another thread of the team panicked");
    }

    /// Lets everybody through, to panic there.
    fn fail(&self) {
        self.failed.store(true, Ordering::Release);
        self.event.advance();
    }
}

type Job = *const (dyn Fn(Worker, &Barrier) + Sync);

struct Shared {
    start: Event,
    done: Event,
    running: AtomicUsize,
    job: Mutex<Option<JobPtr>>,
    barrier: Barrier,
    stop: AtomicBool,
}

/// The job of the current epoch; alive until every thread is done with it.
#[derive(Clone, Copy)]
struct JobPtr(Job);
// SAFETY: the pointee is Sync, and `Team::run` keeps it alive while workers hold the pointer.
unsafe impl Send for JobPtr {}

/// The threads.
pub struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Team {
    /// A team of `n` threads, the caller of [`Team::run`] being one of them.
    pub fn new(n: usize) -> std::io::Result<Team> {
        let n = n.max(1);
        let shared = Arc::new(Shared {
            start: Event::default(),
            done: Event::default(),
            running: AtomicUsize::new(0),
            job: Mutex::new(None),
            barrier: Barrier::new(n),
            stop: AtomicBool::new(false),
        });
        let spawn = |ith| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("rlx-cpu-{ith}")).spawn(move || work(&shared, Worker { ith, nth: n }))
        };
        let threads = (1..n).map(spawn).collect::<Result<_, _>>()?;
        Ok(Team { shared, threads })
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Runs `job` on all threads and returns when all are done.
    ///
    /// # Panics
    /// When the job panics on any thread.
    pub fn run(&mut self, job: &(dyn Fn(Worker, &Barrier) + Sync)) {
        let s = &*self.shared;
        let nth = self.threads();
        let me = Worker { ith: 0, nth };
        if nth == 1 {
            return job(me, &s.barrier);
        }
        // SAFETY: only the lifetime changes; the pointer is not used after this function returns.
        let job_ptr: Job = unsafe { std::mem::transmute::<*const (dyn Fn(Worker, &Barrier) + Sync + '_), Job>(job) };
        *s.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(JobPtr(job_ptr));
        s.running.store(nth - 1, Ordering::Release);
        let done = s.done.epoch.load(Ordering::Acquire);
        s.start.advance();
        let result = catch_unwind(AssertUnwindSafe(|| job(me, &s.barrier)));
        if result.is_err() {
            s.barrier.fail();
        }
        if s.running.load(Ordering::Acquire) > 0 {
            s.done.wait(done);
        }
        if let Err(panic) = result {
            resume_unwind(panic);
        }
        assert!(!s.barrier.failed.load(Ordering::Acquire), "a thread of the team panicked");
    }
}

fn work(s: &Shared, me: Worker) {
    let mut seen = 0;
    loop {
        s.start.wait(seen);
        seen += 1;
        if s.stop.load(Ordering::Acquire) {
            return;
        }
        let job = *s.job.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(JobPtr(job)) = job {
            // SAFETY: `Team::run` waits for `running` to reach 0 before the job goes away.
            let job = unsafe { &*job };
            if catch_unwind(AssertUnwindSafe(|| job(me, &s.barrier))).is_err() {
                s.barrier.fail();
            }
        }
        if s.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            s.done.advance();
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.start.advance();
        for t in self.threads.drain(..) {
            // A thread that panicked has reported it already.
            let _ = t.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn threads_meet_at_barriers_in_every_round() {
        for n in [1, 2, 3, 5] {
            let mut team = Team::new(n).unwrap();
            let cells: Vec<AtomicU64> = (0..n).map(|_| AtomicU64::new(0)).collect();
            for round in 1..200u64 {
                team.run(&|w, b| {
                    cells[w.ith].store(round, Ordering::Relaxed);
                    b.wait();
                    assert!(cells.iter().all(|c| c.load(Ordering::Relaxed) == round));
                    b.wait();
                });
            }
        }
    }

    #[test]
    fn claims_give_every_item_to_one_thread_in_every_round() {
        for n in [1, 2, 3, 5] {
            let (mut team, claims) = (Team::new(n).unwrap(), Claims::default());
            for items in [0, 1, 2, 7, 32, 33, 200] {
                let taken: Vec<AtomicU64> = (0..items).map(|_| AtomicU64::new(0)).collect();
                for round in 1..20 {
                    team.run(&|w, b| {
                        for i in claims.share(w, items).flatten() {
                            taken[i].fetch_add(1, Ordering::Relaxed);
                        }
                        b.wait();
                    });
                    assert!(taken.iter().all(|t| t.load(Ordering::Relaxed) == round), "{n} threads, {items} items");
                }
            }
        }
    }

    #[test]
    fn who_is_faster_claims_more() {
        let (mut team, claims) = (Team::new(2).unwrap(), Claims::default());
        let items = [AtomicU64::new(0), AtomicU64::new(0)];
        team.run(&|w, b| {
            b.wait();
            for some in claims.share(w, 64) {
                items[w.ith].fetch_add(some.len() as u64, Ordering::Relaxed);
                if w.ith == 1 {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
            }
        });
        let [fast, slow] = items.map(AtomicU64::into_inner);
        assert!(fast + slow == 64 && fast > slow, "{fast} and {slow}");
    }

    #[test]
    fn a_sleeping_team_wakes_up() {
        let mut team = Team::new(3).unwrap();
        let hits = AtomicU64::new(0);
        for _ in 0..3 {
            team.run(&|w, b| {
                if w.ith == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                b.wait();
                hits.fetch_add(1, Ordering::Relaxed);
            });
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(hits.into_inner(), 9);
    }

    #[test]
    fn a_panic_on_one_thread_reaches_the_caller_without_a_deadlock() {
        for bad in 0..2 {
            let mut team = Team::new(2).unwrap();
            let caught = catch_unwind(AssertUnwindSafe(|| {
                team.run(&|w, b| {
                    assert!(w.ith != bad, "on purpose");
                    b.wait();
                });
            }));
            assert!(caught.is_err());
        }
    }
}
