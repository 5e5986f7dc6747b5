//! `rlx-quantize`, also `rlx-run quantize`: a GGUF file with fewer bits per weight.

use anyhow::{Context, bail};
use clap::Parser;
use fancy_regex::Regex;
use rlx_cli::interrupt::Answering;
use rlx_cli::term::{Notes, human_bytes, human_count};
use rlx_cli::{CANCELLED, Usage, args};
use rlx_gguf::quantize::{FileType, ImportanceMatrix, Options, Plan, QuantizeError, TypeRule};
use rlx_gguf::{Gguf, GgufError, TensorType};
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

const EXAMPLES: &str = "\
Examples:
  $P model-F16.gguf model-Q4_K_M.gguf Q4_K_M
  $P model-F16.gguf model-IQ2_M.gguf IQ2_M --imatrix imatrix.gguf
  $P model-F16.gguf Q4_K_M --dry-run             which tensor becomes what, and the size
  $P model-F16.gguf out.gguf Q4_K_M --tensor-type 'ffn_down=q6_k' --token-embedding-type q8_0

The source is best an F16, BF16 or F32 file; `rlx-convert` makes one from safetensors.  An importance
matrix (from llama-imatrix, GGUF or the older layout) makes every type below Q8_0 better, and those
marked with * need one.
";

/// Quantise a GGUF file: fewer bits per weight, the way llama-quantize does it
#[derive(Parser, Debug)]
#[command(version, override_usage = "rlx-quantize [OPTIONS] IN OUT TYPE\n       rlx-quantize [OPTIONS] --dry-run IN TYPE")]
struct Args {
    /// The GGUF file; of a split file, any part
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// Where to write, and the file type (see below)
    #[arg(value_name = "OUT TYPE", required = true, num_args = 1..=2)]
    rest: Vec<String>,
    /// Importance of columns, measured by llama-imatrix
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Use the importance matrix only for tensors with this in their name; may be repeated
    #[arg(long, value_name = "TEXT", requires = "imatrix", conflicts_with = "exclude_weights")]
    include_weights: Vec<String>,
    /// Do not use the importance matrix for tensors with this in their name; may be repeated
    #[arg(long, value_name = "TEXT", requires = "imatrix")]
    exclude_weights: Vec<String>,
    /// No mixes: every tensor that is quantised gets the one type
    #[arg(long)]
    pure: bool,
    /// Leave output.weight as it is
    #[arg(long)]
    leave_output_tensor: bool,
    /// Type of output.weight, such as q6_k or f16
    #[arg(long, value_name = "TYPE", value_parser = tensor_type)]
    output_tensor_type: Option<TensorType>,
    /// Type of the token embedding
    #[arg(long, value_name = "TYPE", value_parser = tensor_type)]
    token_embedding_type: Option<TensorType>,
    /// Type of the tensors whose names match a regular expression, such as 'attn_v=q8_0'; may be repeated, the first
    /// that matches counts
    #[arg(long, value_name = "REGEX=TYPE", value_parser = rule)]
    tensor_type: Vec<Rule>,
    /// A file of such rules, separated by spaces or lines
    #[arg(long, value_name = "FILE")]
    tensor_type_file: Option<PathBuf>,
    /// Quantise tensors that are quantised already; loses more than quantising the original
    #[arg(long)]
    allow_requantize: bool,
    /// Write as many parts as the source has, named OUT-00001-of-0000N.gguf
    #[arg(long)]
    keep_split: bool,
    /// Only say what would become of each tensor
    #[arg(long)]
    dry_run: bool,
    /// Threads; one per processor unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Say nothing but errors
    #[arg(long, short)]
    quiet: bool,
}

/// A type for the tensors that a pattern matches.
#[derive(Clone, Debug)]
struct Rule {
    text: String,
    pattern: Regex,
    ty: TensorType,
}

fn tensor_type(name: &str) -> Result<TensorType, String> {
    TensorType::from_name(name).ok_or_else(|| "not a tensor type; expected such as f16, q8_0, q6_k or iq4_xs".into())
}

fn rule(text: &str) -> Result<Rule, String> {
    let (pattern, ty) = text.rsplit_once('=').filter(|(p, _)| !p.is_empty()).ok_or("expected REGEX=TYPE, such as attn_v=q8_0")?;
    Ok(Rule { text: text.into(), pattern: Regex::new(pattern).map_err(|e| e.to_string())?, ty: tensor_type(ty)? })
}

/// `COPY` changes nothing but the order.
fn file_type(name: &str) -> anyhow::Result<Option<FileType>> {
    if name.eq_ignore_ascii_case("copy") {
        return Ok(None);
    }
    let known = || FileType::ALL.iter().map(|t| t.name()).collect::<Vec<_>>().join(", ");
    let unknown = || Usage(format!("{name} is not a file type; expected one of {} or COPY", known()));
    Ok(Some(FileType::from_name(name).ok_or_else(unknown)?))
}

/// The examples, and the list of file types.
fn help() -> String {
    let mut text = format!("{EXAMPLES}\nFile types, with bits per weight of a model like Llama 3 8B:\n");
    for t in FileType::ALL {
        let mark = if t.needs_importance() { "*" } else { " " };
        text += &format!("  {:<10}{mark}{:5.2}  {}\n", t.name(), t.bits_per_weight(), t.about());
    }
    text + "  COPY              every tensor as it is; joins a split file\n"
}

pub(super) fn command(program: &str) -> clap::Command {
    args::command::<Args>(program, &help())
}

/// Runs `rlx-quantize` on these arguments (without the program's name); returns the exit code.
///
/// # Errors
/// The file cannot be read, quantised like this, or written.
pub fn main(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<u8> {
    run("rlx-quantize", args)
}

pub(super) fn run(program: &str, args: impl IntoIterator<Item = OsString>) -> anyhow::Result<u8> {
    let args: Args = args::parse(program, &help(), args)?;
    let (out, ty) = match args.rest.as_slice() {
        [out, ty] => (Some(Path::new(out)), file_type(ty)?),
        [ty] => (None, file_type(ty)?),
        _ => bail!(Usage("expected IN OUT TYPE".into())),
    };
    if out.is_none() && !args.dry_run {
        bail!(Usage(format!("where to? expected IN OUT TYPE, found only {} and {}", args.input.display(), args.rest[0])));
    }
    let notes = Notes::new(args.quiet);
    let gguf = Gguf::open(&args.input).map_err(|e| match e {
        e @ GgufError::Magic { .. } => anyhow::Error::new(e).context("the source must be a GGUF file; rlx-convert makes one"),
        e => e.into(),
    })?;
    let options = options(&args, &gguf, ty.is_none(), &notes)?;
    let plan = Plan::new(&gguf, ty.unwrap_or(FileType::F32), &options)?;
    if args.dry_run {
        print_tensors(&plan)?;
    }
    for t in plan.tensors() {
        if let Some(wanted) = t.instead_of {
            notes.say(format_args!("{}: rows are no multiple of the block of {wanted}, so it becomes {}", t.source.name, t.ty));
        }
    }
    if let Some(out) = out.filter(|_| !args.dry_run)
        && write(&plan, &gguf, out, args.keep_split, &notes)? == CANCELLED
    {
        return Ok(CANCELLED);
    }
    if !args.quiet {
        print_summary(&plan)?;
    }
    Ok(0)
}

fn options(args: &Args, gguf: &Gguf, copy: bool, notes: &Notes) -> anyhow::Result<Options> {
    let importance = match &args.imatrix {
        None => None,
        Some(path) => {
            let mut matrix = ImportanceMatrix::open(path).context("the importance matrix cannot be read")?;
            let named = |name: &str, texts: &[String]| texts.iter().any(|t| name.contains(t.as_str()));
            matrix.retain(|name| args.include_weights.is_empty() || named(name, &args.include_weights));
            matrix.retain(|name| !named(name, &args.exclude_weights));
            notes.say(format_args!("importance of {} tensors from {}", matrix.len(), path.display()));
            Some(matrix)
        }
    };
    let mut rules = args.tensor_type.clone();
    if let Some(path) = &args.tensor_type_file {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        for word in text.split_whitespace() {
            rules.push(rule(word).map_err(|e| Usage(format!("{}: {word}: {e}", path.display())))?);
        }
    }
    Ok(Options {
        importance,
        copy,
        pure: args.pure,
        leave_output: args.leave_output_tensor,
        output: args.output_tensor_type,
        token_embedding: args.token_embedding_type,
        rules: rules.iter().map(|r| type_rule(r, gguf, notes)).collect::<anyhow::Result<_>>()?,
        allow_requantize: args.allow_requantize,
        threads: args.threads.map_or(0, usize::from),
    })
}

/// Matches the rule with the names of all tensors now: matching may fail, and a rule for no tensor may be a mistake.
fn type_rule(rule: &Rule, gguf: &Gguf, notes: &Notes) -> anyhow::Result<TypeRule> {
    let mut names = HashSet::new();
    for t in gguf.tensors() {
        if rule.pattern.is_match(&t.name).with_context(|| format!("--tensor-type {}", rule.text))? {
            names.insert(t.name.clone());
        }
    }
    if names.is_empty() {
        notes.say(format_args!("--tensor-type {}: no tensor has such a name", rule.text));
    }
    Ok(TypeRule::new(rule.ty, move |name| names.contains(name)))
}

/// The files to write, and which parts of the source they get.
fn targets(plan: &Plan<'_>, out: &Path, keep_split: bool) -> Vec<(PathBuf, Option<u32>)> {
    let parts = plan.parts();
    if !keep_split || parts == 1 {
        return vec![(out.to_owned(), None)];
    }
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let prefix = name.strip_suffix(".gguf").unwrap_or(&name);
    (0..parts).map(|i| (out.with_file_name(format!("{prefix}-{:05}-of-{parts:05}.gguf", i + 1)), Some(i))).collect()
}

fn write(plan: &Plan<'_>, gguf: &Gguf, out: &Path, keep_split: bool, notes: &Notes) -> anyhow::Result<u8> {
    let targets = targets(plan, out, keep_split);
    let sources: Vec<PathBuf> = gguf.paths().filter_map(|p| p.canonicalize().ok()).collect();
    for (path, _) in &targets {
        if path.is_dir() {
            bail!(Usage(format!("{} is a directory; expected the name of a file to write", path.display())));
        }
        if path.canonicalize().is_ok_and(|p| sources.contains(&p)) {
            bail!(Usage(format!("{} is the source; quantise to another file", path.display())));
        }
    }
    let (all, _) = plan.sizes();
    let (bar, answering) = (notes.bytes_bar("quantise"), Answering::start());
    let (mut written, mut before) = (vec![], 0);
    for (path, part) in targets {
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = temporary(dir).with_context(|| format!("cannot write into {}", dir.display()))?;
        let mut done = 0;
        let progress = |n| {
            done = before + n;
            bar.at(done, all);
            !answering.cancelled()
        };
        let sink = BufWriter::with_capacity(1 << 20, &file);
        let made = match part {
            None => plan.write(sink, progress),
            Some(part) => plan.write_part(part, sink, progress),
        };
        match made {
            Err(QuantizeError::Cancelled) => return Ok(CANCELLED),
            other => other.with_context(|| format!("cannot make {}", path.display()))?,
        }
        before = done;
        written.push((file, path));
    }
    bar.clear();
    for (file, path) in written {
        file.persist(&path).map_err(|e| e.error).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(0)
}

/// A file that becomes the output when it is complete, and goes away when that does not happen.
fn temporary(dir: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".rlx-quantize-").suffix(".partial");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file: the process's mask takes away from this.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(dir)
}

fn print_tensors(plan: &Plan<'_>) -> io::Result<()> {
    let out = &mut io::stdout().lock();
    for t in plan.tensors() {
        let shape = t.source.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" × ");
        let ty = if t.converts() { format!("{} → {}", t.source.ty, t.ty) } else { t.ty.to_string() };
        writeln!(out, "{:<40} {shape:>16}  {ty:<16} {:>9}", t.source.name, human_bytes(t.bytes))?;
    }
    writeln!(out)
}

/// Tensors and bytes per type, before and after.
fn print_summary(plan: &Plan<'_>) -> io::Result<()> {
    #[derive(Default)]
    struct Row {
        before: (u64, u64),
        after: (u64, u64),
    }
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let mut elements = 0;
    for t in plan.tensors() {
        elements += t.source.elements();
        let before = &mut rows.entry(t.source.ty.to_string()).or_default().before;
        *before = (before.0 + 1, before.1 + t.source.bytes);
        let after = &mut rows.entry(t.ty.to_string()).or_default().after;
        *after = (after.0 + 1, after.1 + t.bytes);
    }
    let cell = |(n, bytes): (u64, u64)| if n == 0 { "-".into() } else { format!("{n:>5} {:>9}", human_bytes(bytes)) };
    let out = &mut io::stdout().lock();
    writeln!(out, "{:<10} {:>15}    {:>15}", "type", "tensors before", "after")?;
    for (name, row) in rows {
        writeln!(out, "{name:<10} {:>15}    {:>15}", cell(row.before), cell(row.after))?;
    }
    let (before, after) = plan.sizes();
    let bits = |bytes: u64| bytes as f64 * 8.0 / elements.max(1) as f64;
    writeln!(out, "{:<10} {:>15}    {:>15}", "all", human_bytes(before), human_bytes(after))?;
    let ratio = bits(after);
    writeln!(out, "{} weights, {:.2} → {ratio:.2} bits per weight", human_count(elements), bits(before))
}
