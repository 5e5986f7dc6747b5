//! Symbolic dimensions: constants, symbols (`T`, `B`, `S`) and polynomials of them with whole
//! coefficients, plus floor division by a constant (lengths after strided convolutions).
//!
//! Every expression is kept in one canonical form, so structural equality is equality as
//! polynomials.  Coefficients saturate: an expression that overflows has no value in range.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul, Sub};
use std::sync::Arc;

/// The name of a symbol.
pub type Sym = Arc<str>;

#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
enum Atom {
    Sym(Sym),
    FloorDiv(Dim, u64),
}

/// `coefficient × product of atoms`, atoms sorted.
type Term = (Vec<Atom>, i64);

/// A dimension.  `Dim::from(64)`, `Dim::sym("T")`, `Dim::sym("T") * 2 + 1`.
///
/// Most dimensions are constants, and graphs hold many: they take 16 bytes and no memory beside them.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Dim(Repr);

#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
enum Repr {
    Const(i64),
    /// A sum of terms: sorted, no zero coefficient, not a constant alone.
    Sum(Arc<[Term]>),
}

/// Why a dimension has no value under some bindings.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DimError {
    /// The symbol has no value.
    #[error("symbol `{0}` is not bound")]
    Unbound(Sym),
    /// The value is negative or does not fit 63 bits.
    #[error("dimension `{0}` is out of range under these bindings")]
    OutOfRange(String),
}

/// Values of the symbols.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub struct Bindings(BTreeMap<Sym, u64>);

impl Bindings {
    /// No symbol bound.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `name`, replacing an earlier value.
    pub fn set(&mut self, name: &str, value: u64) {
        match self.0.get_mut(name) {
            Some(v) => *v = value,
            None => {
                self.0.insert(name.into(), value);
            }
        }
    }

    /// Chaining form of [`Bindings::set`].
    pub fn with(mut self, name: &str, value: u64) -> Self {
        self.set(name, value);
        self
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// All symbols and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Sym, u64)> {
        self.0.iter().map(|(k, v)| (k, *v))
    }
}

impl Dim {
    /// The symbol `name`.
    pub fn sym(name: impl Into<Sym>) -> Dim {
        Dim::atom(Atom::Sym(name.into()))
    }

    fn atom(atom: Atom) -> Dim {
        Dim(Repr::Sum(Arc::new([(vec![atom], 1)])))
    }

    /// The terms of a sum; none for a constant.
    fn sum(&self) -> &[Term] {
        match &self.0 {
            Repr::Const(_) => &[],
            Repr::Sum(terms) => terms,
        }
    }

    /// The value, when it has no symbols.
    pub fn as_const(&self) -> Option<usize> {
        match self.0 {
            Repr::Const(c) => usize::try_from(c).ok(),
            Repr::Sum(_) => None,
        }
    }

    /// The name, when it is a bare symbol.
    pub fn as_sym(&self) -> Option<&Sym> {
        match self.sum() {
            [(atoms, 1)] => match atoms.as_slice() {
                [Atom::Sym(s)] => Some(s),
                _ => None,
            },
            _ => None,
        }
    }

    /// `floor(self / by)`; `by` must not be 0.
    pub fn floor_div(&self, by: u64) -> Dim {
        if by == 1 {
            return self.clone();
        }
        if let Some(v) = self.as_const() {
            return Dim::from(v / (by.max(1) as usize));
        }
        // floor((c·A + B) / c) = A + floor(B / c): one form for equal lengths.
        let Ok(c) = i64::try_from(by) else { return Dim::atom(Atom::FloorDiv(self.clone(), by)) };
        let (mut whole, mut rest) = (vec![], vec![]);
        for (atoms, k) in self.terms() {
            let (q, r) = if atoms.is_empty() || k % c == 0 { (k.div_euclid(c), k.rem_euclid(c)) } else { (0, k) };
            whole.push((atoms.clone(), q));
            rest.push((atoms, r));
        }
        let (whole, rest) = (Dim::from_terms(whole), Dim::from_terms(rest));
        if rest.as_const().is_some() {
            return whole; // what is left is below c
        }
        whole + Dim::atom(Atom::FloorDiv(rest, by))
    }

    /// Number of terms of the expression.
    pub fn complexity(&self) -> usize {
        match &self.0 {
            Repr::Const(c) => usize::from(*c != 0),
            Repr::Sum(terms) => terms.len(),
        }
    }

    /// The value under `b`.
    pub fn eval(&self, b: &Bindings) -> Result<usize, DimError> {
        let v = self.eval_i128(b)?;
        usize::try_from(v).ok().filter(|v| *v < 1 << 62).ok_or_else(|| DimError::OutOfRange(self.to_string()))
    }

    fn eval_i128(&self, b: &Bindings) -> Result<i128, DimError> {
        if let Repr::Const(c) = self.0 {
            return Ok(c.into());
        }
        let range = || DimError::OutOfRange(self.to_string());
        let mut sum = 0i128;
        for (atoms, c) in self.sum() {
            let mut p = i128::from(*c);
            for a in atoms {
                let v = match a {
                    Atom::Sym(s) => i128::from(b.get(s).ok_or_else(|| DimError::Unbound(s.clone()))?),
                    Atom::FloorDiv(d, by) => d.eval_i128(b)?.div_euclid(i128::from(*by)),
                };
                p = p.checked_mul(v).ok_or_else(range)?;
            }
            sum = sum.checked_add(p).ok_or_else(range)?;
        }
        Ok(sum)
    }

    /// Adds every symbol of the expression to `out`.
    pub fn symbols(&self, out: &mut std::collections::BTreeSet<Sym>) {
        for a in self.sum().iter().flat_map(|t| &t.0) {
            match a {
                Atom::Sym(s) => {
                    out.insert(s.clone());
                }
                Atom::FloorDiv(d, _) => d.symbols(out),
            }
        }
    }

    /// All terms, a constant's too.
    fn terms(&self) -> Vec<Term> {
        match &self.0 {
            Repr::Const(0) => vec![],
            Repr::Const(c) => vec![(vec![], *c)],
            Repr::Sum(terms) => terms.to_vec(),
        }
    }

    fn from_terms(mut terms: Vec<Term>) -> Dim {
        for t in &mut terms {
            t.0.sort();
        }
        terms.sort();
        let mut out: Vec<Term> = Vec::with_capacity(terms.len());
        for (a, c) in terms {
            match out.last_mut() {
                Some(last) if last.0 == a => last.1 = last.1.saturating_add(c),
                _ => out.push((a, c)),
            }
        }
        out.retain(|t| t.1 != 0);
        match out.as_slice() {
            [] => Dim(Repr::Const(0)),
            [(atoms, c)] if atoms.is_empty() => Dim(Repr::Const(*c)),
            _ => Dim(Repr::Sum(out.into())),
        }
    }
}

impl From<usize> for Dim {
    fn from(v: usize) -> Dim {
        Dim(Repr::Const(i64::try_from(v).unwrap_or(i64::MAX)))
    }
}
impl From<i32> for Dim {
    fn from(v: i32) -> Dim {
        Dim::from(usize::try_from(v).unwrap_or(0))
    }
}
impl From<&str> for Dim {
    fn from(s: &str) -> Dim {
        Dim::sym(s)
    }
}
impl From<&Dim> for Dim {
    fn from(d: &Dim) -> Dim {
        d.clone()
    }
}

impl<D: Into<Dim>> Add<D> for Dim {
    type Output = Dim;
    fn add(self, rhs: D) -> Dim {
        let rhs = rhs.into();
        if let (Repr::Const(a), Repr::Const(b)) = (&self.0, &rhs.0) {
            return Dim(Repr::Const(a.saturating_add(*b)));
        }
        let mut terms = self.terms();
        terms.extend(rhs.terms());
        Dim::from_terms(terms)
    }
}
impl<D: Into<Dim>> Sub<D> for Dim {
    type Output = Dim;
    fn sub(self, rhs: D) -> Dim {
        self + rhs.into() * Dim(Repr::Const(-1))
    }
}
impl<D: Into<Dim>> Mul<D> for Dim {
    type Output = Dim;
    fn mul(self, rhs: D) -> Dim {
        let rhs = rhs.into();
        if let (Repr::Const(a), Repr::Const(b)) = (&self.0, &rhs.0) {
            return Dim(Repr::Const(a.saturating_mul(*b)));
        }
        let (left, right) = (self.terms(), rhs.terms());
        let mut terms = Vec::with_capacity(left.len() * right.len());
        for (a, c) in &left {
            for (b, d) in &right {
                terms.push((a.iter().chain(b).cloned().collect(), c.saturating_mul(*d)));
            }
        }
        Dim::from_terms(terms)
    }
}
impl std::iter::Product for Dim {
    fn product<I: Iterator<Item = Dim>>(iter: I) -> Dim {
        iter.fold(Dim::from(1), |a, b| a * b)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Repr::Const(c) = self.0 {
            return write!(f, "{c}");
        }
        // Symbols before the constant: `2*T+1`.
        let (consts, rest): (Vec<_>, Vec<_>) = self.sum().iter().partition(|t| t.0.is_empty());
        for (i, (atoms, c)) in rest.into_iter().chain(consts).enumerate() {
            if *c < 0 {
                f.write_str("-")?;
            } else if i > 0 {
                f.write_str("+")?;
            }
            let mut first = true;
            if *c != 1 && *c != -1 || atoms.is_empty() {
                write!(f, "{}", c.unsigned_abs())?;
                first = false;
            }
            for a in atoms {
                if !std::mem::take(&mut first) {
                    f.write_str("*")?;
                }
                match a {
                    Atom::Sym(s) => f.write_str(s)?,
                    Atom::FloorDiv(d, by) => write!(f, "floor({d}, {by})")?,
                }
            }
        }
        Ok(())
    }
}

impl serde::Serialize for Dim {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.as_const() {
            Some(v) => s.serialize_u64(v as u64),
            None => s.collect_str(self),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Dim {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(d)? {
            Form::Number(v) if v < 1 << 62 => Ok(Dim::from(v as usize)),
            Form::Number(v) => Err(D::Error::custom(format!("dimension {v} is out of range"))),
            Form::Text(s) => s.parse().map_err(D::Error::custom),
        }
    }
}

/// Deepest nesting of `floor(…)` the parser follows.
const MAX_DEPTH: usize = 32;

impl std::str::FromStr for Dim {
    type Err = String;

    fn from_str(s: &str) -> Result<Dim, String> {
        let mut p = Parser { s, at: 0 };
        let d = p.sum(0)?;
        match p.peek() {
            None => Ok(d),
            Some(c) => Err(format!("unexpected `{c}` at byte {} of dimension `{s}`", p.at)),
        }
    }
}

struct Parser<'a> {
    s: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        while self.s[self.at..].starts_with(' ') {
            self.at += 1;
        }
        self.s[self.at..].chars().next()
    }

    fn eat(&mut self, c: char) -> bool {
        let hit = self.peek() == Some(c);
        if hit {
            self.at += c.len_utf8();
        }
        hit
    }

    fn sum(&mut self, depth: usize) -> Result<Dim, String> {
        if depth > MAX_DEPTH {
            return Err(format!("dimension nests deeper than {MAX_DEPTH}"));
        }
        let negative = self.eat('-');
        let first = self.product(depth)?;
        let mut d = if negative { Dim::from(0) - first } else { first };
        loop {
            if self.eat('+') {
                d = d + self.product(depth)?;
            } else if self.eat('-') {
                d = d - self.product(depth)?;
            } else {
                return Ok(d);
            }
        }
    }

    fn product(&mut self, depth: usize) -> Result<Dim, String> {
        let mut d = self.atom(depth)?;
        while self.eat('*') {
            d = d * self.atom(depth)?;
        }
        Ok(d)
    }

    fn atom(&mut self, depth: usize) -> Result<Dim, String> {
        self.peek();
        let rest = &self.s[self.at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let word = &rest[..end];
        self.at += end;
        if word.is_empty() {
            return Err(format!("expected a number or a symbol at byte {} of dimension `{}`", self.at, self.s));
        }
        if word.as_bytes()[0].is_ascii_digit() {
            return match word.parse::<usize>() {
                Ok(v) if v < 1 << 62 => Ok(Dim::from(v)),
                _ => Err(format!("`{word}` is not a dimension (a whole number below 2^62)")),
            };
        }
        if word == "floor" && self.eat('(') {
            let d = self.sum(depth + 1)?;
            let by = if self.eat(',') { self.atom(depth + 1)?.as_const() } else { None };
            return match by {
                Some(by) if by > 0 && self.eat(')') => Ok(d.floor_div(by as u64)),
                _ => Err(format!("`floor` takes (expression, positive constant), in dimension `{}`", self.s)),
            };
        }
        Ok(Dim::sym(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dimension_is_two_words() {
        assert_eq!(size_of::<Dim>(), 16);
    }

    #[test]
    fn algebra_is_canonical_and_prints_back() {
        let t = Dim::sym("T");
        let e = t.clone() * 2 + 3 + Dim::sym("B") * Dim::sym("T") - 1;
        assert_eq!(e.to_string(), "B*T+2*T+2");
        assert_eq!(e.to_string().parse::<Dim>().unwrap(), e);
        assert_eq!(t.clone() + 1 - Dim::from(1), t);
        assert_eq!((t.clone() * 4).floor_div(4), t);
        assert_eq!((t.clone() + 160).floor_div(160), t.floor_div(160) + 1);
        assert_eq!((t.clone() * 8 + 11).floor_div(4), t.clone() * 2 + 2);
        assert_eq!((t.clone() - 1).floor_div(2).eval(&Bindings::new().with("T", 5)).unwrap(), 2);
        let f = (t.clone() + 3).floor_div(2);
        assert_eq!(f.to_string().parse::<Dim>().unwrap(), f);
        assert_eq!(f.eval(&Bindings::new().with("T", 6)).unwrap(), 4);
        assert!(matches!(e.eval(&Bindings::new()), Err(DimError::Unbound(_))));
        assert!(matches!((Dim::from(1) - t).eval(&Bindings::new().with("T", 3)), Err(DimError::OutOfRange(_))));
    }

    #[test]
    fn huge_coefficients_do_not_overflow() {
        let most = ((1u64 << 62) - 1).to_string();
        for s in [format!("{most}+{most}+{most}"), format!("{most}*{most}"), format!("0-{most}-{most}-{most}"), format!("{most}*4*T-0")] {
            let d: Dim = s.parse().unwrap();
            let d = (Dim::from(0) - d.clone()) - d;
            assert!(d.eval(&Bindings::new().with("T", 1 << 40)).is_err(), "{s}");
        }
        assert!(Dim::from(usize::MAX).eval(&Bindings::new()).is_err());
    }

    #[test]
    fn nonsense_is_an_error() {
        for s in ["", "T+", "2T", "floor(T)", "floor(T,0)", "99999999999999999999", "é", "T T"] {
            assert!(s.parse::<Dim>().is_err(), "{s}");
        }
        let deep = "floor(".repeat(100) + "T" + &",2)".repeat(100);
        assert!(deep.parse::<Dim>().is_err());
    }
}
