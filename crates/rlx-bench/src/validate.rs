//! `rlx-bench validate`: whether a fast profile writes what profile `exact` writes.

use anyhow::Context;
use rlx_cli::args::ModelArgs;
use rlx_cli::interrupt::Answering;
use rlx_cli::term::Notes;
use rlx_cli::{CANCELLED, Usage};
use rlx_lm::bench::median;
use rlx_lm::greedy::{Parting, Path as Greedy, greedy};
use rlx_lm::{Chat, LmError, LmRunner, Precision};
use rlx_models::{families, text::Message};

use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  rlx-bench validate weights/rlx-tiny-chat
  rlx-bench validate model-Q4_K_M.gguf --tokens 256 --prompts prompts.txt
  rlx-bench validate model-Q4_K_M.gguf --set kv=bf16 --gap 0.5

Both profiles read the same prompts; the most likely tokens of exact are fed to both, so that up to the first
place where they disagree this is what each writes alone.  There, the gap is how much exact prefers its own
token to the other, in logits; the margin is how far exact's first choice is ahead of its second.  The
divergence (Kullback-Leibler, in nats) of the predictions is taken along the whole of exact's path.

Exit code 0 when every prompt has the same tokens.  Where they part: 0 too, unless --gap is given and a gap is
not below it; then 1.
";

/// Prompts unless others are given.
const PROMPTS: [&str; 6] = [
    "What is the capital of Norway?",
    "What is 7 times 8?",
    "Tell me a short story about a fox and a boat.",
    "List the days of the week in order.",
    "Why is the sky blue?",
    "Write a function that returns the larger of two numbers.",
];
/// Larger files are no prompts.
const MAX_PROMPTS: u64 = 16 << 20;

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Most new tokens of a prompt
    #[arg(long, short = 'n', value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// A prompt a line; a line such as [9707, 11] is token ids, fed as they are.  Six short ones unless given
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Continue prompts as raw text instead of answering them as messages
    #[arg(long)]
    no_chat_template: bool,
    /// Exit code 1 when exact prefers its token by this much, in logits, where the two part
    #[arg(long, value_name = "LOGITS")]
    gap: Option<f32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Nothing on stderr but errors
    #[arg(long, short)]
    quiet: bool,
}

/// A prompt, and what both did with it.
struct Tried {
    prompt: String,
    ids: usize,
    path: Greedy,
}

pub fn run(mut args: Args) -> anyhow::Result<u8> {
    args.model.quiet = args.quiet;
    let notes = Notes::new(args.quiet);
    let prompts = match &args.prompts {
        Some(file) => lines(file)?,
        None => PROMPTS.map(str::to_owned).to_vec(),
    };
    let weights = args.model.weights()?;
    let family = families::at(weights, &args.model.load_opts())?.family;
    let mut other = args.model.builder(family)?.build()?;
    let mut device = args.model.device.clone();
    (device.profile, device.set) = (Some("exact".into()), vec![]);
    let exact = device.profile(family.name(), weights, Precision::Exact)?;
    let mut reference = args.model.builder(family)?.profile(exact).build()?;

    let (working, bar, n) = (Answering::start(), notes.tokens_bar("compare"), args.tokens as usize);
    let (mut tried, all) = (vec![], prompts.len() * n);
    for prompt in prompts {
        let ids = encode(&args, &reference, &prompt)?;
        let done = tried.len() * n;
        let path = greedy(&mut reference, &mut other, &ids, n, &mut |new, _| {
            bar.at((done + new) as u64, all as u64);
            !working.cancelled()
        });
        let path = path.with_context(|| format!("prompt {}", tried.len() + 1))?;
        tried.push(Tried { prompt, ids: ids.len(), path });
        if working.cancelled() {
            break;
        }
    }
    bar.clear();
    let cancelled = working.cancelled();
    report(&args, &reference, &other, &tried)?;
    let wide = tried.iter().filter_map(|t| t.path.parting.as_ref()).any(|p| args.gap.is_some_and(|least| p.gap() >= least));
    Ok(if cancelled { CANCELLED } else { u8::from(wide) })
}

/// Lines of a file that are not empty.
fn lines(file: &Path) -> anyhow::Result<Vec<String>> {
    let io = |source| LmError::Io { file: file.into(), source };
    let bytes = std::fs::metadata(file).map_err(io)?.len();
    if bytes > MAX_PROMPTS {
        return Err(Usage(format!("--prompts {}: {bytes} bytes, expected at most {MAX_PROMPTS}", file.display())).into());
    }
    let text = std::fs::read_to_string(file).map_err(io)?;
    let lines: Vec<String> = text.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned).collect();
    match lines.is_empty() {
        true => Err(Usage(format!("--prompts {}: no line with a prompt", file.display())).into()),
        false => Ok(lines),
    }
}

/// A prompt as tokens: as they are given, or as a message, or as raw text where there is no template.
fn encode(args: &Args, runner: &LmRunner, prompt: &str) -> anyhow::Result<Vec<u32>> {
    if let Ok(ids) = serde_json::from_str::<Vec<u32>>(prompt) {
        return Ok(ids);
    }
    if !args.no_chat_template && !matches!(runner.template(), Err(LmError::NoTemplate { .. })) {
        let chat = Chat { messages: vec![Message::user(prompt)], ..Chat::default() };
        return Ok(chat.prompt_ids(runner)?);
    }
    Ok(runner.tokenizer()?.encode(prompt, true).map_err(LmError::from)?)
}

fn report(args: &Args, reference: &LmRunner, other: &LmRunner, tried: &[Tried]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if args.json {
        let paths: Vec<Value> = tried.iter().map(object).collect();
        let object = json!({
            "model": args.model.weights()?.display().to_string(),
            "device": other.explain().device,
            "profile": other.explain().profile,
            "reference": reference.explain().profile,
            "same": tried.iter().all(|t| t.path.parting.is_none()),
            "prompts": paths,
        });
        return Ok(writeln!(out, "{object:#}")?);
    }
    let name = &other.explain().profile.name;
    writeln!(out, "{}\nprofile {name} beside exact, on {}\n", args.model.weights()?.display(), other.explain().device)?;
    for (i, t) in tried.iter().enumerate() {
        writeln!(out, "{:>3}  {}", i + 1, line(t, name, reference))?;
    }
    write!(out, "\n{}", summary(tried))?;
    Ok(())
}

fn object(t: &Tried) -> Value {
    let parting = |p: &Parting| {
        json!({
            "at": p.at, "exact_token": p.tokens[0], "token": p.tokens[1], "gap": p.gap(), "margin": p.margin,
            "exact_logits": p.reference, "logits": p.other,
        })
    };
    let kl = &t.path.kl;
    json!({
        "prompt": t.prompt,
        "prompt_tokens": t.ids,
        "tokens": t.path.tokens,
        "parting": t.path.parting.as_ref().map(parting),
        "least_margin": t.path.least_margin,
        "kl": { "mean": mean(kl), "median": median(kl), "max": most(kl).1 },
    })
}

/// `"What is 7 times 8?": 9 tokens, the same`, or where and how they part.
fn line(t: &Tried, name: &str, runner: &LmRunner) -> String {
    let prompt: String = t.prompt.chars().take(50).collect();
    let n = t.path.tokens.len();
    let Some(p) = &t.path.parting else {
        return format!("{prompt:?}: {n} tokens, the same; smallest margin {:.3}", t.path.least_margin);
    };
    let shown = |id: u32| match runner.tokenizer().ok().and_then(|k| k.decode(&[id], false).ok()) {
        Some(text) => format!("{text:?} ({id})"),
        None => id.to_string(),
    };
    let [mine, others] = p.tokens.map(shown);
    format!(
        "{prompt:?}: {n} tokens, parts after {} of them\n     exact takes {mine} by {:.4} ({:.4} to {:.4}; margin {:.4}), {name} takes {others} by {:.4} ({:.4} to {:.4})",
        p.at,
        p.gap(),
        p.reference[0],
        p.reference[1],
        p.margin,
        p.other_gap(),
        p.other[1],
        p.other[0],
    )
}

fn summary(tried: &[Tried]) -> String {
    let kl: Vec<f64> = tried.iter().flat_map(|t| t.path.kl.iter().copied()).collect();
    let same = tried.iter().filter(|t| t.path.parting.is_none()).count();
    let mut t = format!("{same} of {} prompts have the same tokens", tried.len());
    if let Some(widest) = tried.iter().filter_map(|t| Some(t.path.parting.as_ref()?.gap())).max_by(f32::total_cmp) {
        t += &format!("; widest gap at a parting {widest:.4}");
    }
    let (at, max) = most(&kl);
    t += &format!("\nKL divergence over {} tokens: mean {:.3e}, median {:.3e}, max {max:.3e}", kl.len(), mean(&kl), median(&kl));
    let mut before = 0;
    let of = tried.iter().position(|t| {
        before += t.path.kl.len();
        before > at
    });
    if let Some(i) = of {
        let start: usize = tried[..i].iter().map(|t| t.path.kl.len()).sum();
        t += &format!(" (prompt {}, token {})", i + 1, at - start + 1);
    }
    t + "\n"
}

fn mean(v: &[f64]) -> f64 {
    v.iter().sum::<f64>() / v.len().max(1) as f64
}

/// The largest, and where it is.
fn most(v: &[f64]) -> (usize, f64) {
    v.iter().enumerate().fold((0, 0.0), |m, (i, x)| if *x > m.1 { (i, *x) } else { m })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(kl: &[f64], parting: Option<Parting>) -> Tried {
        let tokens = vec![1; kl.len()];
        Tried { prompt: "p".into(), ids: 3, path: Greedy { tokens, parting, kl: kl.to_vec(), least_margin: 0.5 } }
    }

    #[test]
    fn the_summary_says_where_the_largest_divergence_is() {
        let parting = Parting { at: 1, tokens: [4, 5], reference: [2.0, 1.75], other: [1.0, 1.5], margin: 0.25 };
        let all = [tried(&[1e-6, 2e-6], None), tried(&[1e-6, 5e-3, 1e-6], Some(parting))];
        let t = summary(&all);
        assert!(t.starts_with("1 of 2 prompts have the same tokens; widest gap at a parting 0.2500\n"), "{t}");
        assert!(t.contains("over 5 tokens: mean 1.001e-3, median 1.000e-6, max 5.000e-3 (prompt 2, token 2)"), "{t}");
        let v = object(&all[1]);
        assert_eq!((&v["parting"]["at"], &v["parting"]["gap"]), (&json!(1), &json!(0.25)));
        assert_eq!(object(&all[0])["parting"], Value::Null);
    }
}
