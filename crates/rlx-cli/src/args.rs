//! Flags shared by programs, in groups that programs flatten into their own.

use crate::term::{Bar, Notes};
use crate::{EXIT_CODES, Usage};
use clap::Parser;
use rlx_compile::Profile;
use rlx_core::hub::{Hub, HubError, HubOptions, Spec};
use rlx_core::weights::LoadOpts;
use rlx_lm::{GenerateOptions, LmBuilder, LmError, LmFamily, Precision, SamplerParams, resolve_profile};
use rlx_runtime::{Device, DeviceError};
use std::cell::OnceCell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The flags and help of `program`.  `examples` go below the flags in `--help`, with `$P` for the program's name.
pub fn command<T: Parser>(program: &str, examples: &str) -> clap::Command {
    let after = format!("{}\n{EXIT_CODES}", examples.replace("$P", program));
    T::command().name(program.to_owned()).bin_name(program.to_owned()).after_help(after)
}

/// Parses the arguments of `program` (without its name), whose flags are [`command`]'s.  Help and mistakes come back
/// as errors that [`exit`](crate::exit) prints.
pub fn parse<T: Parser>(program: &str, examples: &str, args: impl IntoIterator<Item = OsString>) -> anyhow::Result<T> {
    let argv = std::iter::once(OsString::from(program)).chain(args);
    Ok(T::from_arg_matches_mut(&mut command::<T>(program, examples).try_get_matches_from(argv)?)?)
}

/// Where and how to compute.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Device and profile")]
pub struct DeviceArgs {
    /// Where to run: cpu (more with later backends: metal, mlx, cuda, rocm, wgpu, vulkan)
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub device: String,
    /// How to compile and run: a preset (lm, exact, …) or a TOML file.  A preset stands alone; a file
    /// overrides what FAMILY.rlx.toml beside the weights says
    #[arg(long, value_name = "PRESET|FILE")]
    pub profile: Option<String>,
    /// Override one value of the profile, such as kv=f32 or fusion.epilogue=false; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Threads; all physical cores unless given (same as --set threads=N)
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

impl DeviceArgs {
    /// The device.
    pub fn device(&self) -> anyhow::Result<Device> {
        self.device.parse().map_err(|e: DeviceError| match e {
            DeviceError::Unknown(_) => Usage(e.to_string()).into(),
            other => other.into(),
        })
    }

    /// The profile in force: `--profile`, else the preset of `default` with the file beside the weights; then `--set`.
    pub fn profile(&self, family: &str, weights: &Path, default: Precision) -> anyhow::Result<Profile> {
        let mut profile = match self.profile.as_deref() {
            None => resolve_profile(family, weights, default)?,
            Some(name) if Profile::PRESETS.contains(&name) => Profile::preset(name).map_err(LmError::from)?,
            Some(file) => self.profile_file(file, resolve_profile(family, weights, default)?)?,
        };
        let threads = self.threads.map(|n| format!("threads={n}"));
        for text in self.set.iter().chain(&threads) {
            profile.set(text).map_err(|e| Usage(e.to_string()))?;
        }
        Ok(profile)
    }

    fn profile_file(&self, file: &str, base: Profile) -> anyhow::Result<Profile> {
        let path = Path::new(file);
        if !path.exists() {
            let presets = Profile::PRESETS.join(", ");
            return Err(Usage(format!("--profile {file}: neither a file nor a preset; presets are {presets}")).into());
        }
        let text = std::fs::read_to_string(path).map_err(|source| LmError::Io { file: path.into(), source })?;
        Ok(Profile::from_toml_over(base, &text, path).map_err(LmError::from)?)
    }
}

/// A checkpoint of the Hugging Face Hub.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct HubArgs {
    /// Weights of the Hugging Face Hub instead of a path, downloaded once: org/repo, a file of it by a part of its
    /// name (org/repo:Q8_0), a branch, tag or commit (org/repo@main)
    #[arg(long, value_name = "ORG/REPO")]
    pub hf: Option<String>,
    /// Use what was downloaded before; never ask the Hub
    #[arg(long)]
    pub offline: bool,
}

impl HubArgs {
    /// What the environment and the flags say.
    pub fn options(&self) -> HubOptions {
        HubOptions::from_env().offline(self.offline)
    }

    /// The repository of `--hf`.
    pub fn spec(&self) -> anyhow::Result<Option<Spec>> {
        self.hf.as_deref().map(spec).transpose()
    }

    /// The weights of a repository, downloaded with a progress bar where they are not here.
    pub fn fetch(&self, spec: &Spec, opts: &LoadOpts, notes: &Notes) -> anyhow::Result<PathBuf> {
        let mut bar: Option<(String, Bar)> = None;
        let found = Hub::new(self.options()).fetch(spec, &opts.resolve, &mut |file, done, all| {
            if bar.as_ref().is_none_or(|b| b.0 != file) {
                bar.take().inspect(|b| b.1.clear());
                bar = Some((file.to_owned(), notes.download_bar(file)));
            }
            bar.iter().for_each(|b| b.1.at(done, all));
        });
        bar.take().inspect(|b| b.1.clear());
        Ok(found?)
    }

    /// The weights that were named, by a path or by `--hf`.
    pub fn weights(&self, path: Option<&Path>, opts: &LoadOpts, notes: &Notes) -> anyhow::Result<PathBuf> {
        match (path, self.spec()?) {
            (Some(path), None) => Ok(path.to_owned()),
            (None, Some(spec)) => self.fetch(&spec, opts, notes),
            (Some(_), Some(_)) => Err(Usage("--hf and a path: name the weights once".into()).into()),
            (None, None) => Err(Usage(NO_WEIGHTS.into()).into()),
        }
    }
}

const NO_WEIGHTS: &str = "no weights given: name a .safetensors or .gguf file, a directory of them, or --hf org/repo";

/// A repository as `--hf` takes it.
pub fn spec(text: &str) -> anyhow::Result<Spec> {
    text.parse().map_err(|e: HubError| Usage(e.to_string()).into())
}

/// Which weights, and how to hold them.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A .safetensors or .gguf file, or a directory of them
    #[arg(value_name = "WEIGHTS", conflicts_with = "weights")]
    pub path: Option<PathBuf>,
    /// The same as the positional argument
    #[arg(long, short, value_name = "PATH")]
    pub weights: Option<PathBuf>,
    /// Weights of the Hub.
    #[command(flatten)]
    pub hub: HubArgs,
    /// No progress bar for downloads.
    #[arg(skip)]
    pub quiet: bool,
    #[arg(skip)]
    found: OnceCell<PathBuf>,
    /// Which of a directory's GGUF files to take, by quantisation
    #[arg(long, alias = "prefer", value_name = "NAME", default_value = "Q4_K_M")]
    pub prefer_quant: String,
    /// Which of a directory's GGUF files to take, counted from 0 in the order of names
    #[arg(long, value_name = "N")]
    pub gguf_index: Option<usize>,
    /// Most tokens of prompt and answers together; memory for them is taken at the start.  Unless
    /// given, 4096 or what the model was trained for
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    pub max_seq: Option<u32>,
    /// Keep quantised weights packed; =false dequantises them to f32 at load
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub packed: bool,
    /// Keep weights, in the layout that this processor computes with, in a file beside the weights and about as large:
    /// the next start uses it as it is (same as --set packed_cache=true)
    #[arg(long)]
    pub packed_cache: bool,
    /// Refuse, before loading, a model that needs more than this many gigabytes
    #[arg(long, value_name = "GB", value_parser = positive)]
    pub max_memory_gb: Option<f64>,
    /// Where and how to compute.
    #[command(flatten)]
    pub device: DeviceArgs,
}

impl ModelArgs {
    /// The weights that were named; those of the Hub are downloaded when this is first asked.
    pub fn weights(&self) -> anyhow::Result<&Path> {
        if let Some(found) = self.found.get() {
            return Ok(found);
        }
        let path = self.path.as_deref().or(self.weights.as_deref());
        let found = self.hub.weights(path, &self.load_opts(), &Notes::new(self.quiet))?;
        Ok(self.found.get_or_init(|| found))
    }

    /// How to choose among the files of a directory.
    pub fn load_opts(&self) -> LoadOpts {
        let opts = LoadOpts::default().prefer_quant(&self.prefer_quant);
        match self.gguf_index {
            Some(i) => opts.gguf_index(i),
            None => opts,
        }
    }

    /// All of it, said to a builder.
    pub fn builder(&self, family: &'static dyn LmFamily) -> anyhow::Result<LmBuilder> {
        let weights = self.weights()?;
        let mut profile = self.device.profile(family.name(), weights, Precision::Fast)?;
        if self.packed_cache {
            profile.set("packed_cache=true").map_err(|e| Usage(e.to_string()))?;
        }
        let notes = Notes::new(self.quiet);
        let mut builder = rlx_lm::LmRunner::builder(family)
            .weights(weights)
            .device(self.device.device()?)
            .profile(profile)
            .packed_weights(self.packed)
            .load_opts(self.load_opts())
            .note(move |line| notes.say(line));
        if let Some(n) = self.max_seq {
            builder = builder.max_seq(n as usize);
        }
        if let Some(gb) = self.max_memory_gb {
            builder = builder.max_memory_gb(gb);
        }
        Ok(builder)
    }
}

/// What to answer.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Prompt")]
pub struct PromptArgs {
    /// The question; `-` reads it from stdin, as does leaving it out when stdin is not a terminal
    #[arg(long, short, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// The prompt as token ids, fed as they are
    #[arg(long, value_name = "ID,ID,…", value_delimiter = ',', conflicts_with_all = ["prompt", "system", "no_chat_template"])]
    pub prompt_ids: Option<Vec<u32>>,
    /// Instructions to the model
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "no_chat_template")]
    pub system: Option<String>,
    /// Continue the prompt as raw text instead of answering it as a message
    #[arg(long)]
    pub no_chat_template: bool,
    /// Write prompts by this template instead of the checkpoint's: a Jinja file, a tokenizer_config.json,
    /// or the name of one of the checkpoint's templates (default, tool_use, rag, …)
    #[arg(long, value_name = "FILE|NAME", conflicts_with = "no_chat_template")]
    pub chat_template: Option<String>,
    /// More variables for the template, as a JSON object, such as {"enable_thinking": false}
    #[arg(long, value_name = "JSON", conflicts_with = "no_chat_template")]
    pub chat_template_kwargs: Option<String>,
    /// Tools that the model may call: a JSON file with a list of definitions
    #[arg(long, value_name = "FILE", conflicts_with = "no_chat_template")]
    pub tools: Option<PathBuf>,
}

/// Most bytes of a file of tool definitions.
const MAX_TOOLS: u64 = 16 << 20;

impl PromptArgs {
    /// The tool definitions.
    pub fn tools(&self) -> anyhow::Result<Option<serde_json::Value>> {
        let Some(path) = &self.tools else { return Ok(None) };
        let io = |source| LmError::Io { file: path.clone(), source };
        let bytes = std::fs::metadata(path).map_err(io)?.len();
        if bytes > MAX_TOOLS {
            return Err(Usage(format!("--tools {}: {bytes} bytes, expected at most {MAX_TOOLS}", path.display())).into());
        }
        let text = std::fs::read_to_string(path).map_err(io)?;
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| Usage(format!("--tools {}: {e}", path.display())))?;
        match &value {
            serde_json::Value::Array(list) if list.iter().all(serde_json::Value::is_object) => Ok(Some(value)),
            _ => Err(Usage(format!("--tools {}: expected a list of objects, one a tool", path.display())).into()),
        }
    }

    /// More variables for the template.
    pub fn variables(&self) -> anyhow::Result<serde_json::Map<String, serde_json::Value>> {
        let Some(text) = &self.chat_template_kwargs else { return Ok(serde_json::Map::new()) };
        match serde_json::from_str(text) {
            Ok(serde_json::Value::Object(map)) => Ok(map),
            Ok(_) => Err(Usage("--chat-template-kwargs: expected a JSON object, such as {\"enable_thinking\": false}".into()).into()),
            Err(e) => Err(Usage(format!("--chat-template-kwargs: {e}")).into()),
        }
    }

    /// Puts the template that was asked for in place of the checkpoint's.
    pub fn apply_template(&self, runner: &mut rlx_lm::LmRunner) -> anyhow::Result<()> {
        let Some(given) = &self.chat_template else { return Ok(()) };
        let path = Path::new(given);
        if path.is_file() {
            return Ok(runner.set_template(rlx_text::ChatTemplate::from_file(path).map_err(LmError::from)?)?);
        }
        if given.contains(['/', '\\', '.']) {
            return Err(Usage(format!("--chat-template {given}: no such file")).into());
        }
        Ok(runner.choose_template(given)?)
    }
}

/// How tokens are chosen, and when to stop.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Generation")]
pub struct GenerateArgs {
    /// Most tokens of an answer
    #[arg(long, short = 'n', value_name = "N", default_value_t = 512)]
    pub max_tokens: usize,
    /// How random to be: 0, the default, always takes the most likely token.  1 when only --top-k,
    /// --top-p or --min-p are given
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Choose among this many most likely tokens; 0 for all
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Choose among the fewest tokens whose probabilities reach this sum
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Leave out tokens less likely than this fraction of the most likely one
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Start of the random sequence; the same seed gives the same answer.  Taken from the clock unless given
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// End the answer before this text; may be repeated
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,
    /// Answer with JSON that satisfies this schema.  A keyword that is not supported is an error
    #[arg(long, value_name = "FILE|JSON", conflicts_with = "grammar")]
    pub json_schema: Option<String>,
    /// Answer with text of this grammar: GBNF from `root`, or Lark from `start`
    #[arg(long, value_name = "FILE")]
    pub grammar: Option<PathBuf>,
}

impl GenerateArgs {
    /// As the engine takes it, ranges checked.
    pub fn options(&self) -> anyhow::Result<GenerateOptions> {
        let narrowed = self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some();
        let plain = SamplerParams::default();
        let sampling = SamplerParams {
            temperature: self.temperature.unwrap_or(if narrowed { 1.0 } else { 0.0 }),
            top_k: self.top_k.unwrap_or(plain.top_k),
            top_p: self.top_p.unwrap_or(plain.top_p),
            min_p: self.min_p.unwrap_or(plain.min_p),
            seed: self.seed.unwrap_or_else(clock_seed),
            ..plain
        };
        sampling.validate().map_err(|e| Usage(e.to_string()))?;
        if self.stop.iter().any(String::is_empty) {
            return Err(Usage("--stop: expected a text, found an empty one".into()).into());
        }
        let named = |flag: &str, e: rlx_text::TextError| Usage(format!("{flag}: {e}"));
        let grammar = match (&self.json_schema, &self.grammar) {
            (Some(given), _) => Some(rlx_text::Grammar::json_schema_or_file(given).map_err(|e| named("--json-schema", e))?),
            (None, Some(path)) => Some(rlx_text::Grammar::file(path).map_err(|e| named("--grammar", e))?),
            (None, None) => None,
        };
        // Special tokens within an answer belong to it: models write tool calls in them.
        let (max_tokens, stop) = (self.max_tokens, self.stop.clone());
        let grammar = grammar.map(std::sync::Arc::new);
        Ok(GenerateOptions { max_tokens, sampling, stop, skip_special: false, grammar, ..GenerateOptions::default() })
    }
}

/// What to print.
#[derive(clap::Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Print the profile in force, what compiling did, what the device runs itself, and memory, to stderr
    #[arg(long)]
    pub explain: bool,
    /// Print one JSON object (text, tokens, counts, timings) instead of text
    #[arg(long)]
    pub json: bool,
    /// Nothing on stderr but errors
    #[arg(long, short)]
    pub quiet: bool,
    /// Print the answer when it is complete rather than as it is made
    #[arg(long)]
    pub no_stream: bool,
}

/// Every flag of a language model's program.
#[derive(clap::Args, Clone, Debug)]
pub struct LmArgs {
    /// Which weights, where and how.
    #[command(flatten)]
    pub model: ModelArgs,
    /// What to answer.
    #[command(flatten)]
    pub prompt: PromptArgs,
    /// How to choose tokens.
    #[command(flatten)]
    pub generate: GenerateArgs,
    /// What to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

fn clock_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_secs() ^ (u64::from(d.subsec_nanos()) << 20))
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(v) if v > 0.0 && f64::is_finite(v) => Ok(v),
        _ => Err("expected a number above 0".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser, Debug)]
    struct Program {
        #[command(flatten)]
        lm: LmArgs,
    }

    fn args(list: &[&str]) -> anyhow::Result<LmArgs> {
        Ok(parse::<Program>("x", "", list.iter().map(OsString::from))?.lm)
    }

    #[test]
    fn weights_may_stand_alone_or_behind_the_flag() {
        assert_eq!(args(&["w"]).unwrap().model.weights().unwrap(), Path::new("w"));
        assert_eq!(args(&["--weights", "w"]).unwrap().model.weights().unwrap(), Path::new("w"));
        assert!(args(&["a", "--weights", "b"]).is_err());
        assert!(args(&[]).unwrap().model.weights().unwrap_err().is::<Usage>());
    }

    #[test]
    fn packed_is_a_switch_with_a_value() {
        for (list, want) in [(&["w"][..], true), (&["w", "--packed"], true), (&["--packed", "w"], true), (&["w", "--packed=false"], false)]
        {
            assert_eq!(args(list).unwrap().model.packed, want, "{list:?}");
        }
    }

    #[test]
    fn answers_are_greedy_unless_asked_otherwise() {
        let temperature = |list: &[&str]| args(list).unwrap().generate.options().unwrap().sampling.temperature;
        assert_eq!(temperature(&["w"]), 0.0);
        assert_eq!(temperature(&["w", "--top-p", "0.9"]), 1.0);
        assert_eq!(temperature(&["w", "--top-p", "0.9", "--temperature", "0.5"]), 0.5);
        assert!(args(&["w", "--temperature", "-1"]).unwrap().generate.options().unwrap_err().is::<Usage>());
    }

    #[test]
    fn prompts_may_begin_with_a_dash() {
        assert_eq!(args(&["w", "--prompt", "-5 plus 3"]).unwrap().prompt.prompt.as_deref(), Some("-5 plus 3"));
        assert_eq!(args(&["w", "--prompt-ids", "1,2"]).unwrap().prompt.prompt_ids, Some(vec![1, 2]));
    }
}
