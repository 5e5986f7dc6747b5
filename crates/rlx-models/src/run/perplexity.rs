//! `rlx-run perplexity`: how surprised a model is by a text.

use crate::families;
use clap::Parser;
use rlx_cli::args::{self, ModelArgs};
use rlx_cli::interrupt::Answering;
use rlx_cli::term::Notes;
use rlx_cli::{CANCELLED, Usage};
use rlx_lm::LmError;
use rlx_lm::perplexity::{Estimate, Windows};
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  $P weights/rlx-tiny-chat --text README.md --ctx 256
  $P model-Q4_K_M.gguf --text wiki.test.raw --limit-chunks 20 --json
  $P model.gguf --text book.txt --ctx 1024 --stride 512

The text is cut into chunks of --ctx tokens; each starts from nothing and its second half is scored, so
figures compare with those of llama.cpp's perplexity tool.  With --stride, windows overlap and the last
so many tokens of each are scored.  Ctrl-C ends it with the estimate so far.
";

/// Measure how surprised a model is by a text: exp of the mean negative log likelihood of its tokens
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text; `-` reads it from stdin
    #[arg(long, short = 'f', value_name = "FILE")]
    text: PathBuf,
    /// Tokens per chunk
    #[arg(long, value_name = "N", default_value_t = 512)]
    ctx: usize,
    /// Tokens from chunk to chunk, all of which are scored; without it, the second half of each chunk is
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Only so many chunks
    #[arg(long, value_name = "N")]
    limit_chunks: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Nothing on stderr but errors
    #[arg(long, short)]
    quiet: bool,
}

pub(super) fn command(program: &str) -> clap::Command {
    args::command::<Args>(program, EXAMPLES)
}

/// A text file, or stdin.
pub(super) fn read_text(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).map_err(|source| LmError::Io { file: path.into(), source }.into())
}

pub(super) fn main(program: &str, args: Vec<OsString>) -> anyhow::Result<u8> {
    let mut args: Args = args::parse(program, EXAMPLES, args)?;
    let windows = Windows { ctx: args.ctx, stride: args.stride, limit: args.limit_chunks };
    let text = read_text(&args.text)?;
    let longest = u32::try_from(args.ctx).map_err(|_| Usage(format!("--ctx {}: too long", args.ctx)))?;
    args.model.max_seq = args.model.max_seq.or(Some(longest));
    args.model.quiet = args.quiet;
    let entry = families::at(args.model.weights()?, &args.model.load_opts())?;
    let mut runner = args.model.builder(entry.family)?.build()?;
    let ids = runner.tokenizer()?.encode(&text, true).map_err(LmError::from)?;
    let notes = Notes::new(args.quiet);
    let (working, bar) = (Answering::start(), notes.tokens_bar("scoring"));
    let mut running = vec![];
    let estimate = runner.perplexity(&ids, windows, &mut |e| {
        bar.at((e.chunks * args.ctx) as u64, (e.of * args.ctx) as u64);
        running.push(e.perplexity());
        if e.chunks.is_power_of_two() && e.chunks < e.of {
            notes.say(format_args!("[{} of {}] {:.4}", e.chunks, e.of, e.perplexity()));
        }
        !working.cancelled()
    });
    bar.clear();
    let e = estimate?;
    report(&args, &e, &running, ids.len())?;
    Ok(if e.chunks < e.of { CANCELLED } else { 0 })
}

fn report(args: &Args, e: &Estimate, running: &[f64], tokens: usize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if args.json {
        let object = json!({
            "perplexity": e.perplexity(),
            "error": e.error(),
            "nll": e.nll(),
            "tokens": tokens,
            "scored": e.scored,
            "chunks": e.chunks,
            "ctx": args.ctx,
            "stride": args.stride,
            "running": running,
        });
        return writeln!(out, "{object:#}");
    }
    let error = e.error().map_or_else(String::new, |v| format!(" +/- {v:.5}"));
    writeln!(out, "perplexity {:.4}{error} ({} tokens scored in {} of {} chunks of {})", e.perplexity(), e.scored, e.chunks, e.of, args.ctx)
}
