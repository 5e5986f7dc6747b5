//! Parity: a checkpoint against recorded reference outputs.
//!
//! A *parity directory* holds a checkpoint with `expected.safetensors` and `expected.json`, or
//! several GGUF files `<NAME>.gguf`, each with `<NAME>.expected.safetensors`, and one
//! `expected.json`.  Recorded are token ids, logits of a full prefill, the residual stream after
//! every layer and the outputs of its sub-modules by name, and a greedy continuation.  Deviations
//! are `max|a−b| / max|b|`; each may be at most 20 × what plain float32 costs the reference itself.

use crate::{GenerateOptions, LmBuilder, LmError, LmRunner, Result};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};

/// A recorded tensor.
struct Recorded {
    shape: Vec<usize>,
    data: Vec<f64>,
}

/// How far one tensor is from its record.
#[derive(Clone, PartialEq, Debug)]
pub struct Deviation {
    /// Name in the record.
    pub name: String,
    /// `max|a−b| / max|b|`; infinite when sizes differ or a value is not finite.
    pub relative: f64,
    /// What is allowed.
    pub tolerance: f64,
}

impl Deviation {
    /// Within tolerance.
    pub fn ok(&self) -> bool {
        self.relative <= self.tolerance
    }
}

/// A greedy continuation against its record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tokens {
    /// Name in the record.
    pub name: String,
    /// Tokens that agree before the first that does not.
    pub same: usize,
    /// Tokens recorded.
    pub all: usize,
}

/// The result for one checkpoint.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// The checkpoint.
    pub path: PathBuf,
    /// Tensors in the order the model computes them.
    pub tensors: Vec<Deviation>,
    /// Greedy continuations.
    pub tokens: Vec<Tokens>,
}

impl Report {
    /// Everything within tolerance.
    pub fn ok(&self) -> bool {
        !self.tensors.is_empty() && self.tensors.iter().all(Deviation::ok) && self.tokens.iter().all(|t| t.same == t.all)
    }

    /// The first tensor, in the order of computation, that is outside.
    pub fn first_departure(&self) -> Option<&Deviation> {
        self.tensors.iter().find(|t| !t.ok())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.path.display())?;
        for t in &self.tensors {
            let verdict = if t.ok() { "ok" } else { "OUTSIDE" };
            writeln!(f, "  {:<28} deviation {:>9.2e}  tolerance {:>9.2e}  {verdict}", t.name, t.relative, t.tolerance)?;
        }
        for t in &self.tokens {
            let verdict = if t.same == t.all { "ok" } else { "DIFFERENT" };
            writeln!(f, "  {:<28} {}/{} tokens equal  {verdict}", t.name, t.same, t.all)?;
        }
        match self.first_departure() {
            Some(t) => writeln!(f, "  first departure: {}", t.name),
            None => Ok(()),
        }
    }
}

/// The checkpoints of a parity directory with their records.
pub fn cases(dir: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let io = |source| LmError::Io { file: dir.into(), source };
    let whole = dir.join("expected.safetensors");
    if whole.is_file() {
        return Ok(vec![(dir.into(), whole)]);
    }
    let mut found = vec![];
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let record = path.with_extension("expected.safetensors");
        if path.extension().is_some_and(|e| e == "gguf") && record.is_file() {
            found.push((path, record));
        }
    }
    found.sort();
    if found.is_empty() {
        let why = "expected expected.safetensors beside a checkpoint, or NAME.gguf with NAME.expected.safetensors".into();
        return Err(LmError::Parity { file: dir.into(), why });
    }
    Ok(found)
}

/// Runs one case.  `builder` says family, device and profile; `weights` and `record` come from
/// [`cases`].
pub fn run(builder: LmBuilder, weights: &Path, record: &Path) -> Result<Report> {
    let record = Record::open(weights, record)?;
    let mut runner = builder.weights(weights).taps(true).sequences(2).build()?;
    let mut report = Report { path: weights.into(), tensors: vec![], tokens: vec![] };
    record.prefill(&mut runner, &mut report)?;
    record.padded(&mut runner, &mut report)?;
    record.greedy(&mut runner, &mut report)?;
    record.texts(&mut runner, &mut report)?;
    Ok(report)
}

struct Record {
    file: PathBuf,
    bytes: Vec<u8>,
    json: Value,
    /// Name of the checkpoint's entry under `files`, for GGUF.
    entry: Option<String>,
}

impl Record {
    fn open(weights: &Path, file: &Path) -> Result<Record> {
        let read = |p: &Path| std::fs::read(p).map_err(|source| LmError::Io { file: p.into(), source });
        let dir = file.parent().unwrap_or(Path::new("."));
        let json = dir.join("expected.json");
        let text = read(&json)?;
        let json = serde_json::from_slice(&text).map_err(|e| LmError::Parity { file: json, why: e.to_string() })?;
        let entry = weights.is_file().then(|| weights.file_name().unwrap_or_default().to_string_lossy().into_owned());
        Ok(Record { file: file.into(), bytes: read(file)?, json, entry })
    }

    fn bad(&self, why: impl Into<String>) -> LmError {
        LmError::Parity { file: self.file.clone(), why: why.into() }
    }

    fn tensors(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes).map_err(|e| self.bad(e.to_string()))
    }

    /// A recorded tensor, if there is one of that name.
    fn get(&self, name: &str) -> Result<Option<Recorded>> {
        let all = self.tensors()?;
        let Ok(t) = all.tensor(name) else { return Ok(None) };
        let data = match t.dtype() {
            Dtype::F32 => t.data().chunks_exact(4).map(|c| f64::from(f32::from_le_bytes([c[0], c[1], c[2], c[3]]))).collect(),
            Dtype::I64 => {
                t.data().chunks_exact(8).map(|c| i64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]) as f64).collect()
            }
            other => return Err(self.bad(format!("{name} has type {other:?}; expected F32 or I64"))),
        };
        Ok(Some(Recorded { shape: t.shape().to_vec(), data }))
    }

    fn ids(&self, name: &str) -> Result<Option<Recorded>> {
        self.get(name)
    }

    /// 20 × the deviation of a float32 run of the reference (the record's own suggestion), for the
    /// tensor of that name or the largest of all.
    fn tolerance(&self, name: &str) -> f64 {
        let root = match &self.entry {
            Some(file) => &self.json["files"][file],
            None => &self.json,
        };
        let hint = root["tolerance_hint"]["float32_max_abs_over_ref_max_abs"].as_f64();
        let of = |d: &Value| Some(d["max_abs"].as_f64()? / d["ref_max_abs"].as_f64()?);
        let all = root["deviation_float32"].as_object();
        let worst = all.map(|m| m.values().filter_map(of).fold(0.0, f64::max));
        let own = of(&root["deviation_float32"][name]);
        20.0 * own.into_iter().chain(hint).chain(worst).fold(0.0, f64::max)
    }

    fn compare(&self, report: &mut Report, name: &str, got: &[f32], want: &[f64]) {
        let scale = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let mut worst = if got.len() == want.len() { 0.0f64 } else { f64::INFINITY };
        for (a, b) in got.iter().zip(want) {
            let d = (f64::from(*a) - b).abs();
            worst = if d.is_nan() { f64::INFINITY } else { worst.max(d) };
        }
        let relative = worst / scale.max(f64::MIN_POSITIVE);
        report.tensors.push(Deviation { name: name.into(), relative, tolerance: self.tolerance(name) });
    }

    /// `input_ids`, all rows as one ragged batch: logits of each; then row 0 alone: intermediates.
    fn prefill(&self, runner: &mut LmRunner, report: &mut Report) -> Result<()> {
        let (Some(ids), Some(logits)) = (self.ids("input_ids")?, self.get("logits")?) else {
            return Err(self.bad("input_ids or logits is missing"));
        };
        let rows: Vec<Vec<u32>> = ids.data.chunks(ids.shape.last().copied().unwrap_or(1).max(1)).map(tokens).collect();
        let alone = runner.open()?;
        runner.score(&[(alone, &rows[0])])?;
        let tapped = runner.tapped()?;
        runner.close(alone)?;
        // Order of computation: the residual stream before each layer, its parts, the stream after.
        for (name, got) in &tapped {
            if let Some(want) = self.get(name)? {
                self.compare(report, name, got, &want.data);
            }
        }
        let per_row = logits.data.len() / rows.len().max(1);
        for (pair, want) in rows.chunks(2).zip(logits.data.chunks(2 * per_row)) {
            let seqs = pair.iter().map(|_| runner.open()).collect::<Result<Vec<_>>>()?;
            let parts: Vec<_> = seqs.iter().copied().zip(pair.iter().map(Vec::as_slice)).collect();
            let got = runner.score(&parts)?.to_vec();
            self.compare(report, "logits", &got, want);
            seqs.into_iter().try_for_each(|s| runner.close(s))?;
        }
        Ok(())
    }

    /// The left-padded rows, which ragged sequences run without their padding.
    fn padded(&self, runner: &mut LmRunner, report: &mut Report) -> Result<()> {
        let name = |n: &str| format!("padded.{n}");
        let (Some(ids), Some(mask), Some(logits)) =
            (self.ids(&name("input_ids"))?, self.ids(&name("attention_mask"))?, self.get(&name("logits"))?)
        else {
            return Ok(());
        };
        let n = ids.shape.last().copied().unwrap_or(1).max(1);
        let vocab = logits.data.len() / ids.data.len().max(1);
        let (mut got, mut want) = (vec![], vec![]);
        for (i, (row, mask)) in ids.data.chunks(n).zip(mask.data.chunks(n)).enumerate() {
            let first = mask.iter().position(|m| *m != 0.0).unwrap_or(n);
            let last = mask.iter().rposition(|m| *m != 0.0).map_or(first, |l| l + 1);
            let seq = runner.open()?;
            got.extend_from_slice(runner.score(&[(seq, &tokens(&row[first..last]))])?);
            runner.close(seq)?;
            want.extend_from_slice(&logits.data[(i * n + first) * vocab..(i * n + last) * vocab]);
        }
        self.compare(report, &name("logits"), &got, &want);
        Ok(())
    }

    /// Greedy decoding, and the logits that decided each token.
    fn greedy(&self, runner: &mut LmRunner, report: &mut Report) -> Result<()> {
        let (Some(prompt), Some(want)) = (self.ids("greedy.prompt")?, self.ids("greedy.tokens")?) else { return Ok(()) };
        let (prompt, want) = (tokens(&prompt.data), tokens(&want.data));
        let recorded = self.get("greedy.logits")?;
        let seq = runner.open()?;
        let mut logits = runner.prefill(seq, &prompt, |_, _| {})?.to_vec();
        let (mut all, mut got) = (vec![], vec![]);
        for (i, next) in want.iter().enumerate() {
            got.push(argmax(&logits));
            all.extend_from_slice(&logits);
            // Feed what was recorded, so that one close call does not spoil every later comparison.
            if i + 1 < want.len() {
                logits = runner.step(&[(seq, &[*next])])?.to_vec();
            }
        }
        runner.close(seq)?;
        if let Some(r) = recorded {
            self.compare(report, "greedy.logits", &all, &r.data);
        }
        report.tokens.push(count("greedy.tokens", &got, &want));
        Ok(())
    }

    /// Prompts given as text: tokenizer, template and continuation.
    fn texts(&self, runner: &mut LmRunner, report: &mut Report) -> Result<()> {
        let cases = match &self.entry {
            Some(_) => return Ok(()),
            None => self.json["text"]["cases"].as_array().cloned().unwrap_or_default(),
        };
        for (i, case) in cases.iter().enumerate() {
            let (Some(ids), Some(want)) = (self.ids(&format!("text.{i}.ids"))?, self.ids(&format!("text.{i}.tokens"))?) else { continue };
            let prompt = case["prompt"].as_str().ok_or_else(|| self.bad(format!("text case {i} has no prompt")))?;
            let special = case["add_special_tokens"].as_bool().unwrap_or(true);
            let encoded = runner.tokenizer()?.encode(prompt, special)?;
            report.tokens.push(count(&format!("text.{i}.ids"), &encoded, &tokens(&ids.data)));
            if let Some(messages) = case["messages"].as_array() {
                let messages = messages.iter().map(|m| serde_json::from_value(m.clone()));
                let messages = messages.collect::<Result<Vec<_>, _>>().map_err(|e| self.bad(e.to_string()))?;
                let chat = crate::Chat { messages, ..crate::Chat::default() };
                let rendered = chat.prompt_ids(runner)?;
                report.tokens.push(count(&format!("text.{i}.template"), &rendered, &tokens(&ids.data)));
            }
            let want = tokens(&want.data);
            let options = GenerateOptions { max_tokens: want.len(), ignore_eos: true, skip_special: false, ..GenerateOptions::default() };
            runner.forget()?;
            let done = runner.generate_text(&encoded, &options, &mut |_, _| {}, &mut |_| true)?;
            runner.forget()?;
            report.tokens.push(count(&format!("text.{i}.tokens"), &done.tokens, &want));
        }
        Ok(())
    }
}

fn tokens(data: &[f64]) -> Vec<u32> {
    data.iter().map(|v| *v as u32).collect()
}

/// The largest logit; the lowest id of equal ones.
fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (i, v)| if *v > b.1 { (i, *v) } else { b });
    best.0 as u32
}

fn count(name: &str, got: &[u32], want: &[u32]) -> Tokens {
    let same = got.iter().zip(want).take_while(|(a, b)| a == b).count();
    // A longer answer is as different as a shorter one.
    let same = if got.len() > want.len() { same.min(want.len().saturating_sub(1)) } else { same };
    Tokens { name: name.into(), same, all: want.len() }
}
