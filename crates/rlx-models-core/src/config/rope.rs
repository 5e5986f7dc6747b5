//! Rotary position embedding as configurations spell it.
//!
//! Old layout: `rope_theta` beside `rope_scaling {type | rope_type, …}`.  New layout: `rope_parameters {rope_type,
//! rope_theta, …}`, or one such object per layer type.  Formulas and defaults follow transformers'
//! `modeling_rope_utils`; GGUF metadata follows llama.cpp (see `rope_gguf`).
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::decoder::keys;
use super::{ConfigDoc, ConfigError, ConfigSource, rope_gguf};
use crate::message::plain;
use rlx_ir::ops::rope::{Rope, RopeScaling, RopeStyle};

/// What the rotation depends on besides the configuration.
#[derive(Clone, PartialEq, Debug)]
pub struct RopeArgs<'a> {
    /// Elements per head.
    pub head_dim: usize,
    /// Context length the model is run at; `None` takes the trained one.  Decides between the two lists of longrope
    /// and the base of dynamic scaling.
    pub context: Option<usize>,
    /// The layer type, for models that rotate differently per type (`full_attention`, `sliding_attention`).
    pub layer_type: Option<&'a str>,
    /// The base where the configuration names none.
    pub default_theta: f64,
    /// Which elements form pairs, once names and transforms have been applied.
    pub style: RopeStyle,
}

impl RopeArgs<'_> {
    /// For heads of `head_dim` elements, at the trained context.
    pub fn new(head_dim: usize) -> Self {
        RopeArgs { head_dim, context: None, layer_type: None, default_theta: 10_000.0, style: RopeStyle::Half }
    }
}

const KNOWN: [&str; 8] = ["default", "linear", "dynamic", "llama3", "yarn", "longrope", "mrope", "proportional"];
const FACTOR: &str = "a finite number above 0";

/// The rotation that a configuration describes.
///
/// # Errors
/// Unknown types, missing or impossible parameters, and a configuration per layer type when `layer_type` is not one.
pub fn rope(src: &ConfigSource, args: &RopeArgs<'_>) -> Result<Rope, ConfigError> {
    match src {
        ConfigSource::Hf { text, .. } => from_doc(src, text, args),
        ConfigSource::Gguf { gguf, .. } => rope_gguf::from_metadata(src, gguf, args),
    }
}

/// One model's settings: the object that has the parameters, and the model's document for what is beside it.
struct Cx<'a> {
    src: &'a ConfigSource,
    /// The configuration of the language model.
    model: &'a ConfigDoc,
    /// `rope_parameters` or `rope_scaling`.
    params: Option<ConfigDoc>,
    args: &'a RopeArgs<'a>,
}

fn from_doc(src: &ConfigSource, model: &ConfigDoc, args: &RopeArgs<'_>) -> Result<Rope, ConfigError> {
    let local = matches!(args.layer_type, Some("sliding_attention")) && !model.has("rope_parameters");
    let local_theta = if local { first(model, &["rope_local_base_freq", "local_rope_theta"])? } else { None };
    // Local layers of the old layout have a base of their own and are never stretched.
    let params = if local_theta.is_some() { None } else { parameters(model, args)? };
    let cx = Cx { src, model, params, args };
    let kind = match &cx.params {
        Some(p) => match p.opt_string("rope_type")? {
            Some(kind) => kind,
            None => p.opt_string("type")?.unwrap_or_else(|| "default".into()),
        },
        None => "default".into(),
    };
    let theta = match (local_theta, cx.number("rope_theta")?) {
        (Some(t), _) | (None, Some(t)) => t,
        (None, None) => first(model, &["global_rope_theta", "rotary_emb_base", "rope_base"])?.unwrap_or(args.default_theta),
    };
    if theta <= 0.0 {
        return Err(cx.holder("rope_theta").invalid("rope_theta", FACTOR));
    }
    let fraction = cx.fraction()?;
    // Proportional scaling spreads its frequencies over the whole head; the fraction is part of it.
    let dim = if kind == "proportional" { args.head_dim } else { (args.head_dim as f64 * fraction) as usize };
    check_dim(src, dim, args.head_dim)?;
    let scaling = match kind.as_str() {
        "default" | "mrope" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: cx.factor()? },
        "dynamic" => cx.dynamic()?,
        "llama3" => cx.llama3()?,
        "yarn" => cx.yarn()?,
        "longrope" | "su" => cx.longrope(dim)?,
        "proportional" => RopeScaling::Proportional { fraction, factor: cx.optional_factor()?.unwrap_or(1.0) },
        _ => {
            let (doc, field) = (cx.params.as_ref().unwrap_or(model), "rope_type");
            return Err(doc.unknown(if doc.has(field) { field } else { "type" }, kind, KNOWN));
        }
    };
    let sections = cx.params.as_ref().map_or(Ok(None), |p| p.opt_usizes("mrope_section"))?.unwrap_or_default();
    if sections.len() > 1 && sections.iter().try_fold(0usize, |n, s| n.checked_add(*s)) != Some(dim / 2) {
        let doc = cx.params.as_ref().unwrap_or(model);
        return Err(doc.invalid("mrope_section", format_args!("sections that add up to {} frequencies", dim / 2)));
    }
    let interleave_sections = cx.params.as_ref().map_or(Ok(None), |p| p.opt_bool("mrope_interleaved"))?.unwrap_or(false);
    Ok(Rope { dim, theta, style: args.style, scaling, sections, interleave_sections })
}

/// The object with the parameters for the layer type.
fn parameters(model: &ConfigDoc, args: &RopeArgs<'_>) -> Result<Option<ConfigDoc>, ConfigError> {
    let Some(params) = model.opt_object("rope_parameters")? else {
        return model.opt_object("rope_scaling");
    };
    let is_object = |name: &str| params.raw(name).is_some_and(|v| v.starts_with('{'));
    if !params.keys().any(|k| is_object(&k)) {
        return Ok(Some(params));
    }
    match args.layer_type {
        Some(t) if is_object(t) => params.opt_object(t),
        other => {
            let some: Vec<String> = params.keys().filter(|k| is_object(k)).take(8).map(|k| plain(&k)).collect();
            Err(model.unknown("rope_parameters", other.unwrap_or("no layer type"), some.iter().map(String::as_str)))
        }
    }
}

/// Refuses dimensions that cannot rotate.
pub(super) fn check_dim(src: &ConfigSource, dim: usize, head_dim: usize) -> Result<(), ConfigError> {
    if dim == 0 || !dim.is_multiple_of(2) || dim > head_dim {
        let key = super::Key::new("partial_rotary_factor|rotary_dim|rotary_pct|rotary_emb_fraction", "rope.dimension_count");
        return Err(src.invalid(
            key,
            format_args!("{dim} rotating elements"),
            format_args!("an even number from 2 to the {head_dim} of a head"),
        ));
    }
    Ok(())
}

fn first(doc: &ConfigDoc, names: &[&str]) -> Result<Option<f64>, ConfigError> {
    names.iter().find(|n| doc.has(n)).map_or(Ok(None), |n| doc.opt_f64(n))
}

impl Cx<'_> {
    /// A parameter, from the object or from the model's document.
    fn number(&self, name: &str) -> Result<Option<f64>, ConfigError> {
        match self.params.as_ref().map_or(Ok(None), |p| p.opt_f64(name))? {
            Some(v) => Ok(Some(v)),
            None => self.model.opt_f64(name),
        }
    }

    /// The document that [`number`](Self::number) takes a parameter from.
    fn holder(&self, name: &str) -> &ConfigDoc {
        self.params.as_ref().filter(|p| p.has(name)).unwrap_or(self.model)
    }

    /// The document whose fields errors speak of.
    fn doc(&self) -> &ConfigDoc {
        self.params.as_ref().unwrap_or(self.model)
    }

    /// A parameter of the object alone.
    fn own(&self, name: &str) -> Result<Option<f64>, ConfigError> {
        self.doc().opt_f64(name)
    }

    fn positive(&self, name: &str) -> Result<f64, ConfigError> {
        match self.own(name)? {
            Some(v) if v > 0.0 => Ok(v),
            Some(_) => Err(self.doc().invalid(name, FACTOR)),
            None => Err(self.doc().missing(name, FACTOR)),
        }
    }

    fn optional_factor(&self) -> Result<Option<f64>, ConfigError> {
        if self.doc().has("factor") { self.positive("factor").map(Some) } else { Ok(None) }
    }

    fn factor(&self) -> Result<f64, ConfigError> {
        self.positive("factor")
    }

    /// The part of a head that rotates.
    fn fraction(&self) -> Result<f64, ConfigError> {
        const EXPECTED: &str = "a number above 0 and at most 1";
        if let Some(v) = self.number("partial_rotary_factor")? {
            let doc = self.holder("partial_rotary_factor");
            return if v > 0.0 && v <= 1.0 { Ok(v) } else { Err(doc.invalid("partial_rotary_factor", EXPECTED)) };
        }
        if let Some(dim) = self.model.opt_usize("rotary_dim")? {
            return Ok(dim as f64 / self.args.head_dim.max(1) as f64);
        }
        match first(self.model, &["rotary_pct", "rotary_emb_fraction"])? {
            Some(v) if v > 0.0 && v <= 1.0 => Ok(v),
            Some(_) => Err(self.model.invalid("rotary_pct", EXPECTED)),
            None => Ok(1.0),
        }
    }

    fn max_position(&self) -> Result<Option<usize>, ConfigError> {
        self.src.opt_usize(keys::CONTEXT)
    }

    /// Trained context length: beside the factor, in the model's document, or its longest position.
    fn original(&self) -> Result<usize, ConfigError> {
        const NAME: &str = "original_max_position_embeddings";
        let found = match self.doc().opt_usize(NAME)? {
            Some(v) => Some(v),
            None => match self.model.opt_usize(NAME)? {
                Some(v) => Some(v),
                None => self.max_position()?,
            },
        };
        match found {
            Some(v) if v > 1 => Ok(v),
            Some(_) => Err(self.doc().invalid(NAME, "at least 2")),
            None => Err(self.doc().missing(NAME, "the trained context length")),
        }
    }

    /// The factor, or how much longer than trained the longest position is.
    fn factor_or_ratio(&self, original: usize) -> Result<f64, ConfigError> {
        if let Some(f) = self.optional_factor()? {
            return Ok(f);
        }
        match self.max_position()? {
            Some(longest) if longest > 0 => Ok(longest as f64 / original as f64),
            _ => Err(self.doc().missing("factor", FACTOR)),
        }
    }

    fn dynamic(&self) -> Result<RopeScaling, ConfigError> {
        let original = self.original()?;
        Ok(RopeScaling::Dynamic { factor: self.factor()?, original, context: self.args.context.unwrap_or(original) })
    }

    fn llama3(&self) -> Result<RopeScaling, ConfigError> {
        let (low, high) = (self.positive("low_freq_factor")?, self.positive("high_freq_factor")?);
        if high <= low {
            return Err(self.doc().invalid("high_freq_factor", format_args!("more than low_freq_factor, {low}")));
        }
        Ok(RopeScaling::Llama3 { factor: self.factor()?, low, high, original: self.original()? })
    }

    fn yarn(&self) -> Result<RopeScaling, ConfigError> {
        let original = self.original()?;
        let factor = self.factor_or_ratio(original)?;
        let mscale = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let given = |v: Option<f64>| v.filter(|v| *v != 0.0);
        let attention_factor = match (self.own("attention_factor")?, given(self.own("mscale")?), given(self.own("mscale_all_dim")?)) {
            (Some(a), _, _) => a,
            (None, Some(m), Some(all)) => mscale(m) / mscale(all),
            _ => mscale(1.0),
        };
        if !attention_factor.is_finite() || attention_factor <= 0.0 {
            let name = if self.doc().has("attention_factor") { "attention_factor" } else { "mscale" };
            return Err(self.doc().invalid(name, FACTOR));
        }
        let (beta_fast, beta_slow) = (given(self.own("beta_fast")?).unwrap_or(32.0), given(self.own("beta_slow")?).unwrap_or(1.0));
        if beta_slow <= 0.0 || beta_fast < beta_slow {
            return Err(self.doc().invalid("beta_fast", format_args!("at least beta_slow, {beta_slow}, and both above 0")));
        }
        let truncate = self.doc().opt_bool("truncate")?.unwrap_or(true);
        Ok(RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate, attention_factor })
    }

    fn longrope(&self, dim: usize) -> Result<RopeScaling, ConfigError> {
        let original = self.original()?;
        let factor = self.factor_or_ratio(original)?;
        let context = match self.args.context {
            Some(c) => c,
            None => self.max_position()?.unwrap_or(original),
        };
        let name = if context > original { "long_factor" } else { "short_factor" };
        let expected = format!("{} finite numbers above 0, one per frequency", dim / 2);
        let factors = self.doc().opt_f64s(name)?.ok_or_else(|| self.doc().missing(name, &expected))?;
        if factors.len() != dim / 2 || factors.iter().any(|f| !f.is_finite() || *f <= 0.0) {
            return Err(self.doc().invalid(name, expected));
        }
        let attention_factor = match self.own("attention_factor")? {
            Some(a) if a > 0.0 => a,
            Some(_) => return Err(self.doc().invalid("attention_factor", FACTOR)),
            None => longrope_attention(factor, original),
        };
        Ok(RopeScaling::Longrope { factors, attention_factor })
    }
}

/// `sqrt(1 + ln factor / ln original)`, and 1 where nothing is stretched.
pub(super) fn longrope_attention(factor: f64, original: usize) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() }
}
