//! The program `rlx-run`: one command per family, `auto`, and the tools.
//!
//! Other programs add commands with [`register_cli`] and then call [`main`].

mod auto;
mod bench;
mod check;
mod compare;
mod convert;
mod inspect;
mod manual;
mod parity;
mod perplexity;
mod plan;
mod quantize;

pub use convert::main as convert_main;
pub use inspect::main as inspect_main;
pub use quantize::main as quantize_main;

use crate::families;
use rlx_cli::Usage;
use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// What runs when a command is named: gets the name to show (`rlx-run plan`) and the arguments after it, returns the
/// exit code.
type RunFn = Arc<dyn Fn(&str, Vec<OsString>) -> anyhow::Result<u8> + Send + Sync>;

/// A command of `rlx-run`.
#[derive(Clone)]
struct Command {
    name: String,
    about: String,
    /// Its flags and help under a name to show.  Commands added by other programs parse what they like.
    flags: Option<fn(&str) -> clap::Command>,
    /// The program that is this command alone.
    program: Option<&'static str>,
    run: RunFn,
}

impl Command {
    fn new(
        name: &str,
        about: &str,
        flags: fn(&str) -> clap::Command,
        run: impl Fn(&str, Vec<OsString>) -> anyhow::Result<u8> + Send + Sync + 'static,
    ) -> Command {
        Command { name: name.into(), about: about.into(), flags: Some(flags), program: None, run: Arc::new(run) }
    }

    /// There is a program of this name that is this command alone.
    fn also(self, program: &'static str) -> Command {
        Command { program: Some(program), ..self }
    }

    /// Its flags and help, under the name `program`.
    fn clap(&self, program: &str) -> clap::Command {
        match self.flags {
            Some(flags) => flags(program),
            None => clap::Command::new(program.to_owned()).about(self.about.clone()),
        }
    }
}

static REGISTERED: Mutex<Vec<Command>> = Mutex::new(vec![]);

/// A command of that name exists, or the name cannot be one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot register the command {name:?}: {why}")]
pub struct RegisterError {
    /// The name.
    pub name: String,
    /// Reason.
    pub why: &'static str,
}

/// Adds the command `name` to `rlx-run`; `run` gets the arguments after it and returns the exit code.
///
/// # Errors
/// The name is taken, empty, begins with a dash or has a space in it.
pub fn register_cli(
    name: &str,
    about: &str,
    run: impl Fn(Vec<OsString>) -> anyhow::Result<u8> + Send + Sync + 'static,
) -> Result<(), RegisterError> {
    let refuse = |why| Err(RegisterError { name: name.into(), why });
    if name.is_empty() || name.starts_with('-') || name.contains(char::is_whitespace) {
        return refuse("expected a word that does not begin with a dash");
    }
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    if registered.iter().chain(&builtin()).any(|c| c.name == name) {
        return refuse("there is one already");
    }
    let run: RunFn = Arc::new(move |_, args| run(args));
    registered.push(Command { name: name.into(), about: about.into(), flags: None, program: None, run });
    Ok(())
}

fn builtin() -> Vec<Command> {
    let about = "Look at the weights, then run the family they belong to";
    let mut all = vec![Command::new("auto", about, rlx_cli::lm::command, auto::main)];
    for e in families::all() {
        let about = format!("Talk to a {} model", e.family.name());
        all.push(Command::new(e.family.name(), &about, e.command, e.run).also(e.family.program()));
    }
    let about = "Say what a checkpoint is: format, tensors, settings, tokenizer";
    all.push(Command::new("inspect", about, inspect::command, inspect::run).also("rlx-inspect"));
    let about = "Say whether a file, a directory or a repository of the Hugging Face Hub can run, and what it is";
    all.push(Command::new("check", about, check::command, check::main));
    all.push(Command::new("plan", "Say what running a model would take, without loading it", plan::command, plan::main));
    all.push(Command::new("parity", "Compare checkpoints with recorded reference outputs", parity::command, parity::main));
    all.push(Command::new("bench", "Measure loading, prefill and decoding", bench::command, bench::main));
    let about = "Compare two checkpoints, or one on two devices or under two profiles";
    all.push(Command::new("compare", about, compare::command, compare::main));
    all.push(Command::new("perplexity", "Measure how surprised a model is by a text", perplexity::command, perplexity::main));
    let about = "Convert a checkpoint between Hugging Face safetensors, GGUF and MLX";
    all.push(Command::new("convert", about, convert::command, convert::run).also("rlx-convert"));
    let about = "Quantise a GGUF file: fewer bits per weight";
    all.push(Command::new("quantize", about, quantize::command, quantize::run).also("rlx-quantize"));
    let about = "Print a completion script for bash, zsh, fish, powershell or elvish";
    all.push(Command::new("completions", about, manual::completions_command, manual::completions));
    all.push(Command::new("man", "Write manual pages of all programs and commands", manual::man_command, manual::man));
    all
}

/// Built-in and registered commands.
fn commands() -> Vec<Command> {
    let mut all = builtin();
    all.extend(REGISTERED.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
    all
}

const EXAMPLES: &str = "\
Examples:
  rlx-run auto weights/rlx-tiny-chat --prompt \"What is the capital of Norway?\"
  rlx-run auto model-Q4_K_M.gguf             chat, at a terminal
  rlx-run auto --hf unsloth/Qwen3-0.6B-GGUF  from the Hugging Face Hub
  rlx-run check Qwen/Qwen3-0.6B
  rlx-run inspect model-Q4_K_M.gguf
  rlx-run plan model-Q4_K_M.gguf --max-seq 8192
  rlx-run convert weights/rlx-tiny-chat tiny.gguf
  rlx-run bench model-Q4_K_M.gguf --threads 2

`rlx-run COMMAND --help` tells more.
";

/// Runs `rlx-run` on these arguments (without the program's name); returns the exit code.
///
/// # Errors
/// Whatever the command fails with; [`rlx_cli::exit`] prints it.
pub fn main(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<u8> {
    families::register();
    let args: Vec<OsString> = args.into_iter().collect();
    let all = commands();
    if let Some(first) = args.first()
        && let Some(command) = all.iter().find(|c| first == c.name.as_str())
    {
        return (command.run)(&format!("rlx-run {}", command.name), args[1..].to_vec());
    }
    if let Some(path) = args.first().filter(|a| Path::new(a).exists()) {
        let path = Path::new(path).display();
        return Err(Usage(format!("{path} is a path, not a command; try: rlx-run auto {path}")).into());
    }
    let argv = std::iter::once(OsString::from("rlx-run")).chain(args);
    Err(match command_line(&all).try_get_matches_from(argv) {
        Err(e) => e.into(),
        Ok(_) => Usage("no command given; rlx-run --help lists them".into()).into(),
    })
}

/// Only help and mistakes get here: commands parse their own arguments.
fn command_line(all: &[Command]) -> clap::Command {
    let command = |c: &Command| clap::Command::new(c.name.clone()).about(c.about.clone());
    clap::Command::new("rlx-run")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Run models from their weights on disk")
        .override_usage("rlx-run COMMAND [ARGUMENTS]")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .after_help(format!("{EXAMPLES}{}", rlx_cli::EXIT_CODES))
        .subcommands(all.iter().map(command))
}
