//! Tool calls in every convention, whole and in pieces.

use proptest::prelude::*;
use rlx_text::{ToolCall, ToolConvention, ToolPart, ToolStream};
use serde_json::{Value, json};

use ToolConvention::{Gemma, Hermes, Lfm2, Llama3, Mistral, QwenXml};

fn text(s: &str) -> ToolPart {
    ToolPart::Text(s.into())
}

fn call(name: &str, arguments: Value) -> ToolPart {
    ToolPart::Call(ToolCall { name: name.into(), arguments })
}

fn bad(raw: &str, reason: &str) -> ToolPart {
    ToolPart::Malformed { raw: raw.into(), reason: reason.into() }
}

const CUT: &str = "the text ends inside the call";

fn hermes() -> Vec<(ToolConvention, &'static str, Vec<ToolPart>)> {
    vec![
        (Hermes, "", vec![]),
        (Hermes, "no call, <tool> only \n", vec![text("no call, <tool> only \n")]),
        (
            Hermes,
            "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2.5]}}\n</tool_call>",
            vec![call("add", json!({"a": 1, "b": [2.5]}))],
        ),
        (
            Hermes,
            " Größe? \n\n<tool_call>{\"name\":\"a\"}</tool_call>\n<tool_call>{\"name\":\"b\",\"arguments\":\"{\\\"x\\\":\\\"東京\\\"}\"}</tool_call>\n done \n",
            vec![text(" Größe?"), call("a", json!({})), call("b", json!({"x": "東京"})), text("done \n")],
        ),
        (
            Hermes,
            "<tool_call>{\"name\":\"say\",\"arguments\":{\"t\":\"</tool_call> <tool_call>\"}}</tool_call>",
            vec![call("say", json!({"t": "</tool_call> <tool_call>"}))],
        ),
        (Hermes, "<tool_call>{\"name\":\"a\"} \n", vec![call("a", json!({}))]),
        (Hermes, "<tool_call>{\"name\":\"a\"}</tool_c", vec![call("a", json!({}))]),
        (Hermes, "<tool_call>[{\"name\":\"a\"},{\"name\":\"b\"}]</tool_call>", vec![call("a", json!({})), call("b", json!({}))]),
        (Hermes, "x <tool_call>{\"name\":", vec![text("x"), bad("<tool_call>{\"name\":", CUT)]),
        (
            Hermes,
            "<tool_call>{\"arguments\":{}}</tool_call>y",
            vec![bad("<tool_call>{\"arguments\":{}}</tool_call>", "expected a text under `name`"), text("y")],
        ),
        (Hermes, "<tool_call>[]</tool_call>", vec![bad("<tool_call>[]</tool_call>", "an empty list of calls")]),
        (
            Hermes,
            "<tool_call>{\"name\":\"a\"} extra</tool_call>",
            vec![bad("<tool_call>{\"name\":\"a\"} extra</tool_call>", "expected `</tool_call>` behind the call")],
        ),
        (Hermes, "a<tool_call", vec![text("a<tool_call")]),
        (Hermes, "a <<tool_call>{\"name\":\"n\"}</tool_call>", vec![text("a <"), call("n", json!({}))]),
    ]
}

fn others() -> Vec<(ToolConvention, &'static str, Vec<ToolPart>)> {
    vec![
        (
            QwenXml,
            "I look.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nKöln \"a\"\n</parameter>\n<parameter=days>\n2\n</parameter>\n<parameter=code>\nx = 1\n\ny</parameter>\n</function>\n</tool_call>\n",
            vec![text("I look."), call("get_weather", json!({"city": "Köln \"a\"", "days": 2, "code": "x = 1\n\ny"}))],
        ),
        (QwenXml, "<tool_call>\n<function=now>\n</function>\n</tool_call>", vec![call("now", json!({}))]),
        (QwenXml, "<function=now></function> and", vec![call("now", json!({})), text("and")]),
        (QwenXml, "a <function=> b", vec![text("a <function=> b")]),
        (QwenXml, "<tool_call><function=f><parameter=a>1", vec![bad("<tool_call><function=f><parameter=a>1", CUT)]),
        (Llama3, "{\"name\": \"add\", \"parameters\": {\"a\": 1}}", vec![call("add", json!({"a": 1}))]),
        (
            Llama3,
            " {\"name\": \"a\", \"parameters\": {}}; {\"name\": \"b\", \"parameters\": {}}\n",
            vec![call("a", json!({})), call("b", json!({}))],
        ),
        (Llama3, "{\"answer\": 42} is JSON", vec![text("{\"answer\": 42} is JSON")]),
        (Llama3, "{ not json", vec![text("{ not json")]),
        (Llama3, "Sure: {\"name\": \"a\", \"parameters\": {}}", vec![text("Sure: {\"name\": \"a\", \"parameters\": {}}")]),
        (Llama3, "<|python_tag|>{\"name\": \"a\", \"parameters\": {\"x\": null}}", vec![call("a", json!({"x": null}))]),
        (
            Llama3,
            "<|python_tag|>brave_search.call(query=\"tides in Brest\")",
            vec![call("brave_search", json!({"query": "tides in Brest"}))],
        ),
        (Llama3, "<|python_tag|>print(1)", vec![bad("<|python_tag|>print(1)", "found `1`, expected a name")]),
        (Llama3, "ok <function=add>{\"a\": 1}</function>", vec![text("ok"), call("add", json!({"a": 1}))]),
        (
            Mistral,
            "[TOOL_CALLS][{\"name\": \"a\", \"arguments\": {\"x\": 1}, \"id\": \"abcdefghi\"}, {\"name\": \"b\", \"arguments\": {}}]",
            vec![call("a", json!({"x": 1})), call("b", json!({}))],
        ),
        (
            Mistral,
            "Let me see.[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Köln\"}[TOOL_CALLS]add[CALL_ID]abc123[ARGS]{}",
            vec![text("Let me see."), call("get_weather", json!({"city": "Köln"})), call("add", json!({}))],
        ),
        (Mistral, "[TOOL_CALLS] add{\"a\": 1}", vec![call("add", json!({"a": 1}))]),
        (Mistral, "[TOOL_CALLS]add[ARGS]", vec![bad("[TOOL_CALLS]add[ARGS]", CUT)]),
        (Mistral, "[TOOL_CALLS]", vec![bad("[TOOL_CALLS]", CUT)]),
        (Mistral, "[TOOL] [1, 2]", vec![text("[TOOL] [1, 2]")]),
        (
            Lfm2,
            "<|tool_call_start|>[get_weather(city=\"Köln\", days=2, opts={'a': [1.5, None, True]}), now()]<|tool_call_end|>Checking.",
            vec![
                call("get_weather", json!({"city": "Köln", "days": 2, "opts": {"a": [1.5, null, true]}})),
                call("now", json!({})),
                text("Checking."),
            ],
        ),
        (Lfm2, "<|tool_call_start|>[say(t='it\\'s \\u00e9 ]')]<|tool_call_end|>", vec![call("say", json!({"t": "it's é ]"}))]),
        (Lfm2, "<|tool_call_start|>[{\"name\": \"a\", \"arguments\": {}}]<|tool_call_end|>", vec![call("a", json!({}))]),
        (
            Lfm2,
            "<|tool_call_start|>[f(1)]<|tool_call_end|>.",
            vec![bad("<|tool_call_start|>[f(1)]<|tool_call_end|>", "found `1`, expected a name"), text(".")],
        ),
        (
            Gemma,
            "<|tool_call>call:get_weather{city:<|\"|>Köln, {x}<|\"|>,days:2,o:{k:[1.5,true,null]},u:plain}<tool_call|>",
            vec![call("get_weather", json!({"city": "Köln, {x}", "days": 2, "o": {"k": [1.5, true, null]}, "u": "plain"}))],
        ),
        (
            Gemma,
            "<start_function_call>call:now{}<end_function_call><start_function_call>call:say{t:<escape>a:b<escape>}<end_function_call>",
            vec![call("now", json!({})), call("say", json!({"t": "a:b"}))],
        ),
        (Gemma, "```tool_code\nget_weather(city='Köln')\n```\nDone", vec![call("get_weather", json!({"city": "Köln"})), text("Done")]),
        (Gemma, "[{\"name\": \"a\", \"parameters\": {\"x\": 1}}]", vec![call("a", json!({"x": 1}))]),
        (Gemma, "[1, 2] are numbers", vec![text("[1, 2] are numbers")]),
        (Gemma, "```tool_code\nprint(", vec![bad("```tool_code\nprint(", CUT)]),
        (Gemma, "```python\nx\n```", vec![text("```python\nx\n```")]),
    ]
}

fn samples() -> Vec<(ToolConvention, &'static str, Vec<ToolPart>)> {
    hermes().into_iter().chain(others()).collect()
}

/// Feeds `pieces` one by one.
fn streamed<'t>(convention: ToolConvention, pieces: impl IntoIterator<Item = &'t str>) -> Vec<ToolPart> {
    let mut stream = ToolStream::new(convention);
    let mut parts: Vec<ToolPart> = Vec::new();
    let mut add = |more: Vec<ToolPart>| {
        for part in more {
            match (parts.last_mut(), part) {
                (Some(ToolPart::Text(text)), ToolPart::Text(more)) => text.push_str(&more),
                (_, part) => parts.push(part),
            }
        }
    };
    for piece in pieces {
        add(stream.push(piece));
    }
    add(stream.finish());
    parts
}

/// Feeds bytes as a decoder of tokens does: whole characters as soon as they are whole.
fn by_bytes(convention: ToolConvention, source: &str, at: usize) -> Vec<ToolPart> {
    let (head, tail) = source.as_bytes().split_at(at);
    let whole = std::str::from_utf8(head).map_or_else(|e| e.valid_up_to(), str::len);
    let rest = [&head[whole..], tail].concat();
    streamed(convention, [std::str::from_utf8(&head[..whole]).expect("whole"), std::str::from_utf8(&rest).expect("whole")])
}

#[test]
fn texts_read_whole() {
    for (convention, source, expected) in samples() {
        assert_eq!(convention.parse(source), expected, "{convention:?} {source:?}");
    }
}

#[test]
fn a_cut_at_any_byte_changes_nothing() {
    for (convention, source, expected) in samples() {
        for at in 0..=source.len() {
            assert_eq!(by_bytes(convention, source, at), expected, "{convention:?} {source:?} cut at {at}");
        }
        assert_eq!(streamed(convention, source.split("").filter(|s| !s.is_empty())), expected, "{source:?} char by char");
    }
}

#[test]
fn every_beginning_streams_as_it_reads() {
    for (convention, source, _) in samples() {
        for at in (0..=source.len()).filter(|&at| source.is_char_boundary(at)) {
            let cut = &source[..at];
            assert_eq!(streamed(convention, cut.split("").filter(|s| !s.is_empty())), convention.parse(cut), "{convention:?} {cut:?}");
        }
    }
}

#[test]
fn text_before_a_call_is_handed_out_at_once() {
    let mut stream = ToolStream::new(Hermes);
    assert_eq!(stream.push("hello <"), [text("hello")]);
    assert_eq!(stream.push("b"), [text(" <b")]);
    assert_eq!(stream.push("\n<tool_call>{"), []);
    assert_eq!(stream.push("\"name\":\"f\"}</tool_call>"), [call("f", json!({}))]);
    assert_eq!(stream.finish(), []);
}

#[test]
fn conventions_by_name_and_by_template() {
    for &convention in ToolConvention::ALL {
        assert_eq!(ToolConvention::find(convention.name()), Some(convention));
    }
    assert_eq!(ToolConvention::find("nobody"), None);
    let cases = [
        ("{{ '<tool_call>\n{\"name\": ' }}", Some(Hermes)),
        ("<tool_call>\n<function=example>\n<parameter=x>", Some(QwenXml)),
        ("<|start_header_id|>ipython {\"name\": f, \"parameters\": d}", Some(Llama3)),
        ("{{ '[TOOL_CALLS]' }}", Some(Mistral)),
        ("{{ '<|tool_call_start|>' }}", Some(Lfm2)),
        ("<start_of_turn>model", Some(Gemma)),
        ("{{ '<|tool_call>call:' }}", Some(Gemma)),
        ("<tool_call>name<arg_key>k</arg_key>", None),
        ("<|user|>", None),
    ];
    for (template, expected) in cases {
        assert_eq!(ToolConvention::detect(template, &|_| false), expected, "{template}");
    }
    assert_eq!(ToolConvention::detect("{{ x }}", &|t| t == "[TOOL_CALLS]"), Some(Mistral));
}

#[test]
fn long_and_deep_texts_are_read_at_once() {
    let sources = [
        "<tool_call>".repeat(90_000),
        "<tool_call>{".repeat(80_000),
        "<function=".repeat(90_000),
        "<function=a>".repeat(80_000),
        format!("<tool_call>{}", "[".repeat(500_000)),
        format!("<|tool_call_start|>[f(a={}", "[".repeat(500_000)),
        format!("<|tool_call>call:f{{a:{}", "{a:".repeat(300_000)),
        "[TOOL_CALLS]a[ARGS]{}".repeat(40_000),
        "{\"name\":\"a\"};".repeat(60_000),
        format!("<|python_tag|>{}", "f(a=1) ".repeat(100_000)),
        "<tool_call><function=f></function>".repeat(20_000),
    ];
    for source in &sources {
        for &convention in ToolConvention::ALL {
            let started = std::time::Instant::now();
            let parts = convention.parse(source);
            // A second on a machine that has nothing else to do.
            assert!(started.elapsed().as_secs() < 8, "{convention:?} {}: {:?}, {}", &source[..20], started.elapsed(), parts.len());
        }
    }
}

proptest! {
    #[test]
    fn any_text_in_any_pieces_reads_alike(
        convention in prop::sample::select(ToolConvention::ALL.to_vec()),
        tokens in prop::collection::vec(prop::sample::select(vec![
            "<tool_call>", "</tool_call>", "{\"name\":\"a\"}", "{\"name\":\"a\",\"arguments\":{\"x\":\"é\"}}", "{", "}", " ", "\n", "<", "x", "\"", "é", "[", "]", "1", ";",
            "<function=", "f>", "<parameter=", "</parameter>", "</function>", "<|python_tag|>", "f(a=1)", "f.call(", ")", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "id", "{}",
            "<|tool_call_start|>", "<|tool_call_end|>", "[f(a='b')]", "<|tool_call>", "call:f{", "a:1", "<|\"|>", "<tool_call|>", "```tool_code", "```", "<start_function_call>", "<end_function_call>", ",",
        ]), 0..14),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let source = tokens.concat();
        let mut at: Vec<usize> = cuts.iter().map(|c| c.index(source.len() + 1)).filter(|&c| source.is_char_boundary(c)).collect();
        at.extend([0, source.len()]);
        at.sort_unstable();
        let whole = convention.parse(&source);
        prop_assert_eq!(streamed(convention, at.windows(2).map(|w| &source[w[0]..w[1]])), whole.clone());
        prop_assert_eq!(streamed(convention, source.split("").filter(|s| !s.is_empty())), whole);
    }
}
