//! What the weights consist of: types, sizes, drafting heads, quantisation.

use super::page::{Page, count, first_of};
use rlx_cli::term::{human_bytes, human_count};
use rlx_core::weights::{Checkpoint, Quantization, TensorMeta};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Tensors, elements and bytes.
#[derive(Clone, Copy, Default)]
struct Tally {
    tensors: u64,
    parameters: u64,
    bytes: u64,
}

impl Tally {
    fn add(&mut self, t: &TensorMeta) {
        self.tensors += 1;
        self.parameters = self.parameters.saturating_add(t.elements());
        self.bytes = self.bytes.saturating_add(t.bytes);
    }

    /// Bits per weight; `None` where there are no weights.
    fn bits(&self) -> Option<f64> {
        (self.parameters > 0).then(|| self.bytes as f64 * 8.0 / self.parameters as f64)
    }

    fn json(&self) -> Value {
        let bits = self.bits().map(|b| (b * 1e4).round() / 1e4);
        json!({ "tensors": self.tensors, "parameters": self.parameters, "bytes": self.bytes, "bits_per_weight": bits })
    }

    fn row(&self, name: &str) -> String {
        let bits = self.bits().map(|b| format!("{b:.2}")).unwrap_or_default();
        format!("  {name:<11} {:>7} {:>11} {:>10} {bits:>12}", self.tensors, human_count(self.parameters), human_bytes(self.bytes))
    }
}

/// The weights by type.
pub(super) struct Tensors {
    all: Tally,
    types: BTreeMap<String, Tally>,
    mtp: Tally,
    mtp_names: Vec<String>,
    quantization: Option<Quantization>,
}

impl Tensors {
    pub fn of(c: &Checkpoint) -> Tensors {
        let (mut all, mut types, mut mtp) = (Tally::default(), BTreeMap::<String, Tally>::new(), Tally::default());
        for t in c.tensors() {
            all.add(t);
            types.entry(t.stored.to_string()).or_default().add(t);
        }
        c.mtp_tensors().for_each(|t| mtp.add(t));
        let mtp_names = c.mtp_tensors().map(|t| t.name.clone()).collect();
        Tensors { all, types, mtp, mtp_names, quantization: c.quantization().cloned() }
    }

    pub fn json(&self, object: &mut Map<String, Value>) {
        let types: Map<String, Value> = self.types.iter().map(|(k, t)| (k.clone(), t.json())).collect();
        if let Value::Object(all) = self.all.json() {
            object.extend(all);
        }
        object.insert("types".into(), types.into());
        let mut mtp = self.mtp.json();
        mtp["names"] = self.mtp_names.as_slice().into();
        object.insert("mtp".into(), mtp);
        let quantized = |q: &Quantization| json!({ "method": q.method, "weights": q.weights, "refused": q.refused });
        object.insert("quantization".into(), self.quantization.as_ref().map(quantized).into());
    }

    /// `13 MiB of tensors`.
    pub fn size(&self) -> String {
        format!("{} of tensors", human_bytes(self.all.bytes))
    }

    pub fn text(&self, page: &mut Page) {
        page.section("tensors       tensors  parameters       size  bits/weight");
        let mut types: Vec<_> = self.types.iter().collect();
        types.sort_by_key(|(_, t)| std::cmp::Reverse(t.bytes));
        for (name, tally) in &types {
            page.raw(&tally.row(name));
        }
        if types.len() > 1 {
            page.raw(&self.all.row("all"));
        }
        if let Some(q) = &self.quantization {
            let state = match &q.refused {
                Some(why) => format!("cannot be read: {why}"),
                None => format!("{} put together from their parts", count(q.weights, "weight")),
            };
            page.line("quantised", &format!("{}: {state}", q.method));
        }
        if !self.mtp_names.is_empty() {
            let size = human_bytes(self.mtp.bytes);
            let names = first_of(&self.mtp_names, 4);
            let n = count(self.mtp_names.len(), "tensor");
            page.line("MTP heads", &format!("{n}, {size}, which plain decoding does not use: {names}"));
        }
    }
}
