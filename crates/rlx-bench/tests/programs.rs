//! The program, run as users run it.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// Runs the program at the workspace root; it must never panic.
fn bench(args: &[&str]) -> Ran {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let out = Command::new(env!("CARGO_BIN_EXE_rlx-bench")).args(args).current_dir(root).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    let ran = Ran { code: out.status.code().unwrap_or(-1), out: text(out.stdout), err: text(out.stderr) };
    assert!(!ran.err.contains("panicked"), "{args:?}: {}", ran.err);
    ran
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn written(path: &Path) -> Value {
    json(&std::fs::read_to_string(path).unwrap())
}

fn rounds(capsule: &Value, figure: &str) -> Vec<f64> {
    let list = capsule["figures"][figure]["rounds"].as_array().unwrap_or_else(|| panic!("no {figure}: {capsule:#}"));
    list.iter().map(|v| v.as_f64().unwrap()).collect()
}

/// Programs that print what an engine would, each a line for each way it is called.
#[cfg(unix)]
fn engine(dir: &Path, name: &str, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[cfg(unix)]
#[test]
fn peers_takes_the_better_setting_and_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let rlx = r#"case "$*" in
*--depth=64*) echo '{"profile": {"name": "lm"}, "tests": {"tg4@64": {"rounds": [20, 40]}}}' ;;
*--prefill=16*) echo '{"profile": {"name": "lm"}, "tests": {"tg4": {"rounds": [60]}}}' ;;
*) exit 3 ;;
esac"#;
    let llama = r#"case "$*" in
*"-d 64"*"--repack 0"*) echo '{"n_prompt": 0, "n_gen": 4, "n_depth": 64, "avg_ts": 20}' ;;
*"-d 64"*) echo '{"n_prompt": 0, "n_gen": 4, "n_depth": 64, "avg_ts": 15}' ;;
*) echo '{"n_prompt": 0, "n_gen": 4, "n_depth": 0, "avg_ts": 30}' ;;
esac"#;
    let (rlx, llama) = (engine(dir.path(), "rlx-run", rlx), engine(dir.path(), "llama-bench", llama));
    let out = dir.path().join("out.json");
    let [rlx, llama, path] = [&rlx, &llama, &out].map(|p| p.to_str().unwrap());
    let args = [
        "peers",
        "--rlx-run",
        rlx,
        "--llama-bench",
        llama,
        "--gguf",
        "models/m.gguf",
        "--threads",
        "1,2",
        "--depth",
        "64",
        "--alone",
        "mlx",
    ];
    let args = [&args[..], &["--prefill", "0", "--decode", "4", "--rounds", "1", "--out", path]].concat();
    let first = bench(&args);
    assert_eq!(first.code, 0, "{}", first.err);
    assert!(first.out.contains("m, 1 thread, 1 rounds\n") && first.out.contains("m, 2 threads, 1 rounds\n"), "{}", first.out);
    assert!(first.out.contains("mlx, 2 threads, 1 rounds, rlx alone\n"), "{}", first.out);
    assert!(first.out.contains("1.50 to 1.50   llama.cpp --repack 0\n"), "{}", first.out);

    let again = bench(&args);
    assert_eq!(again.code, 2, "{}", again.err);
    assert!(again.err.contains("--resume adds rounds"), "{}", again.err);
    let resumed = bench(&[&args[..], &["--resume", "--require", "tg4@64=1.6"]].concat());
    assert_eq!(resumed.code, 1, "{}", resumed.err);
    assert!(resumed.err.contains("m, 2 threads: tg4@64 is 1.50 of llama.cpp --repack 0, required 1.6"), "{}", resumed.err);

    let other = bench(&[&args[..], &["--resume", "--repeat", "7"]].concat());
    assert!(other.code == 1 && other.err.contains("settings: found {\"repeat\":2"), "{}", other.err);

    let capsule = written(&out);
    assert_eq!(rounds(&capsule, "m/2t/tg4@64/rlx"), [30.0, 30.0]);
    assert_eq!(rounds(&capsule, "m/2t/tg4@64/llama.cpp"), [15.0, 15.0]);
    assert_eq!(rounds(&capsule, "m/1t/tg4@64/llama.cpp --repack 0"), [20.0, 20.0]);
    assert!(rounds(&capsule, "m/1t/peak@64/rlx").iter().all(|b| *b > 0.0));
    assert_eq!(capsule["profile"]["name"], "lm");
    let twice = bench(&["peers", "--rlx-run", rlx, "--llama-bench", llama, "--gguf", "a/m.gguf", "--gguf", "b/m.gguf"]);
    assert!(twice.code == 2 && twice.err.contains("two checkpoints are called m"), "{}", twice.err);
    let failed = bench(&["peers", "--rlx-run", rlx, "--llama-bench", llama, "--gguf", "m.gguf", "--prefill", "0", "--decode", "5"]);
    assert_eq!(failed.code, 1);
    assert!(failed.err.contains("exit status: 3"), "{}", failed.err);
}

#[test]
fn run_measures_what_fits_and_report_judges_it() {
    let dir = tempfile::tempdir().unwrap();
    let before = dir.path().join("before.json");
    let [path, worse] = [&before, &dir.path().join("worse.json")].map(|p| p.to_str().unwrap().to_owned());
    let args = ["run", "weights/rlx-tiny-chat", "--prompts", "16,4096", "--contexts", "0,64", "--batch", "1,2", "-n", "4"];
    let ran = bench(&[&args[..], &["--rounds", "3", "--threads", "1", "--set", "kv=f32", "--out", &path]].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("skipped ttft4096: 4096 tokens a sequence, the model was trained for 2048"), "{}", ran.err);
    let capsule = written(&before);
    for figure in ["load", "load+ttft16", "ttft16", "tg4", "tg4@64", "tg4x2"] {
        assert!(rounds(&capsule, figure).len() == 3 && rounds(&capsule, figure).iter().all(|v| *v > 0.0), "{figure}");
        assert!(ran.out.contains(&format!("\n{figure} ")), "{figure}: {}", ran.out);
    }
    assert_eq!((&capsule["profile"]["kv"], &capsule["profile"]["threads"]), (&"f32".into(), &1.into()));
    assert!(rounds(&capsule, "peak")[0] > 1e6);
    let share = |i: usize| rounds(&capsule, "memory tg4")[i] / rounds(&capsule, "tg4")[i];
    assert!(share(0) > 0.0 && (share(0) / share(2) - 1.0).abs() < 1e-9, "a share is a rate times bytes over the limit");
    assert!(rounds(&capsule, "limit read t1").iter().all(|v| *v > 0.1));
    // 8 layers of keys and values of 2 heads of 64 floats, 64 rows more.
    let part = |test: &str, of: &str| capsule["notes"]["bytes_per_token"][test][of].as_f64().unwrap();
    assert_eq!(part("tg4@64", "cache") - part("tg4", "cache"), (64 * 8 * 2 * 2 * 64 * 4) as f64);
    assert_eq!(part("tg4@64", "weights"), part("tg4", "weights"));
    assert!(part("tg4x2", "weights") < 0.6 * part("tg4", "weights"), "two sequences share a reading of the matrices");

    let same = bench(&["report", &path, &path]);
    assert!(same.code == 0 && same.out.contains("\n0 regressions, 0 improvements, "), "{}", same.out);
    // Rounds as steady as those of a quiet machine.
    let (mut steady, mut slower) = (capsule.clone(), capsule);
    steady["figures"]["tg4"]["rounds"] = serde_json::json!([100, 101, 99]);
    slower["figures"]["tg4"]["rounds"] = serde_json::json!([90, 91, 89]);
    std::fs::write(&before, steady.to_string()).unwrap();
    std::fs::write(&worse, slower.to_string()).unwrap();
    let judged = bench(&["report", &path, &worse]);
    assert_eq!(judged.code, 1, "{}", judged.out);
    assert!(judged.out.contains("1 regressions, 0 improvements") && judged.out.contains("0.900"), "{}", judged.out);
    assert_eq!(bench(&["report", &worse, &path, "--markdown"]).code, 0, "better is no error");
    slower["machine"]["cpu"] = "another".into();
    std::fs::write(&worse, slower.to_string()).unwrap();
    let other = bench(&["report", &path, &worse]);
    assert!(other.code == 1 && other.err.contains("different machines"), "{}", other.err);
    assert_eq!(bench(&["report", &path, &worse, "--any-machine"]).code, 1);

    let nothing = bench(&["run", "weights/rlx-tiny-chat", "--prompts", "4096", "--decode", "0"]);
    assert!(nothing.code == 2 && nothing.err.contains("nothing to measure: ttft4096"), "{}", nothing.err);
}

#[test]
fn validate_compares_greedy_tokens_with_exact() {
    let ran = bench(&["validate", "weights/rlx-tiny-chat", "--tokens", "12", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let v = json(&ran.out);
    assert_eq!((&v["profile"]["name"], &v["reference"]["name"]), (&"lm".into(), &"exact".into()));
    let prompts = v["prompts"].as_array().unwrap();
    assert_eq!(prompts.len(), 6);
    for p in prompts {
        let (tokens, kl) = (p["tokens"].as_array().unwrap().len(), p["kl"]["max"].as_f64().unwrap());
        assert!((1..=12).contains(&tokens) && kl < 0.05, "{p}");
    }
    assert_eq!(v["same"], prompts.iter().all(|p| p["parting"].is_null()));

    // Exact beside itself is the same to the last bit.
    let ran = bench(&["validate", "weights/rlx-tiny-chat", "--tokens", "8", "--profile", "exact", "--gap", "0"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("6 of 6 prompts have the same tokens\n") && ran.out.contains("max 0.000e0"), "{}", ran.out);
}

#[test]
fn validate_says_where_a_worse_profile_parts() {
    let dir = tempfile::tempdir().unwrap();
    let prompts = dir.path().join("prompts.txt");
    // Arbitrary ids, far from what the model was trained on, so that its choices are close.
    let ids = |seed: u32| (0..12).map(|i| ((seed * 7919 + i * 2_654_435) % 2600).to_string()).collect::<Vec<_>>().join(", ");
    let text: Vec<String> = (0..16).map(|s| format!("[{}]", ids(s))).collect();
    std::fs::write(&prompts, text.join("\n\n")).unwrap();
    let args = ["validate", "weights/rlx-tiny-chat-gguf", "--tokens", "24", "--prompts", prompts.to_str().unwrap()];
    let ran = bench(&[&args[..], &["--json", "--gap", "1000"]].concat());
    assert_eq!(ran.code, 0, "every gap is below: {}", ran.err);
    let v = json(&ran.out);
    let partings: Vec<&Value> = v["prompts"].as_array().unwrap().iter().map(|p| &p["parting"]).filter(|p| !p.is_null()).collect();
    assert!(!partings.is_empty(), "8-bit activations change some of 16 close choices: {v:#}");
    for p in &partings {
        assert_ne!(p["token"], p["exact_token"]);
        assert!(p["gap"].as_f64().unwrap() >= p["margin"].as_f64().unwrap(), "the second choice is the nearest: {p}");
    }
    let wide = bench(&[&args[..], &["--gap", "0"]].concat());
    assert_eq!(wide.code, 1, "no gap is below 0: {}", wide.err);
    assert!(wide.out.contains("parts after ") && wide.out.contains("widest gap at a parting"), "{}", wide.out);

    std::fs::write(&prompts, "\n \n").unwrap();
    let none = bench(&args);
    assert!(none.code == 2 && none.err.contains("no line with a prompt"), "{}", none.err);
}

#[test]
fn report_refuses_what_is_no_capsule() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    std::fs::write(&path, "{\"capsule\": 1, \"program\": 7}").unwrap();
    let ran = bench(&["report", path.to_str().unwrap()]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("a.json: ") && ran.err.contains("missing"), "{}", ran.err);
}
