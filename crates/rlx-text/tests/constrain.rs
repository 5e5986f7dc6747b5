//! Structured output: what masks allow, on a real vocabulary; and schemas and grammars that ask for too much.

mod common;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use common::committed;
use proptest::prelude::*;
use rlx_text::{Constraint, Grammar, Sampler, SamplerParams, TokenTrie, Tokenizer};
use serde_json::{Value, json};

/// A second on a machine that has nothing else to do.
const TIME: Duration = Duration::from_secs(8);

fn tokenizer() -> &'static Tokenizer {
    static IT: OnceLock<Tokenizer> = OnceLock::new();
    IT.get_or_init(|| Tokenizer::from_file(committed("tokenizers/qwen2/tokenizer.json")).expect("a tokenizer"))
}

fn eos() -> u32 {
    tokenizer().eos().or_else(|| tokenizer().id("<|im_end|>")).expect("an end")
}

fn trie() -> &'static TokenTrie {
    static IT: OnceLock<TokenTrie> = OnceLock::new();
    IT.get_or_init(|| TokenTrie::new(tokenizer(), &[eos()]).expect("a tree"))
}

/// Draws an answer from random logits under the grammar.
fn answer(grammar: &Grammar, seed: u64, most: usize) -> Option<String> {
    let mut constraint = Constraint::new(trie(), grammar).expect("compiles");
    let params = SamplerParams { temperature: 1.0, seed, ..SamplerParams::default() };
    let mut sampler = Sampler::new(params).expect("sound");
    let mut ids = Vec::new();
    let mut state = seed;
    for _ in 0..most {
        let mut logits: Vec<f32> = (0..tokenizer().vocab_size())
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 40) as f32 / 4e6
            })
            .collect();
        constraint.mask(&mut logits).expect("a mask");
        // Ending is likely, so that answers are short.
        logits[eos() as usize] += 3.0;
        let id = sampler.sample(&mut logits).expect("a token");
        if id == eos() {
            assert!(constraint.may_end().expect("sound"), "the end is only allowed where the grammar may end");
            return Some(tokenizer().decode(&ids, false).expect("text"));
        }
        constraint.accept(id).expect("allowed");
        ids.push(id);
        if constraint.is_done() {
            return Some(tokenizer().decode(&ids, false).expect("text"));
        }
    }
    None
}

fn schema(value: Value) -> Result<Constraint, String> {
    let started = Instant::now();
    let done = Grammar::json_schema(&value.to_string()).and_then(|g| Constraint::new(trie(), &g)).map_err(|e| e.to_string());
    assert!(started.elapsed() < TIME, "{:?}", started.elapsed());
    done
}

fn grammar(text: &str) -> Result<Constraint, String> {
    let started = Instant::now();
    let done = Grammar::text(text).and_then(|g| Constraint::new(trie(), &g)).map_err(|e| e.to_string());
    assert!(started.elapsed() < TIME, "{:?}", started.elapsed());
    done
}

/// Whether the constraint takes `text` as a whole answer, character by character through the mask.
fn takes(mut constraint: Constraint, text: &str) -> bool {
    for id in tokenizer().encode_ordinary(text).expect("ids") {
        let mut logits = vec![0.0; tokenizer().vocab_size()];
        constraint.mask(&mut logits).expect("a mask");
        if logits[id as usize] == f32::NEG_INFINITY {
            return false;
        }
        constraint.accept(id).expect("allowed by the mask");
    }
    constraint.may_end().expect("sound")
}

#[test]
fn random_answers_satisfy_their_schema() {
    let record = json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "n": {"type": "integer", "minimum": 3, "maximum": 40},
        "kind": {"enum": ["a", "bb", 7, null]}, "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}},
        "required": ["name", "n", "kind"], "additionalProperties": false});
    let grammar = Grammar::schema(record).expect("supported");
    let mut complete = 0;
    for seed in 0..12 {
        let Some(text) = answer(&grammar, seed, 200) else { continue };
        complete += 1;
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let n = value["n"].as_i64().expect("a number");
        assert!((3..=40).contains(&n), "{text}");
        assert!(value["name"].as_str().expect("a name").chars().count() <= 8, "{text}");
        assert!([json!("a"), json!("bb"), json!(7), Value::Null].contains(&value["kind"]), "{text}");
        assert!(value.get("tags").is_none_or(|t| t.as_array().expect("a list").len() <= 3), "{text}");
        assert!(value.as_object().expect("an object").keys().all(|k| ["name", "n", "kind", "tags"].contains(&k.as_str())), "{text}");
    }
    assert!(complete > 6, "{complete}");
}

#[test]
fn schemas_take_what_is_valid_and_nothing_else() {
    let tree = json!({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {"v": {"type": "integer"},
        "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["v"], "additionalProperties": false}}});
    let cases = [
        (json!({"type": "boolean"}), "true", "True"),
        (json!({"const": {"a": [1]}}), "{\"a\": [1]}", "{\"a\": [2]}"),
        (json!({"type": "string", "pattern": "^[a-c]+$"}), "\"abc\"", "\"abd\""),
        (json!({"type": "string", "format": "date"}), "\"2024-02-29\"", "\"2024-2-9\""),
        (json!({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}), "[1, 2]", "[1]"),
        (tree, "{\"v\": 1, \"next\": {\"v\": 2, \"next\": null}}", "{\"v\": 1, \"next\": {}}"),
        (json!({"type": ["number", "null"], "x-note": 1, "description": "d"}), "1.5e3", "\"1\""),
        (json!({"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}), "{\n  \"a\": null\n}", "{}"),
        (json!({}), "{\"any\": [\"thing\", 1]}", "{any}"),
    ];
    for (value, good, bad) in cases {
        assert!(takes(schema(value.clone()).expect("supported"), good), "{value} {good}");
        assert!(!takes(schema(value.clone()).expect("supported"), bad), "{value} {bad}");
    }
}

#[test]
fn grammars_in_lark_and_gbnf() {
    let lark = "start: greeting \", \" NAME \"!\"\ngreeting: \"Hello\" | \"Hi\"\nNAME: /[A-Z][a-z]+/\n";
    assert!(takes(grammar(lark).expect("sound"), "Hello, Ada!"));
    assert!(!takes(grammar(lark).expect("sound"), "Hey, Ada!"));
    let gbnf = "# sums\nroot ::= (expr \"=\" ws term \"\\n\")+\nexpr ::= term ([-+*/] term)*\nterm ::= ident | num | \"(\" ws expr \")\" ws\n\
        ident ::= [a-z] [a-z0-9_]* ws\nnum ::= [0-9]+ ws\nws ::= [ \\t\\n]*\n";
    assert!(takes(grammar(gbnf).expect("sound"), "a +2*(b_1 -3) = 7\n"));
    assert!(!takes(grammar(gbnf).expect("sound"), "a +=7\n"));
    let more = "root ::= Item-x{2,3} \"\\x41\\u00e9\" [^a-z\\]]? .\nItem-x ::= \"<\" [\\x30-\\x39] \">\" |\n  \"-\"\n";
    assert!(takes(grammar(more).expect("sound"), "<1>-AéZ!"));
    assert!(takes(grammar(more).expect("sound"), "---Aé\n"));
    assert!(!takes(grammar(more).expect("sound"), "<1>Aé!"));
    let empty = "root ::= \"a\" (\"b\" | ) \"\" (\"xy\"){2}\n";
    assert!(takes(grammar(empty).expect("sound"), "abxyxy"));
    assert!(takes(grammar(empty).expect("sound"), "axyxy"));
    assert!(!takes(grammar(empty).expect("sound"), "axy"));
    for (bad, part) in [
        ("root = \"a\"\nx ::= \"b\"", "`::=`"),
        ("item ::= \"a\"", "root"),
        ("root ::= [z-a]", "range"),
        ("root ::= \"a", "a character"),
        ("root ::= (\"a\"", "`)`"),
        ("root ::= \"a\"{1000000}", "10000"),
        ("root ::= other", "r1"),
    ] {
        let wrong = grammar(bad).expect_err(bad);
        assert!(wrong.contains(part), "{bad}: {wrong}");
    }
}

#[test]
fn control_tokens_are_no_text() {
    let control = tokenizer().special_tokens().iter().map(|t| t.id).find(|&id| tokenizer().is_control(id) && id != eos());
    let control = control.expect("a control token");
    let mut constraint = schema(json!({"type": "string"})).expect("supported");
    let quote = tokenizer().encode_ordinary("\"").expect("ids")[0];
    let mut logits = vec![0.0; tokenizer().vocab_size() + 5];
    constraint.mask(&mut logits).expect("a mask");
    constraint.accept(quote).expect("allowed");
    logits.fill(0.0);
    constraint.mask(&mut logits).expect("a mask");
    assert_eq!(logits[control as usize], f32::NEG_INFINITY);
    assert_eq!(logits[eos() as usize], f32::NEG_INFINITY);
    // Rows that no token has are forbidden too.
    assert!(logits[tokenizer().vocab_size()..].iter().all(|&x| x == f32::NEG_INFINITY));
    assert!(constraint.accept(eos()).is_err());
}

#[test]
fn schema_36_reference_cycle() {
    let alias =
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}]}}});
    assert!(schema(alias).expect_err("a cycle").contains("refers to itself"));
    assert!(schema(json!({"$ref": "#"})).expect_err("a cycle").contains("refers to itself"));
    let through_a_value = json!({"type": "array", "items": {"$ref": "#"}});
    assert!(takes(schema(through_a_value).expect("supported"), "[[], [[]]]"));
    for lost in ["#/$defs/none", "other.json", "#anchor", "https://example.org/s.json"] {
        assert!(schema(json!({"$ref": lost})).expect_err(lost).contains("#/…"));
    }
}

#[test]
fn schema_36_depth_of_ten_thousand() {
    let nested = |n: usize| format!("{}{{}}{}", "{\"items\":".repeat(n), "}".repeat(n));
    assert!(Grammar::json_schema(&nested(10_000)).is_err());
    let value = (0..80).fold(json!({}), |inner, _| json!({ "items": inner }));
    assert!(schema(value).expect_err("deep").contains("deeper"));
    let value = (0..40).fold(json!({"type": "null"}), |inner, _| json!({"type": "array", "items": inner}));
    assert!(takes(schema(value).expect("supported"), &format!("{}{}", "[".repeat(40), "]".repeat(40))));
    // As deep by references.
    let chain = |n: usize| {
        let mut defs: serde_json::Map<String, Value> =
            (0..n).map(|i| (format!("d{i}"), json!({"type": "array", "items": {"$ref": format!("#/$defs/d{}", i + 1)}}))).collect();
        defs.insert(format!("d{n}"), json!({"type": "null"}));
        json!({"$ref": "#/$defs/d0", "$defs": defs})
    };
    assert!(schema(chain(10_000)).expect_err("deep").contains("deeper"));
    assert!(takes(schema(chain(20)).expect("supported"), "[[]]"));
}

#[test]
fn schema_36_patterns() {
    for pattern in ["(?<=x)*", "(?=a)b", "(a)\\1", "[", "(", &"(".repeat(10_000), &"a".repeat(20_000)] {
        assert!(schema(json!({"type": "string", "pattern": pattern})).is_err(), "{}", &pattern[..pattern.len().min(40)]);
    }
    // What makes other engines run for ever is linear here: it may be refused, and must answer at once.
    for pattern in ["foo**", "(a+)+$", "(a|a)*b", "(.*)*x{50}", "^(([a-z])+.)+[A-Z]([a-z])+$", "(a{1,1000}){1,1000}"] {
        if let Ok(mut constraint) = schema(json!({"type": "string", "pattern": pattern})) {
            let started = Instant::now();
            let mut logits = vec![0.0; tokenizer().vocab_size()];
            let _ = constraint.mask(&mut logits);
            assert!(started.elapsed() < TIME, "{pattern}: {:?}", started.elapsed());
        }
    }
    assert!(takes(schema(json!({"type": "string", "pattern": "^fo*$"})).expect("supported"), "\"foo\""));
}

#[test]
fn schema_36_a_million_values() {
    let many = |n: usize| json!({"enum": (0..n).map(|i| format!("value {i}")).collect::<Vec<_>>()});
    let text = many(1_000_000).to_string();
    assert!(Grammar::json_schema(&text).is_err());
    assert!(schema(many(10_001)).expect_err("too many").contains("10000"));
    assert!(takes(schema(many(10_000)).expect("supported"), "\"value 9999\""));
    assert!(schema(json!({"enum": []})).expect_err("none").contains("0 values"));
}

#[test]
fn schema_36_a_billion_items() {
    for key in ["minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"] {
        let wrong = schema(json!({ key: 1_000_000_000 })).expect_err(key);
        assert!(wrong.contains("1000000000") && wrong.contains(key), "{wrong}");
        assert!(schema(json!({ key: -1 })).is_err() && schema(json!({ key: "3" })).is_err());
    }
    let large = json!({"type": "array", "items": {"type": "integer"}, "minItems": 50_000, "maxItems": 100_000});
    if let Ok(mut constraint) = schema(large) {
        let started = Instant::now();
        constraint.mask(&mut vec![0.0; tokenizer().vocab_size()]).expect("a mask");
        assert!(started.elapsed() < TIME, "{:?}", started.elapsed());
    }
    let few = json!({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 100});
    assert!(takes(schema(few).expect("supported"), "[1, 2, 3]"));
}

#[test]
fn schema_36_unsupported_keywords() {
    for key in [
        "not",
        "if",
        "uniqueItems",
        "contains",
        "propertyNames",
        "dependentRequired",
        "unevaluatedProperties",
        "minLenght",
        "nullable",
        "x-guidance",
    ] {
        let wrong = schema(json!({"type": "object", "properties": {"a": {key: true}}})).expect_err(key);
        assert!(wrong.contains(key) && wrong.contains("#/properties/a"), "{wrong}");
    }
    assert!(schema(json!({"type": "string", "format": "haiku"})).expect_err("unknown").contains("haiku"));
    assert!(schema(json!({"type": "object", "properties": {"not": {"type": "null"}, "if": {}}})).is_ok());
    for wrong in [
        json!(1),
        json!("x"),
        json!([]),
        json!(null),
        json!({"type": "objekt"}),
        json!({"properties": []}),
        json!({"anyOf": {}}),
        json!({"items": 3}),
    ] {
        assert!(schema(wrong.clone()).is_err(), "{wrong}");
    }
    assert!(schema(json!(false)).is_err());
    assert!(schema(json!(true)).is_ok());
}

#[test]
fn schema_36_nothing_satisfies_it() {
    let none = json!({"allOf": [{"type": "string"}, {"type": "integer"}]});
    assert!(schema(none).is_err());
    let some = json!({"allOf": [{"type": "number"}, {"type": "integer"}]});
    assert!(takes(schema(some).expect("supported"), "5"));
}

#[test]
fn grammar_36_left_recursion() {
    // Earley's algorithm takes it.
    assert!(takes(grammar("start: start \"+\" N | N\nN: /[0-9]+/\n").expect("sound"), "1+2+3"));
    assert!(takes(grammar("root ::= root \"+\" [0-9] | [0-9]\n").expect("sound"), "1+2+3"));
    // With no way out there is nothing to say, which must show at once.
    for endless in ["start: start\n", "start: a\na: b\nb: a\n", "root ::= root\n"] {
        if let Ok(mut constraint) = grammar(endless) {
            let mut logits = vec![0.0; tokenizer().vocab_size()];
            let open = constraint.mask(&mut logits).is_ok() && logits.iter().enumerate().any(|(id, &x)| x == 0.0 && id != eos() as usize);
            assert!(!open, "{endless}");
        }
    }
}

#[test]
fn grammar_36_too_much_of_it() {
    assert!(grammar(&format!("start: {}\"a\"{}", "(".repeat(100_000), ")".repeat(100_000))).is_err());
    assert!(grammar(&format!("root ::= {}\"a\"{}", "(".repeat(100_000), ")".repeat(100_000))).is_err());
    assert!(grammar(&"x".repeat(2 << 20)).expect_err("long").contains("1048576"));
    let _ = grammar(&(0..20_000).map(|i| format!("r{i}: \"a{i}\"\n")).collect::<String>());
    let repeated = |n: usize| format!("start: {}\n", "\"a\"{0,10000} ".repeat(n));
    assert!(grammar(&repeated(2000)).expect_err("20 000 000").contains("1000000"));
    assert!(takes(grammar(&repeated(20)).expect("sound"), "aaa"));
    let _ = grammar("start: ((((\"a\"{0,10000}){0,10000}){0,10000}){0,10000}){0,10000}\n");
    assert!(grammar("").is_err());
    assert!(takes(grammar("start: ((\"a\"))\n").expect("sound"), "a"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_as_a_grammar_answers(text in "(root ::= |start: )?[ -~\n]{0,80}") {
        let _ = grammar(&text);
        let _ = Grammar::json_schema(&text);
    }
}
