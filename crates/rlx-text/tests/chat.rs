//! Chat templates against transformers' recorded renderings, and against hostile ones.

mod common;

use common::{committed, json, shared};
use rlx_text::{ChatTemplate, Message, TextError};
use serde_json::{Map, Value, json};

/// Renders every recorded case; returns the differences.
fn compare(dir: &std::path::Path) -> (usize, Vec<String>) {
    let expected = json(dir.join("expected.json"));
    let mut differences = Vec::new();
    let cases = expected["cases"].as_array().expect("a list");
    for case in cases {
        let name = case["template"].as_str().expect("a name");
        let source = std::fs::read_to_string(dir.join(format!("{name}.jinja"))).expect("a template");
        let template = ChatTemplate::new(&source).expect("parses");
        let conversation = case["conversation"].as_str().expect("a name");
        let messages: Vec<Message> = serde_json::from_value(expected["conversations"][conversation].clone()).expect("messages");
        let tools = case["tools"].as_bool().expect("a flag").then_some(&expected["tools"]);
        let variables = case["variables"].as_object().expect("an object");
        let add = case["add_generation_prompt"].as_bool().expect("a flag");
        let found = template.render(&messages, tools, add, variables);
        match (&found, case.get("rendered")) {
            (Ok(text), Some(wanted)) if text == wanted => {}
            (Err(_), None) => {}
            _ => differences
                .push(format!("{name}/{conversation}\n found {found:?}\nwanted {}", case.get("rendered").unwrap_or(&case["error"]))),
        }
    }
    (cases.len(), differences)
}

#[test]
fn recorded_renderings_are_exact() {
    let (n, differences) = compare(&committed("chat_templates"));
    assert!(n > 90, "{n}");
    assert!(differences.is_empty(), "{} of {n} differ\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn shared_renderings_are_exact() {
    let Some(dir) = shared("oracle/lm/fixtures/chat_templates") else { return };
    let (n, differences) = compare(&dir);
    assert!(differences.is_empty(), "{} of {n} differ\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn shared_chat_model_renders_its_recorded_prompts() {
    let Some(root) = shared("models/rlx-tiny-chat") else { return };
    let template = ChatTemplate::from_tokenizer_config(&json(root.join("tokenizer_config.json"))).expect("parses").expect("there");
    let cases = json(root.join("greedy.json"));
    let mut rendered = 0;
    // Cases without messages are raw completions.
    for case in cases.as_array().expect("a list").iter().filter(|c| c["messages"].is_array()) {
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).expect("messages");
        let tools = case.get("tools").filter(|t| !t.is_null());
        assert_eq!(template.render(&messages, tools, true, &Map::new()).expect("renders"), case["prompt"], "{}", case["name"]);
        rendered += 1;
    }
    assert!(rendered > 10, "{rendered}");
}

fn render(source: &str) -> Result<String, TextError> {
    ChatTemplate::new(source)?.with_clock(1_709_210_096).render(&[Message::user("hi").with("n", 7)], None, true, &Map::new())
}

#[test]
fn python_and_transformers_constructs() {
    let cases = [
        ("{{ strftime_now('%d %B %Y') }}", "29 February 2024"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "hi"),
        ("{{ {'b': 'é<&>', 'a': [1, 1e-7]} | tojson(sort_keys=true, ensure_ascii=true) }}", r#"{"a": [1, 1e-07], "b": "\u00e9<&>"}"#),
        ("{{ {'a': [], 'b': {}, 'c': [1]} | tojson(indent=2) }}", "{\n  \"a\": [],\n  \"b\": {},\n  \"c\": [\n    1\n  ]\n}"),
        ("{{ [1, {'a': none}] | tojson(separators=(',', ':')) }}", r#"[1,{"a":null}]"#),
        ("{{ '😀' | tojson(true) }}", r#""\ud83d\ude00""#),
        ("{{ tools is none }} {{ documents is none }} {{ bos_token is defined }}", "True True False"),
        ("{{ messages[0].items() | list | length }} {{ 'a-b'.split('-') | last }} {{ ' x'.lstrip() }}", "3 b x"),
        ("{% if true %}\n  x\n  {% endif %}\ny\n", "  x\ny"),
    ];
    for (source, expected) in cases {
        assert_eq!(render(source).expect(source), expected, "{source}");
    }
}

#[test]
fn named_templates_and_special_tokens_of_the_config() {
    let named = json!({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null, "chat_template": [
        {"name": "default", "template": "{{ bos_token }}plain{{ eos_token }}{{ pad_token is defined }}"},
        {"name": "tool_use", "template": "tools {{ tools | length }}"}]});
    let template = ChatTemplate::from_tokenizer_config(&named).expect("parses").expect("there");
    assert_eq!(template.render(&[], None, false, &Map::new()).expect("renders"), "<s>plain</s>False");
    assert_eq!(template.render(&[], Some(&json!([1, 2])), false, &Map::new()).expect("renders"), "tools 2");
    let over = Map::from_iter([("bos_token".to_owned(), Value::from("B"))]);
    assert_eq!(template.render(&[], None, false, &over).expect("renders"), "Bplain</s>False");
    assert!(ChatTemplate::from_tokenizer_config(&json!({})).expect("sound").is_none());
    for bad in
        [json!(7), json!([{"name": "a"}]), json!([{"name": "a", "template": "x"}, {"name": "a", "template": "y"}]), json!("{% if %}")]
    {
        assert!(ChatTemplate::from_tokenizer_config(&json!({"chat_template": bad})).is_err());
    }
}

#[test]
fn hostile_templates_end_in_an_error() {
    let cases = [
        ("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "steps"),
        ("{{ range(1000000000) }}", "range"),
        ("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", "recursion"),
        ("{% for a in range(1000) %}{{ 'x' * 1000000 }}{% endfor %}", "output in bytes"),
        ("{{ 'x' * 1000000000000 }}", ""),
        ("{% include 'other' %}", "other"),
        ("{% import '/etc/passwd' as p %}", "passwd"),
        ("{{ messages.__class__.__mro__ }}", "undefined"),
        ("{{ ''.__class__.__mro__ }}", "undefined"),
        ("{{ 1 | nonsense }}", "nonsense"),
        ("{{ nonsense(1) }}", "nonsense"),
        ("{{ raise_exception('my own words') }}", "my own words"),
        ("{{ undefined_thing | tojson }}", "undefined"),
        ("{{ 1 | tojson(indent=1000000000) }}", "1000000000"),
        ("{{ 1 | tojson(colour=1) }}", "colour"),
        ("{{ messages[7].content }}", "undefined"),
        ("x\n{{ 1 + }}", "line 2"),
        ("{% generation %}x", ""),
    ];
    for (source, part) in cases {
        let started = std::time::Instant::now();
        let message = render(source).expect_err(source).to_string();
        assert!(message.contains(part), "{source}: {message}");
        assert!(started.elapsed().as_secs() < 20, "{source} took {:?}", started.elapsed());
    }
    let deep = format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(render(&format!("{{{{ {deep} }}}}")).is_err());
    assert!(matches!(render("{{ raise_exception('no') }}"), Err(TextError::Refused { reason }) if reason == "no"));
}

#[test]
fn odd_conversations_reach_the_template_unchanged() {
    let show = ChatTemplate::new("{{ messages | tojson }}").expect("parses");
    assert_eq!(show.render(&[], None, false, &Map::new()).expect("renders"), "[]");
    let text = r#"[{"role": "assistant", "content": null, "tool_calls": [{"z": 1, "a": {"k": 18446744073709551615}}]}, {"role": "user", "content": [{"type": "mystery"}]}]"#;
    let messages: Vec<Message> = serde_json::from_str(text).expect("messages");
    assert_eq!(show.render(&messages, None, false, &Map::new()).expect("renders"), text);
    assert_eq!((messages[0].role(), messages[0].text(), Message::user("x").text()), ("assistant", None, Some("x")));
    let made = [Message::system("a"), Message::assistant("b"), Message::tool("c")].map(|m| m.role().to_owned());
    assert_eq!(made, ["system", "assistant", "tool"]);
}
