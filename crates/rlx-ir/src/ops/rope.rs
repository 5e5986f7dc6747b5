//! Rotary position embedding (Su et al. 2021) with the scalings of released checkpoints.

use super::OpDef;
use crate::{DType, Dim, Gen, Inferred, Samples, Tol, Type, TypeError, Val, rule};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// Which elements of a head form the pairs that rotate together.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum RopeStyle {
    /// `(i, i + dim/2)`: GPT-NeoX, and every Hugging Face checkpoint unless it says otherwise.
    #[default]
    Half,
    /// `(2i, 2i+1)`: GPT-J, and llama-architecture GGUF files.
    Interleaved,
}

/// How frequencies are stretched for contexts longer than trained; names and formulas as in
/// transformers' `modeling_rope_utils`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum RopeScaling {
    /// As trained.
    #[default]
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// Stretch.
        factor: f64,
    },
    /// The base grows with the context the model is run at.
    Dynamic {
        /// Stretch.
        factor: f64,
        /// Trained context length.
        original: usize,
        /// Context length the model is run at.
        context: usize,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, a smooth ramp between.
    Llama3 {
        /// Stretch.
        factor: f64,
        /// Wavelengths above `original / low` are divided.
        low: f64,
        /// Wavelengths below `original / high` are kept.
        high: f64,
        /// Trained context length.
        original: usize,
    },
    /// YaRN (Peng et al. 2023).
    Yarn {
        /// Stretch.
        factor: f64,
        /// Trained context length.
        original: usize,
        /// Rotations above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is divided.
        beta_slow: f64,
        /// Round the ends of the ramp to whole dimensions.
        truncate: bool,
        /// Factor on cosine and sine.
        attention_factor: f64,
    },
    /// LongRoPE (Ding et al. 2024): a divisor per frequency, one list up to the trained length and
    /// one beyond it.
    Longrope {
        /// Divisors of the list in use, one per frequency.
        factors: Vec<f64>,
        /// Factor on cosine and sine.
        attention_factor: f64,
    },
    /// Frequencies of a full-width rotation, all but the first `fraction` of them zero.
    Proportional {
        /// Part of the frequencies that rotate.
        fraction: f64,
        /// Stretch.
        factor: f64,
    },
}

/// Rotates pairs of elements of each head by `position × frequency`.
///
/// x: `[T,H,D]`, positions: integers `[T]`, or `[T,A]` with several axes (see `sections`) →
/// `[T,H,D]`.  The first `dim` elements of each head rotate, the rest pass.  Angles in f64.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rope {
    /// Elements per head that rotate; even.
    pub dim: usize,
    /// Base of the geometric series of frequencies.
    pub theta: f64,
    /// Which elements form pairs.
    #[serde(default)]
    pub style: RopeStyle,
    /// Stretching.
    #[serde(default)]
    pub scaling: RopeScaling,
    /// Frequencies per position axis (M-RoPE); empty with one axis.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sections: Vec<usize>,
    /// Axes alternate along the frequencies (Qwen3-VL) instead of taking consecutive runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interleave_sections: bool,
}

impl Rope {
    /// Plain rotation of all `dim` elements.
    pub fn new(dim: usize, theta: f64) -> Rope {
        Rope {
            dim,
            theta,
            style: RopeStyle::Half,
            scaling: RopeScaling::None,
            sections: vec![],
            interleave_sections: false,
        }
    }

    /// The `dim/2` frequencies in radians per position, and the factor on cosine and sine.
    pub fn frequencies(&self) -> (Vec<f64>, f64) {
        let (n, d) = (self.dim / 2, self.dim as f64);
        let plain = |theta: f64| (0..n).map(|i| theta.powf(-2.0 * i as f64 / d)).collect::<Vec<f64>>();
        let base = plain(self.theta);
        match &self.scaling {
            RopeScaling::None => (base, 1.0),
            RopeScaling::Linear { factor } => (base.iter().map(|f| f / factor).collect(), 1.0),
            RopeScaling::Dynamic { factor, original, context } => {
                let ratio = (*context).max(*original) as f64 / *original as f64;
                let grow = (factor * ratio - (factor - 1.0)).powf(d / (d - 2.0));
                (plain(self.theta * grow), 1.0)
            }
            RopeScaling::Llama3 { factor, low, high, original } => {
                let orig = *original as f64;
                let f = |f: &f64| {
                    let wavelength = 2.0 * PI / f;
                    if wavelength > orig / low {
                        f / factor
                    } else if wavelength < orig / high {
                        *f
                    } else {
                        let smooth = (orig / wavelength - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                (base.iter().map(f).collect(), 1.0)
            }
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate, attention_factor } => {
                let at = |rotations: f64| d * (*original as f64 / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
                let (mut low, mut high) = (at(*beta_fast), at(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(d - 1.0));
                if low == high {
                    high += 0.001;
                }
                let f = |(i, f): (usize, &f64)| {
                    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * ramp + f * (1.0 - ramp)
                };
                (base.iter().enumerate().map(f).collect(), *attention_factor)
            }
            RopeScaling::Longrope { factors, attention_factor } => {
                (base.iter().zip(factors).map(|(f, by)| f / by).collect(), *attention_factor)
            }
            RopeScaling::Proportional { fraction, factor } => {
                let keep = (fraction * d / 2.0) as usize;
                (base.iter().enumerate().map(|(i, f)| if i < keep { f / factor } else { 0.0 }).collect(), 1.0)
            }
        }
    }

    /// The position axis of frequency `i`.
    pub fn axis(&self, i: usize) -> usize {
        let n = self.sections.len();
        if n < 2 {
            return 0;
        }
        if self.interleave_sections {
            let a = i % n;
            return if a > 0 && i < n * self.sections[a] { a } else { 0 };
        }
        let mut end = 0;
        self.sections.iter().position(|s| {
            end += s;
            i < end
        })
        .unwrap_or(0)
    }
}

impl OpDef for Rope {
    const NAME: &'static str = "rope";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x, p] = rule::arity(ins)?;
        rule::float("x", x)?;
        let (_, [t, _, d]) = rule::ranked::<3>("x", x)?;
        let (_, ps) = rule::int("positions", p)?;
        let axes = self.sections.len().max(1);
        let want = if axes > 1 { vec![t.clone(), Dim::from(axes)] } else { vec![t.clone()] };
        if ps != want {
            return Err(rule::mismatch("positions", p, format!("integers {}", crate::Shape(want))));
        }
        if !self.dim.is_multiple_of(2) || self.dim == 0 || self.dim > rule::constant("head dimension", d)? {
            return Err(rule::mismatch("dim", self.dim, format!("even, above 0 and at most {d}")));
        }
        if let RopeScaling::Longrope { factors, .. } = &self.scaling
            && factors.len() != self.dim / 2
        {
            return Err(TypeError::Attribute(format!("{} longrope factors for {} frequencies", factors.len(), self.dim / 2)));
        }
        if self.sections.len() > 1 && self.sections.iter().fold(0, |a: usize, s| a.saturating_add(*s)) != self.dim / 2 {
            return Err(TypeError::Attribute(format!("sections {:?} do not add up to {} frequencies", self.sections, self.dim / 2)));
        }
        Ok(vec![x.clone()])
    }

    fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
        let (x, p, b) = (ins[0], ins[1], ins[0].builder());
        let (t, h, half) = (x.dim(0), x.dim(1), self.dim / 2);
        let (freqs, factor) = self.frequencies();
        let axes = self.sections.len().max(1);
        // [T,1,dim/2]: position of each frequency's axis × frequency.
        let axis: Vec<f64> = (0..half).flat_map(|i| (0..axes).map(move |a| (i, a))).map(|(i, a)| if self.axis(i) == a { freqs[i] } else { 0.0 }).collect();
        let select = b.constant(DType::F64, &[half, axes], axis);
        let angle = p.cast(DType::F64).reshape([t.clone(), Dim::from(axes)]).matmul_t(select).reshape([t.clone(), Dim::from(1), Dim::from(half)]);
        let (cos, sin) = ((angle.cos() * factor).cast(x.dtype()), (angle.sin() * factor).cast(x.dtype()));
        let pairs = |v: Val<'g>| match self.style {
            RopeStyle::Half => (v.slice(2, 0, half), v.slice(2, half, half)),
            RopeStyle::Interleaved => {
                let v = v.reshape([t.clone(), h.clone(), Dim::from(half), Dim::from(2)]);
                let part = |i: usize| v.slice(3, i, 1).reshape([t.clone(), h.clone(), Dim::from(half)]);
                (part(0), part(1))
            }
        };
        let (u, v) = pairs(x.slice(2, 0, self.dim));
        let (u, v) = (u * cos - v * sin, v * cos + u * sin);
        let rotated = match self.style {
            RopeStyle::Half => u.concat(2, &[v]),
            RopeStyle::Interleaved => {
                let one = |v: Val<'g>| v.reshape([t.clone(), h.clone(), Dim::from(half), Dim::from(1)]);
                one(u).concat(3, &[one(v)]).reshape([t.clone(), h.clone(), Dim::from(self.dim)])
            }
        };
        let rest = x.last_dim() - self.dim;
        let pass = rest.as_const() != Some(0);
        Some(vec![if pass { rotated.concat(2, &[x.slice(2, self.dim, rest)]) } else { rotated }])
    }

    fn samples(s: &mut Samples) {
        let tol = Tol { nmse: 1e-12, max: 3e-6 };
        let x = |d: usize| (Type::tensor(DType::F32, [5, 3, d]), Gen::Normal(1.0));
        let p = |hi: f64| (Type::tensor(DType::U32, [5]), Gen::Uniform(0.0, hi));
        let scalings = [
            RopeScaling::None,
            RopeScaling::Linear { factor: 4.0 },
            RopeScaling::Dynamic { factor: 2.0, original: 512, context: 2048 },
            RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192 },
            RopeScaling::Yarn { factor: 4.0, original: 16, beta_fast: 32.0, beta_slow: 1.0, truncate: true, attention_factor: 1.138 },
            RopeScaling::Longrope { factors: (0..10).map(|i| 1.0 + f64::from(i)).collect(), attention_factor: 1.19 },
            RopeScaling::Proportional { fraction: 0.5, factor: 1.0 },
        ];
        for scaling in scalings {
            s.op_with(Rope { scaling, ..Rope::new(20, 10000.0) }, &[x(20), p(40000.0)], tol);
        }
        s.op_with(Rope::new(16, 1e6), &[x(24), p(100.0)], tol);
        s.op_with(Rope { style: RopeStyle::Interleaved, ..Rope::new(16, 1e4) }, &[x(16), p(100.0)], tol);
        for interleave_sections in [false, true] {
            let r = Rope { sections: vec![4, 2, 2], interleave_sections, ..Rope::new(16, 1e4) };
            s.op_with(r, &[x(16), (Type::tensor(DType::I32, [5, 3]), Gen::Uniform(0.0, 64.0))], tol);
        }
    }
}
