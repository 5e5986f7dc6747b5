//! What the programs print, as figures.

use anyhow::{Context, bail};
use rlx_lm::bench::Test;
use serde_json::Value;

/// Tests and their tokens per second.
pub type Rates = Vec<(String, f64)>;

/// From `rlx-run bench --json`: means over the rounds, and the profile in force.
pub fn rlx(text: &str) -> anyhow::Result<(Rates, Value)> {
    let v: Value = serde_json::from_str(text)?;
    let tests = v["tests"].as_object().context("no tests")?;
    let rate = |(name, t): (&String, &Value)| Ok((name.clone(), mean(&t["rounds"]).with_context(|| format!("{name} has no rounds"))?));
    Ok((tests.iter().map(rate).collect::<anyhow::Result<_>>()?, v["profile"].clone()))
}

fn mean(v: &Value) -> Option<f64> {
    let all: Vec<f64> = v.as_array()?.iter().filter_map(Value::as_f64).collect();
    (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
}

/// The lines of a text that are JSON objects.
fn objects(text: &str) -> anyhow::Result<Vec<Value>> {
    let lines = text.lines().filter(|l| l.starts_with('{'));
    let all = lines.map(|l| serde_json::from_str(l).with_context(|| format!("no JSON: {l}"))).collect::<anyhow::Result<Vec<_>>>()?;
    if all.is_empty() {
        bail!("no JSON lines");
    }
    Ok(all)
}

fn count(v: &Value, key: &str) -> anyhow::Result<usize> {
    v[key].as_u64().and_then(|n| usize::try_from(n).ok()).with_context(|| format!("no {key}"))
}

/// From `llama-bench -o jsonl`.
pub fn llama_bench(text: &str) -> anyhow::Result<Rates> {
    let one = |v: &Value| {
        let (prompt, new) = (count(v, "n_prompt")?, count(v, "n_gen")?);
        let depth = v["n_depth"].as_u64().unwrap_or(0) as usize; // older versions have none
        let test = if prompt > 0 { Test { depth, ..Test::prefill(prompt) } } else { Test::decode(new, depth, 1) };
        Ok((test.name(), v["avg_ts"].as_f64().context("no avg_ts")?))
    };
    objects(text)?.iter().map(one).collect()
}

/// From `llama-batched-bench --output-format jsonl`: decoding alone, the mean of repeated runs.
pub fn llama_batched(text: &str) -> anyhow::Result<Rates> {
    let mut all: Vec<(String, Vec<f64>)> = vec![];
    for v in objects(text)? {
        // Its prompts of one token are there because it cannot begin with an empty cache.
        let name = Test::decode(count(&v, "tg")?, 0, count(&v, "pl")?).name();
        let rate = v["speed_tg"].as_f64().context("no speed_tg")?;
        match all.iter_mut().find(|t| t.0 == name) {
            Some((_, rates)) => rates.push(rate),
            None => all.push((name, vec![rate])),
        }
    }
    Ok(all.into_iter().map(|(name, rates)| (name, rates.iter().sum::<f64>() / rates.len() as f64)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA_BENCH: &str = r#"noise
{"build_commit": "unknown", "build_number": 0, "n_threads": 2, "repack": true, "n_prompt": 128, "n_gen": 0, "n_depth": 0, "avg_ts": 4.5, "stddev_ts": 0.000000}
{"build_commit": "unknown", "n_prompt": 0, "n_gen": 4, "n_depth": 64, "avg_ns": 4684489400, "avg_ts": 0.853882, "samples_ns": [ 4684489400 ],"samples_ts": [ 0.853882 ]}
"#;
    const BATCHED: &str = r#"
{"n_kv_max": 4096, "n_threads": 2, "pp": 1, "tg": 4, "pl": 16, "n_kv": 80, "t_pp": 1.973273, "speed_pp": 8.108356, "t_tg": 11.495938, "speed_tg": 5.5, "t": 13.469212, "speed": 5.939472}
{"n_kv_max": 4096, "n_threads": 2, "pp": 1, "tg": 4, "pl": 16, "n_kv": 80, "t_pp": 2.657993, "speed_pp": 6.019579, "t_tg": 10.466252, "speed_tg": 6.5, "t": 13.124246, "speed": 6.095588}
{"n_kv_max": 4096, "n_threads": 1, "pp": 1, "tg": 4, "pl": 4, "n_kv": 20, "t_pp": 0.267862, "speed_pp": 14.933063, "t_tg": 0.897460, "speed_tg": 17.828093, "t": 1.165322, "speed": 17.162640}

"#;

    #[test]
    fn rlx_means_are_over_rounds() {
        let text = r#"{"profile": {"name": "lm"}, "tests": {"pp128": {"tokens_per_s": 2.0, "rounds": [1.0, 3.0]}}}"#;
        assert_eq!(rlx(text).unwrap(), (vec![("pp128".into(), 2.0)], serde_json::json!({ "name": "lm" })));
        assert!(rlx("{}").is_err() && rlx(r#"{"tests": {"pp1": {"rounds": []}}}"#).is_err());
    }

    #[test]
    fn llama_bench_at_a_depth_is_its_own_test() {
        assert_eq!(llama_bench(LLAMA_BENCH).unwrap(), [("pp128".into(), 4.5), ("tg4@64".into(), 0.853_882)]);
        let older = r#"{"n_prompt": 0, "n_gen": 64, "avg_ts": 2}"#;
        assert_eq!(llama_bench(older).unwrap(), [("tg64".into(), 2.0)]);
        assert!(llama_bench("").is_err() && llama_bench("{\"n_prompt\": 1, \"n_gen\": 0}").is_err() && llama_bench("{").is_err());
    }

    #[test]
    fn llama_batched_bench_counts_decoding() {
        assert_eq!(llama_batched(BATCHED).unwrap(), [("tg4x16".into(), 6.0), ("tg4x4".into(), 17.828_093)]);
        assert!(llama_batched("nothing").is_err() && llama_batched("{\"tg\": 4, \"pl\": 2}").is_err());
    }
}
