//! `--packed-cache`, as users run it: the same answers, nothing to wait for the second time, and never in the way.

use rlx_compile::Profile;
use rlx_qwen3::Qwen3Runner;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

const NORWAY: &str = "What is the capital of Norway?";
const OSLO: &str = "The capital of Norway is Oslo.\n";

/// A copy of the quantised chat model in a directory of its own, and its file.
fn model() -> (tempfile::TempDir, PathBuf) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights/rlx-tiny-chat-gguf");
    let dir = tempfile::tempdir().unwrap();
    let mut gguf = None;
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = dir.path().join(entry.file_name());
        std::fs::copy(entry.path(), &to).unwrap();
        gguf = gguf.or(to.extension().is_some_and(|e| e == "gguf").then_some(to));
    }
    (dir, gguf.expect("a GGUF file"))
}

/// The file of packed weights beside `gguf`.
fn kept(gguf: &Path) -> Option<PathBuf> {
    let begin = format!("{}.rlx-packed-", gguf.display());
    let all = std::fs::read_dir(gguf.parent().unwrap()).unwrap().map(|e| e.unwrap().path());
    let found: Vec<PathBuf> = all.filter(|p| p.display().to_string().starts_with(&begin)).collect();
    assert!(found.len() <= 1, "{found:?}");
    found.into_iter().next()
}

fn ask(gguf: &Path, flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlx-run"));
    command.arg("auto").arg(gguf).args(["--prompt", NORWAY]).args(flags).output().unwrap()
}

/// The lines on stderr of an answer that is right.
fn lines(out: Output) -> Vec<String> {
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    assert_eq!(text(out.stdout), OSLO);
    text(out.stderr).lines().map(str::to_owned).collect()
}

#[test]
fn logits_are_the_same_without_at_the_first_and_at_the_second_start() {
    let (_dir, gguf) = model();
    let mut profile = Profile::default();
    let logits = |profile: &Profile| {
        let told = Arc::new(Mutex::new(vec![]));
        let to = Arc::clone(&told);
        let builder = Qwen3Runner::builder().weights(&gguf).profile(profile.clone()).max_seq(64);
        let mut r = builder.note(move |line| to.lock().unwrap().push(line.to_owned())).build().unwrap();
        assert_eq!(*told.lock().unwrap(), [] as [String; 0]);
        // Past the runs that pack weights which are not kept.
        let runs: Vec<Vec<f32>> = (1..9).map(|n| r.predict_logits(&(10..10 + n).collect::<Vec<u32>>()).unwrap()).collect();
        (runs, r.memory())
    };
    let (plain, held) = logits(&profile);
    assert!(kept(&gguf).is_none());
    profile.set("packed_cache=true").unwrap();
    for start in ["first", "second"] {
        let (same, mapped) = logits(&profile);
        assert!(same == plain, "{start} start");
        assert!(mapped.weights < held.weights / 10, "{mapped} where {held} without");
        assert!(mapped.total() == held.total(), "{mapped} where {held} without");
        assert!(kept(&gguf).is_some());
    }
}

#[test]
fn a_file_of_other_weights_is_told_and_written_anew() {
    let (_dir, gguf) = model();
    let figures = |lines: &[String]| lines.len() == 1 && lines[0].contains(" · load ");
    for _ in 0..2 {
        let said = lines(ask(&gguf, &["--packed-cache"]));
        assert!(figures(&said), "{said:?}");
    }
    let file = std::fs::OpenOptions::new().write(true).open(&gguf).unwrap();
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(100)).unwrap();
    let said = lines(ask(&gguf, &["--packed-cache"]));
    let name = kept(&gguf).unwrap().display().to_string();
    assert!(said.len() == 2 && said[0].starts_with(&format!("packed cache {name} is of other weights: ")), "{said:?}");
    assert!(figures(&lines(ask(&gguf, &["--packed-cache"]))));
    // Quiet is quiet.
    std::fs::write(&name, "no such thing").unwrap();
    assert_eq!(lines(ask(&gguf, &["--packed-cache", "--quiet"])), [] as [&str; 0]);
}

#[test]
fn a_profile_that_packs_nothing_says_that_nothing_is_kept() {
    let (_dir, gguf) = model();
    let said = lines(ask(&gguf, &["--packed-cache", "--profile", "exact"]));
    assert!(said.len() == 2 && said[0].contains("no weights that are packed"), "{said:?}");
    assert!(kept(&gguf).is_none());
}

/// The system refuses to write past a limit, as it does on a disk that is full.
#[cfg(unix)]
#[test]
fn a_disk_that_is_full_is_told_and_the_answer_comes() {
    let (_dir, gguf) = model();
    let limited = "trap '' XFSZ; ulimit -f 100; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", limited, "sh", env!("CARGO_BIN_EXE_rlx-run"), "auto"]).arg(&gguf);
    let said = lines(command.args(["--prompt", NORWAY, "--packed-cache"]).output().unwrap());
    assert!(said.len() == 2 && said[0].contains(&gguf.display().to_string()), "{said:?}");
    assert!(said[0].contains(" cannot be written: ") && said[0].ends_with("; going on without"), "{said:?}");
    assert!(kept(&gguf).is_none(), "what could not be finished is removed");
    // The twin.
    assert_eq!(lines(ask(&gguf, &["--packed-cache"])).len(), 1);
    assert!(kept(&gguf).is_some());
}
