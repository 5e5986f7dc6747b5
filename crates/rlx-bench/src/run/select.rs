//! Which figures can be measured, and why others cannot.

use rlx_cli::term::human_bytes;
use rlx_lm::bench::{Kind, Test};
use rlx_runtime::Memory;

/// What a model and a machine allow.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Tokens that the model was trained for.
    pub trained: Option<usize>,
    /// Tokens of `--max-seq`.
    pub asked: Option<usize>,
    /// Bytes that programs can still take, and what says so.
    pub memory: Option<(u64, &'static str)>,
}

/// The name of the figure of a test: seconds for prompts, tokens per second for decoding.
pub fn figure(t: &Test) -> String {
    match t.kind {
        Kind::Prefill => format!("ttft{}", t.tokens),
        Kind::Decode => t.name(),
    }
}

/// Prompts, then decoding: behind every context alone, and in batches from an empty cache (or in every combination).
pub fn tests(prompts: &[usize], contexts: &[usize], batch: &[usize], decode: usize, grid: bool) -> Vec<Test> {
    let mut tests: Vec<Test> = prompts.iter().filter(|n| **n > 0).map(|n| Test::prefill(*n)).collect();
    for streams in batch {
        let depths = if grid || *streams == 1 { contexts } else { &contexts[..contexts.len().min(1)] };
        tests.extend(depths.iter().filter(|_| decode > 0).map(|depth| Test::decode(decode, *depth, *streams)));
    }
    tests
}

/// Why a test cannot be, if it cannot; `plan` says what a run of it takes.
pub fn refuse(t: &Test, room: &Room, plan: &mut dyn FnMut(&Test) -> anyhow::Result<Memory>) -> anyhow::Result<Option<String>> {
    let (name, tokens) = (figure(t), t.context());
    for (limit, whose) in [(room.trained, "the model was trained for"), (room.asked, "--max-seq allows")] {
        if let Some(limit) = limit.filter(|l| tokens > *l) {
            return Ok(Some(format!("{name}: {tokens} tokens a sequence, {whose} {limit}")));
        }
    }
    let Some((free, whose)) = room.memory else { return Ok(None) };
    let needs = plan(t)?;
    Ok((needs.held() > free).then(|| {
        let (held, cache, free) = (human_bytes(needs.held()), human_bytes(needs.states), human_bytes(free));
        format!("{name}: needs {held} of memory ({cache} of them cache), {whose} {free}")
    }))
}

#[cfg(test)]
mod tests_of_this {
    use super::*;

    #[test]
    fn batches_begin_empty_unless_all_combinations_are_asked_for() {
        let names = |grid| tests(&[128, 0], &[0, 2048], &[1, 4], 32, grid).iter().map(figure).collect::<Vec<_>>();
        assert_eq!(names(false), ["ttft128", "tg32", "tg32@2048", "tg32x4"]);
        assert_eq!(names(true), ["ttft128", "tg32", "tg32@2048", "tg32x4", "tg32x4@2048"]);
        assert!(tests(&[], &[0], &[1], 0, false).is_empty());
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_reason() {
        let room = Room { trained: Some(2048), asked: Some(1024), memory: Some((1 << 30, "free are")) };
        let mut plan = |t: &Test| Ok(Memory { weights: 1 << 20, states: (t.streams as u64) << 28, ..Memory::default() });
        let mut why = |t: Test| refuse(&t, &room, &mut plan).unwrap();
        assert_eq!(why(Test::prefill(4096)).unwrap(), "ttft4096: 4096 tokens a sequence, the model was trained for 2048");
        assert_eq!(why(Test::decode(64, 1024, 1)).unwrap(), "tg64@1024: 1088 tokens a sequence, --max-seq allows 1024");
        assert_eq!(why(Test::decode(64, 0, 8)).unwrap(), "tg64x8: needs 2.0 GiB of memory (2.0 GiB of them cache), free are 1.0 GiB");
        assert_eq!(why(Test::decode(64, 0, 2)), None);
    }
}
