//! Texts that are no graphs, or graphs that cannot be: an error each, with a valid twin, and never
//! a panic.

use proptest::prelude::*;
use rlx_bounds::{Counting, bounded};
use rlx_ir::{Op, text, verify::verify};
use std::fmt::Write;
use std::sync::OnceLock;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Parses and verifies under the bounds; the first complaint, with its place when the text is no graph.
fn check(text: &str) -> Result<(), String> {
    bounded(text.len(), || {
        let g = text::parse(text).map_err(|e| e.to_string())?;
        verify(&g).map_err(|e| e.join("\n"))
    })
}

fn func(body: &str) -> String {
    format!("func @f(%0 x: f32[T,4]) {{\n{body}\n}}\n")
}

/// `good` passes; `bad` fails with a message that contains `why`.
fn twins(good: &str, bad: &str, why: &str) {
    assert_eq!(check(&func(good)), Ok(()), "{good}");
    let found = check(&func(bad)).expect_err(bad);
    assert!(found.contains(why), "{found}");
}

#[test]
fn ir_41_a_reference_forward_or_in_a_circle_is_refused() {
    let good = "  %1 = unary %0 {op=\"exp\"} : f32[T,4]\n  %2 = unary %1 {op=\"exp\"} : f32[T,4]\n  return %2 y";
    twins(good, "  %1 = unary %2 {op=\"exp\"} : f32[T,4]\n  %2 = unary %0 {op=\"exp\"} : f32[T,4]\n  return %2 y", "%2 is used before");
    twins(good, "  %1 = unary %2 {op=\"exp\"} : f32[T,4]\n  %2 = unary %1 {op=\"exp\"} : f32[T,4]\n  return %2 y", "%2 is used before");
    twins(good, "  %1 = unary %1 {op=\"exp\"} : f32[T,4]\n  return %1 y", "%1 is used before");
    twins(good, "  return %9 y", "%9 is used before");
}

#[test]
fn ir_41_a_number_defined_twice_is_refused() {
    let good = "  %1 = unary %0 {op=\"exp\"} : f32[T,4]\n  %2 = unary %0 {op=\"exp\"} : f32[T,4]";
    twins(good, "  %1 = unary %0 {op=\"exp\"} : f32[T,4]\n  %1 = unary %0 {op=\"exp\"} : f32[T,4]", "%1 is defined twice");
    twins(good, "  %0 = unary %0 {op=\"exp\"} : f32[T,4]", "%0 is defined twice");
    twins("  param %1 w: f32[4]\n  param %2 v: f32[4]", "  param %1 w: f32[4]\n  param %2 w: f32[4]", "w is declared twice");
    let header = "func @f(%0 x: f32[T], %0 y: f32[T]) {\n}\n";
    assert!(check(header).unwrap_err().contains("%0 is defined twice"));
    assert_eq!(check(&header.replace("%0 y", "%1 y")), Ok(()));
}

#[test]
fn ir_41_an_unknown_op_and_wrong_attributes_are_refused() {
    let good = "  %1 = softmax %0 : f32[T,4]";
    twins(good, "  %1 = sofmax %0 : f32[T,4]", "nearest: softmax");
    twins("  %1 = unary %0 {op=\"exp\"} : f32[T,4]", "  %1 = unary %0 {op=\"expp\"} : f32[T,4]", "unary");
    twins("  %1 = unary %0 {op=\"exp\"} : f32[T,4]", "  %1 = unary %0 : f32[T,4]", "op");
    twins("  %1 = unary %0 {op=\"exp\"} : f32[T,4]", "  %1 = unary %0 {op=\"exp\", by=2} : f32[T,4]", "unknown field `by`");
    twins("  %1 = unary %0 {op=\"exp\"} : f32[T,4]", "  %1 = unary %0 {op=\"exp\", op=\"exp\"} : f32[T,4]", "duplicate field `op`");
    twins("  %1 = softmax %0 : f32[T,4]", "  %1 = softmax %0 {eps=1} : f32[T,4]", "unknown field `eps`");
    twins("  %1, %2 = top_k %0 {k=2} : f32[T,2]; u32[T,2]", "  %1, %2 = top_k %0 {k=-2} : f32[T,2]; u32[T,2]", "top_k");
}

#[test]
fn ir_41_a_wrong_arity_is_refused() {
    twins("  %1 = softmax %0 : f32[T,4]", "  %1 = softmax %0, %0 : f32[T,4]", "takes 1 inputs, got 2");
    twins("  %1 = binary %0, %0 {op=\"add\"} : f32[T,4]", "  %1 = binary %0 {op=\"add\"} : f32[T,4]", "takes 2 inputs, got 1");
    twins("  %1 = softmax %0 : f32[T,4]", "  %1, %2 = softmax %0 : f32[T,4]", "2 results and 1 types");
    twins("  %1 = softmax %0 : f32[T,4]", "  %1, %2 = softmax %0 : f32[T,4]; f32[T,4]", "has 2 outputs");
    twins("  %1, %2 = sort %0 {descending=true} : f32[T,4]; u32[T,4]", "  %1 = sort %0 {descending=true} : f32[T,4]", "has 1 outputs");
}

#[test]
fn ir_41_dimensions_that_contradict_are_refused() {
    twins("  %1 = softmax %0 : f32[T,4]", "  %1 = softmax %0 : f32[T,5]", "the op gives f32[T,4]");
    twins("  %1 = reshape %0 {shape=[\"4*T\"]} : f32[4*T]", "  %1 = reshape %0 {shape=[\"5*T\"]} : f32[5*T]", "as many elements");
    twins(
        "  %1 = binary %0, %0 {op=\"add\"} : f32[T,4]",
        "  %1 = iota {dtype=\"f32\", len=5} : f32[5]\n  %2 = binary %0, %1 {op=\"add\"} : f32[T,4]",
        "broadcast",
    );
}

#[test]
fn ir_41_a_symbol_that_no_input_binds_is_refused() {
    twins("  %1 = iota {dtype=\"f32\", len=\"T\"} : f32[T]", "  %1 = iota {dtype=\"f32\", len=\"U\"} : f32[U]", "symbol U is used");
    twins("  param %1 w: f32[4]", "  param %1 w: f32[N]", "symbol N is used");
}

#[test]
fn ir_41_two_writers_to_one_state_are_refused() {
    let with = |tail: &str| {
        format!(
            "func @f(%0 seg: segments[S,T], %1 x: f32[S,4]) {{\n  state %2 h: state f32[4]\n  state %3 g: state f32[4]\n  %4 = state_write %2, %1, %0 : state f32[4]\n  %5 = state_write %3, %1, %0 : state f32[4]\n  update %2 = %4\n{tail}\n}}\n"
        )
    };
    assert_eq!(check(&with("  update %3 = %5")), Ok(()));
    assert!(check(&with("  update %2 = %5")).unwrap_err().contains("state h has two writers"));
    assert!(check(&with("  update %1 = %5")).unwrap_err().contains("no state"));
}

/// `n` nodes in a row.
fn chain(n: usize) -> String {
    let mut s = String::from("func @f(%0 x: f32[T]) {\n");
    for i in 0..n {
        let _ = writeln!(s, "  %{} = softmax %{i} : f32[T]", i + 1);
    }
    let _ = write!(s, "  return %{n} y\n}}\n");
    s
}

#[test]
fn ir_41_a_chain_of_a_million_nodes_needs_no_stack() {
    let n = 1_000_000;
    let s = chain(n);
    let run = move || {
        let mut cyclic = bounded(s.len(), || text::parse(&s).unwrap());
        assert_eq!(cyclic.nodes.len(), n);
        bounded(s.len(), || verify(&cyclic).unwrap());
        cyclic.nodes[0].ins[0] = cyclic.outputs[0].1;
        assert!(bounded(s.len(), || verify(&cyclic).unwrap_err())[0].contains("used before"));
    };
    std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap().join().unwrap();
}

#[test]
fn ir_41_errors_name_line_and_byte_and_stay_short() {
    let good = chain(3);
    assert_eq!(check(&good), Ok(()));
    let bad = good.replace("%3 = softmax %2", "%3 = softmax %7");
    let at = bad.find("  %3 =").unwrap();
    assert_eq!(check(&bad).unwrap_err(), format!("line 4, byte {at}: %7 is used before it is defined"));
    let long = good.replace("f32[T]\n  %3", &format!("{}\n  %3", "x".repeat(1 << 19)));
    assert!(check(&long).unwrap_err().len() < 1500);
    assert!(check(&good[..good.len() - 2]).unwrap_err().contains(&format!("byte {}", good.len() - 2)));
}

#[test]
fn ir_41_many_mistakes_are_counted_not_listed() {
    let text = func(&"  %NN = softmax %0 : f32[T,5]\n".repeat(5000));
    let mut numbered = String::new();
    for (i, part) in text.split("NN").enumerate() {
        let _ = write!(numbered, "{}{part}", if i > 0 { i.to_string() } else { String::new() });
    }
    let found = check(&numbered).unwrap_err();
    assert!(found.lines().count() == 101 && found.ends_with("and 4900 more"), "{found}");
    assert_eq!(check(&numbered.replace("f32[T,5]", "f32[T,4]")), Ok(()));
}

#[test]
fn ir_41_a_hundred_thousand_parameters_are_not_compared_with_each_other() {
    let mut params = String::new();
    for i in 1..=100_000 {
        let _ = writeln!(params, "  param %{i} layers.{i}.w: f32[4]");
    }
    assert_eq!(check(&func(&params)), Ok(()));
    let twice = format!("{params}  param %100001 layers.7.w: f32[4]");
    assert!(check(&func(&twice)).unwrap_err().contains("layers.7.w is declared twice"));
}

fn texts() -> &'static [String] {
    static TEXTS: OnceLock<Vec<String>> = OnceLock::new();
    TEXTS.get_or_init(|| Op::all_samples().cases.iter().map(|c| c.graph.to_string()).collect())
}

/// What to do to a text, and where (as a fraction of its length).
#[derive(Clone, Debug)]
enum Damage {
    DeleteBytes(f64, usize),
    RepeatBytes(f64, usize),
    Replace(f64, &'static str),
    DeleteLine(f64),
    RepeatLine(f64),
    SwapLines(f64, f64),
    Number(f64, &'static str),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = || 0.0..1.0f64;
    let bits = prop::sample::select(vec![
        "%", "{", "}", "[", "]", ",", ":", "=", "-", "\"", "*", "(", ")", "é", "\n", "floor(", "T", " ", "1e999", "null", "e",
    ]);
    let numbers = prop::sample::select(vec![
        "0",
        "-1",
        "1",
        "7",
        "65536",
        "4294967295",
        "4611686018427387903",
        "9223372036854775807",
        "18446744073709551615",
        "1e400",
        "0.5",
    ]);
    prop_oneof![
        (at(), 1..9usize).prop_map(|(a, n)| Damage::DeleteBytes(a, n)),
        (at(), 1..9usize).prop_map(|(a, n)| Damage::RepeatBytes(a, n)),
        (at(), bits).prop_map(|(a, s)| Damage::Replace(a, s)),
        at().prop_map(Damage::DeleteLine),
        at().prop_map(Damage::RepeatLine),
        (at(), at()).prop_map(|(a, b)| Damage::SwapLines(a, b)),
        (at(), numbers).prop_map(|(a, s)| Damage::Number(a, s)),
    ]
}

fn apply(s: &str, d: &Damage) -> String {
    let chars: Vec<char> = s.chars().collect();
    let mut lines: Vec<&str> = s.lines().collect();
    let index = |f: f64, n: usize| ((f * n as f64) as usize).min(n.saturating_sub(1));
    let splice = |from: usize, to: usize, with: &str| {
        let (from, to) = (from.min(chars.len()), to.min(chars.len()));
        chars[..from].iter().copied().chain(with.chars()).chain(chars[to..].iter().copied()).collect::<String>()
    };
    match *d {
        Damage::DeleteBytes(a, n) => splice(index(a, chars.len()), index(a, chars.len()) + n, ""),
        Damage::RepeatBytes(a, n) => {
            let from = index(a, chars.len());
            let piece: String = chars[from..(from + n).min(chars.len())].iter().collect();
            splice(from, from, &piece)
        }
        Damage::Replace(a, with) => splice(index(a, chars.len()), index(a, chars.len()) + 1, with),
        Damage::DeleteLine(a) if !lines.is_empty() => {
            lines.remove(index(a, lines.len()));
            lines.join("\n")
        }
        Damage::RepeatLine(a) if !lines.is_empty() => {
            let i = index(a, lines.len());
            lines.insert(i, lines[i]);
            lines.join("\n")
        }
        Damage::SwapLines(a, b) if !lines.is_empty() => {
            let n = lines.len();
            lines.swap(index(a, n), index(b, n));
            lines.join("\n")
        }
        // The next whole number becomes another one.
        Damage::Number(a, with) => {
            let start = (index(a, chars.len())..chars.len()).find(|i| chars[*i].is_ascii_digit());
            let Some(start) = start else { return s.to_owned() };
            let end = (start..chars.len()).find(|i| !chars[*i].is_ascii_digit()).unwrap_or(chars.len());
            splice(start, end, with)
        }
        _ => s.to_owned(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_texts_never_panic(pick in 0.0..1.0f64, damages in prop::collection::vec(damage(), 1..5)) {
        let all = texts();
        let mut s = all[(pick * all.len() as f64) as usize].clone();
        for d in &damages {
            s = apply(&s, d);
        }
        if let Ok(g) = text::parse(&s) {
            let _ = verify(&g);
            // What parses prints, and the print parses to the same print.
            let printed = g.to_string();
            if let Ok(again) = text::parse(&printed) {
                prop_assert_eq!(again.to_string(), printed);
            }
        }
    }
}

#[test]
fn rows_that_are_no_whole_blocks_are_refused() {
    for (format, whole, partial) in [("q4_k", 256, 128), ("affine4_g64_bf16", 192, 96), ("fp8_g128", 128, 64), ("affine3_g32_f32", 96, 100)]
    {
        let (good, bad) = (format!("  param %1 w: {format}[8,{whole}]"), format!("  param %1 w: {format}[8,{partial}]"));
        twins(&good, &bad, &format!("rows of {partial} elements, expected a multiple of"));
        let build = |row: usize| {
            let types = move |_: &str, _: &[rlx_ir::Dim]| format.parse::<rlx_ir::DType>();
            let b = rlx_ir::Builder::with("f", rlx_ir::Options::default(), Box::new(types));
            let x = b.input("x", rlx_ir::Type::tensor(rlx_ir::DType::F32, [2, row]));
            let y = b.root().at("layer").linear("q_proj", x, 8).id();
            b.finish(&[("y", y)]).map_err(|e| e.to_string())
        };
        assert!(build(whole).is_ok());
        let found = build(partial).unwrap_err();
        assert!(found.contains(format) && found.contains("q_proj") && found.contains(&format!("rows of {partial}")), "{found}");
    }
}
