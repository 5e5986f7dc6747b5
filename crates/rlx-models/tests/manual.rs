//! Completion scripts and manual pages: whole, well-formed, and never behind the flags.

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn run(program: &str, args: &[&str], stdin: &[u8]) -> Option<Output> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().ok()?;
    let _ = child.stdin.take().map(|mut s| s.write_all(stdin));
    child.wait_with_output().ok()
}

fn rlx(args: &[&str]) -> String {
    let out = run(env!("CARGO_BIN_EXE_rlx-run"), args, b"").expect("the program starts");
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("scripts and pages are UTF-8")
}

/// The commands and long flags that help tells of.
fn told(help: &str) -> (Vec<String>, Vec<String>) {
    let commands = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    let commands = commands.filter_map(|l| l.strip_prefix("  ")?.split(' ').next().filter(|w| !w.is_empty()));
    let flags = help.lines().take_while(|l| !l.starts_with("Examples:")).map(str::trim_start).filter(|l| l.starts_with('-'));
    let flags = flags.flat_map(|l| l.split([' ', ',', '=', '['])).filter(|w| w.starts_with("--") && w.len() > 3);
    (commands.map(str::to_owned).collect(), flags.map(str::to_owned).collect())
}

#[test]
fn every_command_completes_all_its_flags() {
    let (commands, _) = told(&rlx(&["--help"]));
    assert!(commands.len() > 6, "{commands:?}");
    let bash = rlx(&["completions", "bash"]);
    for command in &commands {
        let label = format!("rlx__run__subcmd__{}", command.replace('-', "__subcmd__"));
        assert!(bash.contains(&format!("cmd=\"{label}\"")), "{command} does not lead to {label}");
        let case = bash.split_once(&format!("        {label})\n")).unwrap_or_else(|| panic!("no case {label}")).1;
        let words = case.lines().next().expect("a line with the words");
        let (_, flags) = told(&rlx(&[command, "--help"]));
        assert!(flags.len() > 1, "{command}: {flags:?}");
        for flag in flags {
            assert!(words.split([' ', '"']).any(|w| w == flag), "{command}: no {flag} in {words}");
        }
    }
    match run("bash", &["-n"], bash.as_bytes()) {
        Some(out) => assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr)),
        None => not_tested("bash is absent, so its syntax was not checked"),
    }
}

/// Loads the script in a shell and asks it what may follow `rlx-run bench --pre`.
#[test]
fn bash_completes_a_flag_of_a_command() {
    let ask = "\nCOMP_WORDS=(rlx-run bench --pre)\nCOMP_CWORD=2\n_rlx__run rlx-run --pre bench\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n";
    let script = rlx(&["completions", "bash"]) + ask;
    let Some(out) = run("bash", &["--norc"], script.as_bytes()) else {
        not_tested("bash is absent, so nothing was completed");
        return;
    };
    assert_eq!(String::from_utf8_lossy(&out.stdout).lines().collect::<Vec<_>>(), ["--prefer-quant", "--prefill"]);
}

#[test]
fn every_shell_and_program_has_a_script() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        for program in ["rlx-run", "rlx-inspect", "rlx-qwen3"] {
            let script = rlx(&["completions", shell, "--program", program]);
            assert!(script.contains(program) && script.contains("max-seq"), "{shell} {program}");
        }
    }
    let out = run(env!("CARGO_BIN_EXE_rlx-run"), &["completions", "bash", "--program", "rlx-walk"], b"").expect("starts");
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("rlx-inspect"), "the programs that exist are listed");
}

#[test]
fn every_command_has_a_page_with_all_its_flags() {
    let dir = tempfile::tempdir().expect("a place to write");
    let dir_text = dir.path().to_str().expect("a plain path");
    rlx(&["man", dir_text]);
    let page = |name: &str| std::fs::read_to_string(dir.path().join(format!("{name}.1"))).unwrap_or_else(|e| panic!("{name}.1: {e}"));
    let (commands, _) = told(&rlx(&["--help"]));
    for command in &commands {
        let text = page(&format!("rlx-run-{command}")).replace("\\-", "-");
        assert!(text.is_ascii(), "{command}: formatters differ in what other bytes mean");
        for flag in told(&rlx(&[command, "--help"])).1 {
            assert!(text.contains(&flag), "{command}: no {flag} in {text}");
        }
        assert!(page("rlx-run").replace("\\-", "-").contains(&format!("rlx-run-{command}(1)")), "{command}");
    }
    for program in ["rlx-inspect", "rlx-qwen3"] {
        assert!(page(program).contains("max\\-seq"), "{program}");
    }
    assert_eq!(rlx(&["man"]), page("rlx-run"));
    for entry in std::fs::read_dir(&dir).expect("the pages") {
        let path = entry.expect("a page").path();
        let bytes = std::fs::read(&path).expect("a page");
        match run("groff", &["-man", "-Tutf8", "-ww"], &bytes) {
            Some(out) => assert!(
                out.status.success() && out.stderr.is_empty() && !out.stdout.is_empty(),
                "{}: {}",
                path.display(),
                String::from_utf8_lossy(&out.stderr)
            ),
            None => not_tested(&format!("groff is absent, so {} was not rendered", path.display())),
        }
    }
}

/// Says so on stderr itself: what macros print is shown for failing tests alone.
fn not_tested(what: &str) {
    let _ = writeln!(std::io::stderr(), "NOT TESTED: {what}");
}
