//! `rlx-run compare`: two checkpoints, or one on two devices or under two profiles.

use super::perplexity::read_text;
use crate::families;
use clap::Parser;
use rlx_cli::args::{self, DeviceArgs, HubArgs};
use rlx_cli::interrupt::Answering;
use rlx_cli::term::Notes;
use rlx_cli::{CANCELLED, Usage};
use rlx_core::weights::LoadOpts;
use rlx_lm::compare::{Comparison, Difference, compare};
use rlx_lm::{LmError, LmRunner, Precision};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  $P weights/rlx-tiny-chat weights/rlx-tiny-chat-gguf    what quantisation cost
  $P model.gguf --profile-b exact                        what reduced precision costs
  $P model.gguf --set-b simd=scalar --json
  $P a.gguf b.gguf --text book.txt --limit 512

Both run the same tokens from an empty cache.  KL is the divergence of B's predictions from A's, in
nats per token; rms and max are of differences, and rel is rms over the rms of A's values.
";

/// What both read unless another text is given.
const PARAGRAPH: &str = "\
The harbour was quiet in the morning. A fox walked along the wall, looked at the boats and counted them: one, two, \
three. \"Where is the fourth?\" she asked the old man who was mending a net. He laughed. \"It left at 6:45, with 12 \
barrels of salt and a letter for the king. If the wind is good, it will be in Oslo by Tuesday.\" The fox thought about \
this for a while. Then she went home, lit the lamp, and wrote down what she had seen, because a thing that is written \
can be read again, and a thing that is only remembered changes a little every time.";

/// Compare two checkpoints, or one run in two ways: logits, divergence, agreement, and differences by layer
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// Two .safetensors or .gguf files, or directories of them; one alone is compared with itself.  What --hf or
    /// --hf-b names is not named here
    #[arg(value_name = "A B", num_args = 0..=2)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    hub: HubArgs,
    /// B, of the Hugging Face Hub
    #[arg(long, value_name = "ORG/REPO")]
    hf_b: Option<String>,
    /// A text for both to read; `-` reads it from stdin.  A paragraph of prose unless given
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with = "ids")]
    text: Option<PathBuf>,
    /// Token ids for both to read
    #[arg(long, value_name = "ID,ID,…", value_delimiter = ',')]
    ids: Option<Vec<u32>>,
    /// Most tokens to read
    #[arg(long, value_name = "N", default_value_t = 256)]
    limit: usize,
    /// Which of a directory's GGUF files to take, by quantisation
    #[arg(long, value_name = "NAME", default_value = "Q4_K_M")]
    prefer_quant: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Nothing on stderr but errors
    #[arg(long, short)]
    quiet: bool,
    /// Where B runs; where A does unless given
    #[arg(long, value_name = "NAME")]
    device_b: Option<String>,
    /// B's profile; A's unless given
    #[arg(long, value_name = "PRESET|FILE")]
    profile_b: Option<String>,
    /// Override one value of B's profile, after those of A; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set_b: Vec<String>,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(super) fn command(program: &str) -> clap::Command {
    args::command::<Args>(program, EXAMPLES)
}

impl Args {
    fn load_opts(&self) -> LoadOpts {
        LoadOpts::default().prefer_quant(&self.prefer_quant)
    }

    /// A, and B where it is another.
    fn weights(&self, notes: &Notes) -> anyhow::Result<(PathBuf, Option<PathBuf>)> {
        let mut paths = self.paths.iter().map(PathBuf::as_path);
        let a = if self.hub.hf.is_some() { None } else { paths.next() };
        let b = if self.hf_b.is_some() { None } else { paths.next() };
        if paths.next().is_some() {
            return Err(Usage("--hf and --hf-b take the places of A and B: a path is left over".into()).into());
        }
        let hub_b = HubArgs { hf: self.hf_b.clone(), ..self.hub.clone() };
        let b = (b.is_some() || self.hf_b.is_some()).then(|| hub_b.weights(b, &self.load_opts(), notes));
        Ok((self.hub.weights(a, &self.load_opts(), notes)?, b.transpose()?))
    }

    /// Where and how B runs.
    fn device_args_b(&self) -> DeviceArgs {
        DeviceArgs {
            device: self.device_b.clone().unwrap_or_else(|| self.device.device.clone()),
            profile: self.profile_b.clone().or_else(|| self.device.profile.clone()),
            set: self.device.set.iter().chain(&self.set_b).cloned().collect(),
            ..self.device.clone()
        }
    }

    fn runner(&self, weights: &Path, device: &DeviceArgs, tokens: usize) -> anyhow::Result<LmRunner> {
        let opts = self.load_opts();
        let family = families::at(weights, &opts)?.family;
        let profile = device.profile(family.name(), weights, Precision::Fast)?;
        let builder = LmRunner::builder(family).weights(weights).load_opts(opts).device(device.device()?).profile(profile);
        Ok(builder.taps(true).max_seq(tokens).build()?)
    }
}

pub(super) fn main(program: &str, args: Vec<OsString>) -> anyhow::Result<u8> {
    let args: Args = args::parse(program, EXAMPLES, args)?;
    let ways = args.device_b.is_some() || args.profile_b.is_some() || !args.set_b.is_empty();
    if args.paths.len() + usize::from(args.hub.hf.is_some()) + usize::from(args.hf_b.is_some()) < 2 && !ways {
        return Err(Usage("nothing to compare with: name a second checkpoint, or --device-b, --profile-b or --set-b".into()).into());
    }
    let (limit, notes) = (args.limit.max(1), Notes::new(args.quiet));
    let (path, other) = args.weights(&notes)?;
    let other = other.as_ref().unwrap_or(&path);
    let mut a = args.runner(&path, &args.device, limit)?;
    let mut b = args.runner(other, &args.device_args_b(), limit)?;
    let mut ids = match &args.ids {
        Some(ids) => ids.clone(),
        None => {
            let text = args.text.as_deref().map(read_text).transpose()?;
            let text = text.as_deref().unwrap_or(PARAGRAPH);
            let encode = |r: &LmRunner| r.tokenizer()?.encode(text, true).map_err(LmError::from);
            let ids = encode(&a)?;
            if encode(&b)? != ids {
                return Err(Usage("A and B encode the text differently, so their tokens cannot be compared; give --ids".into()).into());
            }
            ids
        }
    };
    ids.truncate(limit);
    let (working, bar) = (Answering::start(), notes.tokens_bar("reading"));
    let found = compare(&mut a, &mut b, &ids, &mut |done, all| {
        bar.at(done as u64, all as u64);
        !working.cancelled()
    });
    bar.clear();
    let found = found?;
    let described = |path: &Path, r: &LmRunner| {
        let e = r.explain();
        json!({ "path": path.display().to_string(), "device": e.device, "profile": e.profile.name })
    };
    let sides = [described(&path, &a), described(other, &b)];
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", object(&sides, &found))?;
    } else {
        write!(out, "{}", table(&sides, &found))?;
    }
    Ok(if found.tokens < ids.len() { CANCELLED } else { 0 })
}

fn object(sides: &[Value; 2], c: &Comparison) -> Value {
    let one = |d: &Difference| json!({ "name": d.name, "max": d.max, "rms": d.rms, "relative": d.relative() });
    json!({
        "a": sides[0],
        "b": sides[1],
        "tokens": c.tokens,
        "logits": one(&c.logits),
        "kl_mean": c.kl_mean,
        "kl_max": c.kl_max,
        "same_top": c.same_top,
        "agreement": c.same_top as f64 / c.tokens.max(1) as f64,
        "layers": c.layers.iter().map(one).collect::<Vec<_>>(),
        "unmatched": c.unmatched,
    })
}

fn table(sides: &[Value; 2], c: &Comparison) -> String {
    let mut t = String::new();
    for (name, side) in ["A", "B"].iter().zip(sides) {
        let word = |key: &str| side[key].as_str().unwrap_or_default().to_owned();
        t += &format!("{name}  {} on {}, profile {}\n", word("path"), word("device"), word("profile"));
    }
    let percent = 100.0 * c.same_top as f64 / c.tokens.max(1) as f64;
    t += &format!("\n{} tokens\n", c.tokens);
    t += &format!("  {:<22} {} ({percent:.1} %)\n", "same most likely token", c.same_top);
    t += &format!("  {:<22} {:.3e} mean, {:.3e} max\n\n", "KL divergence", c.kl_mean, c.kl_max);
    let width = c.layers.iter().map(|l| l.name.len()).max().unwrap_or(0).max(12);
    t += &format!("{:<width$} {:>10} {:>10} {:>10}\n", "", "max", "rms", "rel");
    for d in c.layers.iter().chain([&c.logits]) {
        t += &format!("{:<width$} {:>10.3e} {:>10.3e} {:>10.3e}\n", d.name, d.max, d.rms, d.relative());
    }
    if !c.unmatched.is_empty() {
        t += &format!("\nonly in one of them: {}\n", c.unmatched.join(", "));
    }
    t
}
