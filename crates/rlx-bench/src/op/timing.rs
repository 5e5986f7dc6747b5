//! Time per call: rounds of as many calls as take a while.

use std::time::{Duration, Instant};

/// How long a round takes, at least.
const SPAN: Duration = Duration::from_millis(40);
/// Most calls of a round.
const MOST: usize = 1 << 22;

/// Seconds per call of each of `rounds` rounds, after one that does not count.  `calls(n)` makes `n` calls.
///
/// # Errors
/// What a call says.
pub fn rounds(rounds: u32, span: Duration, mut calls: impl FnMut(usize) -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
    let mut time = |n: usize| {
        let start = Instant::now();
        calls(n).map(|()| start.elapsed())
    };
    let (mut n, mut took) = (1, time(1)?);
    while took < span / 2 && n < MOST {
        let times = span.as_secs_f64() / took.as_secs_f64().max(1e-9);
        n = ((n as f64 * times.clamp(2.0, 16.0)).ceil() as usize).min(MOST);
        took = time(n)?;
    }
    (0..rounds).map(|_| Ok(time(n)?.as_secs_f64() / n as f64)).collect()
}

/// As [`rounds`] of the usual length.
pub fn usual(n: u32, calls: impl FnMut(usize) -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
    rounds(n, SPAN, calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_calls_are_repeated_and_long_ones_are_not() {
        let mut made = 0;
        let ms = Duration::from_millis(1);
        let short = rounds(3, ms, |n| {
            made += n;
            std::thread::sleep(Duration::from_micros(50) * n as u32);
            Ok(())
        });
        assert_eq!(short.as_ref().unwrap().len(), 3);
        assert!(made > 3 * 2 && short.unwrap().iter().all(|s| *s >= 50e-6), "{made} calls");
        let mut made = 0;
        let long = rounds(2, ms, |n| {
            made += n;
            std::thread::sleep(ms);
            Ok(())
        });
        assert_eq!((long.unwrap().len(), made), (2, 3));
        assert!(rounds(1, ms, |_| anyhow::bail!("on purpose")).is_err());
    }
}
