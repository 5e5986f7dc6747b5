//! Chat templates against transformers' recorded renderings.

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
    for bad in [json!(7), json!([{"name": "a"}]), json!("{% if %}")] {
        assert!(ChatTemplate::from_tokenizer_config(&json!({"chat_template": bad})).is_err());
    }
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

#[test]
fn constructs_of_released_templates() {
    let cases = [
        // Slices with every bound, in the middle of a chain.
        ("{{ 'abcdef'[1:].upper()[::-1] }} {{ [1, 2, 3][:-1][0] }} {{ ['a', 'b'][1] }} {{ {'k': 'v'}['k'] }}", "FEDCB 1 b v"),
        ("{{ messages[1:] | length }} {{ (messages + messages)[-1:][0].role }}", "0 user"),
        // Mappings, lists and tests as Python has them.
        (
            "{{ none is iterable }} {{ nobody is iterable }} {{ {} is sequence }} {{ 'x' is sequence }} {{ none is sequence }}",
            "False True True True False",
        ),
        ("{% for k, v in {'items': 1}.items() %}{{ k }}={{ v }}{% endfor %}", "items=1"),
        ("{{ {'a': 1}.get('b', 2) }} {{ {'a': 1} | items | list }} {{ 'a' in {'a': 1} }}", "2 [('a', 1)] True"),
        ("{% set ns = namespace(n=0) %}{% for i in [3, 4] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "7"),
        ("{% for m in [1, 1, 2] %}{{ loop.previtem is defined and loop.previtem == m }} {% endfor %}", "False True False "),
        ("{{ [1, 2, 3] | select('gt', 1) | map('string') | join('-') }}", "2-3"),
        ("{% macro m(a, b='x' * 2) %}{{ a ~ b }}{% endmacro %}{{ m(1) }} {{ m(b=3, a=2) }}", "1xx 23"),
        ("{% macro w() %}[{{ caller('c') }}]{% endmacro %}{% call(x) w() %}{{ x * 2 }}{% endcall %}", "[cc]"),
        // Strings.
        (
            "{{ 'a.b.c'.rsplit('.', 1) | list }} {{ 'a=b=c'.partition('=') | list }} {{ 'xa'.removeprefix('x') }}",
            "['a.b', 'c'] ['a', '=', 'b=c'] a",
        ),
        (
            "{{ '7'.zfill(3) }}{{ '-7'.zfill(4) }} {{ 'ab'.center(5, '*') }} {{ 'ab'.ljust(4, '.') }}{{ 'ab'.rjust(3) }}",
            "007-007 **ab* ab.. ab",
        ),
        ("{{ 'a b  c'.split() | length }} {{ 'abc'.index('c') }} {{ 'aXb'.swapcase() }} {{ '\n x\t'.strip() }}", "3 2 AxB x"),
        ("{{ 'a' 'b' }} {{ 'x' * 2 * 2 }} {{ 7 * -1 }} {{ 2 ** 3 * 2 }}", "ab xxxx -7 16"),
        (
            "{{ 'line\nline' | indent(2, true) }}|{{ 'a' | indent }}|{{ '%s-%s' | format(1, 'b') }}|{{ '{} {x}'.format(1, x=2) }}",
            "  line\n  line|a|1-b|1 2",
        ),
        // White space around literal text of any length.
        (
            "a\n    {%- if true %}\n    a long line of literal text that is far longer than what is free of charge   \n    {%- endif %}\nb",
            "a    a long line of literal text that is far longer than what is free of chargeb",
        ),
        (
            "{% raw %}{{ kept }}{% endraw -%}\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\nx",
            "{{ kept }}x",
        ),
    ];
    for (source, expected) in cases {
        assert_eq!(render(source).expect(source), expected, "{source}");
    }
}

#[test]
fn reasoning_is_seen_under_every_name() {
    let show = ChatTemplate::new("{{ messages[0].reasoning_content }}/{{ messages[0].thinking }}").expect("parses");
    for key in ["reasoning_content", "thinking", "reasoning"] {
        let message = Message::assistant("a").with(key, "why");
        assert_eq!(show.render(&[message], None, false, &Map::new()).expect("renders"), "why/why");
    }
}

#[test]
fn templates_of_a_directory_in_their_order() {
    let dir = std::env::temp_dir().join(format!("rlx-chat-templates-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("additional_chat_templates")).expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).expect("written");
    let config = json!({"bos_token": "<s>", "chat_template": "{{ bos_token }}config"});
    let shown = |tools: Option<&Value>| {
        let template = ChatTemplate::from_dir(&dir, Some(&config)).expect("sound").expect("there");
        template.render(&[], tools, false, &Map::new()).expect("renders")
    };
    assert!(ChatTemplate::from_dir(&dir, None).expect("sound").is_none());
    assert_eq!(shown(None), "<s>config");
    write("chat_template.json", r#"{"chat_template": "{{ bos_token }}json"}"#);
    assert_eq!(shown(None), "<s>json");
    write("chat_template.jinja", "{{ bos_token }}jinja\n");
    assert_eq!(shown(None), "<s>jinja");
    write("additional_chat_templates/tool_use.jinja", "{{ bos_token }}tools");
    assert_eq!((shown(None), shown(Some(&json!([])))), ("<s>jinja".into(), "<s>tools".into()));
    let template = ChatTemplate::from_dir(&dir, Some(&config)).expect("sound").expect("there");
    assert_eq!(template.names().collect::<Vec<_>>(), ["default", "tool_use"]);
    let chosen = template.choose("tool_use").expect("there");
    assert_eq!(chosen.render(&[], None, false, &Map::new()).expect("renders"), "<s>tools");
    assert!(chosen.choose("rag").expect_err("not there").to_string().contains("default, tool_use"));
    let file = ChatTemplate::from_file(&dir.join("chat_template.json")).expect("sound");
    assert_eq!(file.render(&[], None, false, &Map::new()).expect("renders"), "json");
    assert!(ChatTemplate::from_file(&dir.join("nothing.jinja")).is_err());
    std::fs::remove_dir_all(&dir).expect("removed");
}
