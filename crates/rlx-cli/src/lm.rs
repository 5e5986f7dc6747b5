//! The program of a language model: one answer to a prompt, or a chat at the terminal.

use crate::args::{self, LmArgs};
use crate::interrupt::Answering;
use crate::term::{Notes, human_bytes, speed};
use crate::{CANCELLED, Usage, chat};
use clap::Parser;
use rlx_lm::{Chat, Finish, GenerateOptions, Generation, LmError, LmFamily, LmRunner};
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  Ask one question; the answer streams to stdout, one line of figures goes to stderr:
    $P weights/rlx-tiny-chat --prompt \"What is the capital of Norway?\"
  Chat: without a prompt, at a terminal (/help lists what you can type there):
    $P weights/rlx-tiny-chat
  Answer what another program writes, and hand the result to a third as JSON:
    echo \"What is 17 plus 25?\" | $P weights/rlx-tiny-chat --json --quiet
  Less greedy, but repeatable:
    $P model-Q4_K_M.gguf --prompt \"Tell me a story.\" --temperature 0.7 --top-p 0.9 --seed 1
  Weights of the Hugging Face Hub, kept where huggingface_hub keeps them (HF_HOME):
    $P --hf org/model
    $P --hf org/model-GGUF:Q8_0 --offline
  Exactly what the checkpoint computes, in f32 throughout, and what compiling did:
    $P weights/rlx-tiny-chat --prompt Hi --profile exact --explain

  Weights that need no work at the second start, from a file that the first one writes beside them:
    $P model-Q4_K_M.gguf --packed-cache --prompt Hi

  JSON that satisfies a schema, whatever the model would rather say:
    $P weights/rlx-tiny-chat --prompt \"Describe a cat.\" --json-schema '{\"type\": \"object\", \"properties\":
      {\"name\": {\"type\": \"string\", \"maxLength\": 20}}, \"required\": [\"name\"], \"additionalProperties\": false}'
  Tools that the model may call; --json lists the calls:
    $P weights/rlx-tiny-chat --prompt \"Weather in Oslo?\" --tools tools.json --json

Answers are greedy unless --temperature, --top-k, --top-p or --min-p say otherwise; what a
checkpoint's generation_config.json recommends is not used.  Ctrl-C ends the answer, a second
Ctrl-C the program.
";

/// Talk to a language model from its weights on disk
#[derive(Parser, Debug)]
#[command(version)]
struct Program {
    #[command(flatten)]
    lm: LmArgs,
}

/// The flags and help of the language-model program of this name.
pub fn command(program: &str) -> clap::Command {
    args::command::<Program>(program, EXAMPLES)
}

/// The flags of language-model programs, parsed.
pub fn parse(program: &str, args: impl IntoIterator<Item = OsString>) -> anyhow::Result<LmArgs> {
    Ok(args::parse::<Program>(program, EXAMPLES, args)?.lm)
}

/// What to do.
enum Input {
    Text(String),
    Ids(Vec<u32>),
    Interactive,
}

/// What every conversation begins with.
pub(crate) struct Fresh {
    tools: Option<serde_json::Value>,
    variables: serde_json::Map<String, serde_json::Value>,
}

impl Fresh {
    /// A conversation without messages but the instructions.
    pub fn chat(&self, system: Option<&str>) -> Chat {
        Chat { tools: self.tools.clone(), variables: self.variables.clone(), ..Chat::new(system) }
    }
}

/// A loaded model and how to answer with it.
pub(crate) struct Answerer {
    pub runner: LmRunner,
    pub options: GenerateOptions,
    pub notes: Notes,
    /// Answers go to stdout as they are made.
    pub print: bool,
    pub raw: bool,
    pub load: Duration,
}

/// Runs the program of `family` on these arguments (without its name); returns the exit code.
pub fn run(family: &'static dyn LmFamily, program: &str, args: impl IntoIterator<Item = OsString>) -> anyhow::Result<u8> {
    rlx_core::registry::register(family);
    let mut args = parse(program, args)?;
    args.model.quiet = args.output.quiet;
    let mut options = args.generate.options()?;
    let (tools, variables) = (args.prompt.tools()?, args.prompt.variables()?);
    let notes = Notes::new(args.output.quiet);
    let builder = args.model.builder(family)?;
    let input = input(&args)?;

    let started = Instant::now();
    let bar = notes.bytes_bar("loading");
    let seen = bar.clone();
    let builder = builder.stream(!args.output.no_stream && !args.output.json).progress(move |done, all| seen.at(done, all));
    let runner = builder.build();
    bar.clear();
    let mut runner = runner?;
    args.prompt.apply_template(&mut runner)?;
    if tools.is_some() {
        options.tools = runner.tool_convention()?;
    }
    let load = started.elapsed();
    if args.output.explain {
        let _ = writeln!(io::stderr(), "{}\nmemory: {}\n", runner.explain(), runner.memory());
    }
    let mut a = Answerer { runner, options, notes, print: !args.output.json, raw: args.prompt.no_chat_template, load };
    let fresh = Fresh { tools, variables };
    match input {
        Input::Interactive => chat::run(&mut a, args.prompt.system.as_deref(), &fresh),
        Input::Text(text) => a.once(&text, &args, &fresh),
        Input::Ids(ids) => a.finish(&ids, &args),
    }
}

/// The prompt of the command line, else of stdin; at a terminal, a chat.
fn input(args: &LmArgs) -> anyhow::Result<Input> {
    if let Some(ids) = &args.prompt.prompt_ids {
        return Ok(Input::Ids(ids.clone()));
    }
    match args.prompt.prompt.as_deref() {
        Some("-") => {}
        Some(text) => return Ok(Input::Text(text.into())),
        None if io::stdin().is_terminal() && args.output.json => {
            return Err(Usage("--json answers one prompt: give --prompt, or pipe one in".into()).into());
        }
        None if io::stdin().is_terminal() => return Ok(Input::Interactive),
        None => {}
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(|e| anyhow::Error::from(e).context("cannot read the prompt from stdin"))?;
    // The line end of `echo` is not part of the question; a raw prompt stays as it is.
    let text = if args.prompt.no_chat_template { text } else { text.trim_end_matches(['\r', '\n']).to_owned() };
    if text.trim().is_empty() {
        return Err(Usage("no prompt: give --prompt TEXT or pipe one in".into()).into());
    }
    Ok(Input::Text(text))
}

impl Answerer {
    /// Answers one prompt.
    fn once(&mut self, text: &str, args: &LmArgs, fresh: &Fresh) -> anyhow::Result<u8> {
        let ids = if self.raw {
            self.runner.tokenizer()?.encode(text, true).map_err(LmError::from)?
        } else {
            let mut chat = fresh.chat(args.prompt.system.as_deref());
            chat.messages.push(rlx_text::Message::user(text));
            chat.prompt_ids(&self.runner)?
        };
        self.finish(&ids, args)
    }

    fn finish(&mut self, ids: &[u32], args: &LmArgs) -> anyhow::Result<u8> {
        let done = self.answer(ids)?;
        if args.output.json {
            let object = self.json(&done);
            writeln!(io::stdout(), "{object}")?;
        }
        self.notes.say(format_args!(
            "{} · load {:.2} s · {}",
            speed(&done),
            self.load.as_secs_f64(),
            human_bytes(self.runner.memory().total())
        ));
        Ok(if done.finish == Finish::Cancelled { CANCELLED } else { 0 })
    }

    /// Generates after `ids`, printing as it goes.
    pub fn answer(&mut self, ids: &[u32]) -> anyhow::Result<Generation> {
        let answering = Answering::start();
        let bar = self.notes.tokens_bar("reading");
        let (mut out, mut failed) = (Printer::new(self.print), None);
        let text = self.runner.tokenizer().is_ok();
        let options = GenerateOptions { cancel: Some(answering.flag()), ..self.options.clone() };
        let progress = &mut |done: usize, all: usize| bar.at(done as u64, all as u64);
        let mut heard = |piece: &str| {
            bar.clear();
            failed = out.write(piece).err();
            failed.is_none()
        };
        let done = if text {
            self.runner.generate_text(ids, &options, progress, &mut heard)
        } else {
            // A checkpoint without a tokenizer still answers in ids.
            self.runner.generate_tokens(ids, &options, progress, &mut |id| heard(&format!("{id} ")))
        };
        bar.clear();
        let done = done?;
        match failed {
            Some(e) => Err(e.into()),
            None => {
                out.end()?;
                self.tell(&done);
                Ok(done)
            }
        }
    }

    /// Says why an answer is not complete.
    fn tell(&self, done: &Generation) {
        match done.finish {
            Finish::MaxTokens => self.notes.say(format_args!("[stopped after {} tokens: --max-tokens]", done.tokens.len())),
            Finish::Context => self.notes.say(format_args!("[stopped: {} tokens are all that --max-seq allows]", self.runner.max_seq())),
            Finish::Cancelled => self.notes.say("[cancelled]"),
            Finish::Eos | Finish::Stop | Finish::Complete => {}
        }
    }

    fn json(&self, g: &Generation) -> serde_json::Value {
        let (s, m) = (&self.options.sampling, self.runner.memory());
        json!({
            "text": g.text,
            "tool_calls": g.calls.iter().map(|c| json!({"name": c.name, "arguments": c.arguments})).collect::<Vec<_>>(),
            "tokens": g.tokens,
            "finish": finish_name(g.finish),
            "prompt_tokens": g.prompt_tokens,
            "cached_tokens": g.cached_tokens,
            "new_tokens": g.tokens.len(),
            "sampling": s,
            "timings": {
                "load_s": self.load.as_secs_f64(),
                "prefill_s": g.prefill.as_secs_f64(),
                "prefill_tokens_per_s": g.prefill_rate(),
                "decode_s": g.decode.as_secs_f64(),
                "decode_tokens_per_s": g.decode_rate(),
            },
            "memory": { "weights": m.weights, "mapped": m.mapped, "cache": m.states, "activations": m.activations },
        })
    }
}

fn finish_name(f: Finish) -> &'static str {
    match f {
        Finish::Eos => "eos",
        Finish::Stop => "stop",
        Finish::Complete => "complete",
        Finish::MaxTokens => "max_tokens",
        Finish::Context => "context",
        Finish::Cancelled => "cancelled",
    }
}

/// Writes an answer to stdout piece by piece and ends it with a line end.
struct Printer {
    on: bool,
    line_open: bool,
}

impl Printer {
    fn new(on: bool) -> Printer {
        Printer { on, line_open: true }
    }

    fn write(&mut self, piece: &str) -> io::Result<()> {
        if !self.on || piece.is_empty() {
            return Ok(());
        }
        self.line_open = !piece.ends_with('\n');
        let mut out = io::stdout().lock();
        out.write_all(piece.as_bytes())?;
        out.flush()
    }

    fn end(&mut self) -> io::Result<()> {
        if self.on && self.line_open { writeln!(io::stdout()) } else { Ok(()) }
    }
}
