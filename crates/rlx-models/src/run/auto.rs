//! `rlx-run auto WEIGHTS …`: the family's program, chosen by what the weights say they are.

use super::check::Report;
use crate::families;
use anyhow::anyhow;
use rlx_cli::Usage;
use rlx_cli::args::HubArgs;
use rlx_cli::term::Notes;
use rlx_core::check::{Judgement, Verdict};
use rlx_core::weights::LoadOpts;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub(super) fn main(program: &str, args: Vec<OsString>) -> anyhow::Result<u8> {
    if args.iter().any(|a| a == "--help" || a == "-h" || a == "--version" || a == "-V") {
        // The flags of language models; weights may be absent or anything.
        rlx_cli::lm::parse(program, args.clone())?;
    }
    let named = value(&args, &["--weights", "-w"]);
    let first = args.first().filter(|a| !a.to_string_lossy().starts_with('-')).cloned();
    let path = first.or(named).map(PathBuf::from);
    // What is wrong with these flags, the family's program will say.
    let mut opts = LoadOpts::default();
    if let Some(name) = value(&args, &["--prefer-quant", "--prefer"]).and_then(|v| v.into_string().ok()) {
        opts = opts.prefer_quant(name);
    }
    if let Some(i) = value(&args, &["--gguf-index"]).and_then(|v| v.to_str()?.parse().ok()) {
        opts = opts.gguf_index(i);
    }
    let hf = value(&args, &["--hf"]).and_then(|v| v.into_string().ok());
    let path = match (path, hf) {
        (Some(path), _) => path,
        (None, Some(hf)) => {
            let hub = HubArgs { hf: None, offline: args.iter().any(|a| a == "--offline") };
            hub.fetch(&rlx_cli::args::spec(&hf)?, &opts, &Notes::new(args.iter().any(|a| a == "--quiet" || a == "-q")))?
        }
        (None, None) => return Err(Usage(format!("name the weights first: {program} WEIGHTS [FLAGS], or --hf ORG/REPO")).into()),
    };
    match families::at(&path, &opts) {
        Ok(entry) => (entry.run)(program, args),
        Err(e) => Err(told(&path, &opts, e)),
    }
}

/// What weights that no family answers to are, where that is known: a part of a model, or a model of another kind.
fn told(path: &Path, opts: &LoadOpts, e: anyhow::Error) -> anyhow::Error {
    match Report::at(path, opts).map(|r| r.judgement) {
        Ok(Judgement { verdict: Verdict::KnownUnimplemented(what), kind, reasons, .. }) => {
            let (kind, reasons) = (kind.to_string(), reasons.join("; "));
            let what = if what.starts_with(&kind) { what } else { format!("{kind}: {what}") };
            let names: Vec<&str> = families::all().iter().map(|e| e.family.name()).collect();
            let (path, names) = (path.display(), names.join(", "));
            anyhow!("{path}: cannot run here: {what} ({reasons}); families of this build: {names}; rlx-inspect {path} tells more")
        }
        _ => e,
    }
}

/// The value of a flag, as `--flag value` or `--flag=value`.
fn value(args: &[OsString], names: &[&str]) -> Option<OsString> {
    args.iter().enumerate().find_map(|(i, a)| {
        let text = a.to_string_lossy();
        if names.contains(&&*text) {
            return args.get(i + 1).cloned();
        }
        let (name, value) = text.split_once('=')?;
        names.contains(&name).then(|| value.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_found_in_both_spellings() {
        let args: Vec<OsString> = ["--max-seq", "9", "--weights=a b", "--gguf-index", "2"].iter().map(OsString::from).collect();
        assert_eq!(value(&args, &["--weights", "-w"]), Some("a b".into()));
        assert_eq!(value(&args, &["--gguf-index"]), Some("2".into()));
        assert_eq!(value(&args, &["--prefer-quant"]), None);
    }
}
