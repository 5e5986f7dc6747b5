//! Hostile chat templates and odd conversations: each ends in an error, within a second and a bound on memory, and
//! has a near-identical twin that renders.

use std::time::Duration;

use proptest::prelude::*;
use rlx_bounds::{Counting, bounded, within};
use rlx_text::{ChatTemplate, Message, TextError};
use serde_json::{Map, Value, json};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn messages() -> Vec<Message> {
    vec![Message::user("hi").with("n", 7)]
}

/// Bytes that the engine may hold for each byte of a sound template: its tree and its instructions, both while one is
/// made of the other.  A template of nothing but `{{ 1 }}` takes 51.
const SOUND_PER_BYTE: usize = 52;
/// Bytes that the engine may hold for each level of macros that follow nested data down: its frames, of which it
/// reserves 40 for each call.
const PER_LEVEL: usize = 5 << 10;

fn compute(source: &str, messages: &[Message], tools: Option<&Value>) -> Result<String, TextError> {
    ChatTemplate::new(source).and_then(|t| t.render(messages, tools, true, &Map::new()))
}

fn render(source: &str, messages: &[Message]) -> Result<String, TextError> {
    bounded(source.len() + json!(messages).to_string().len(), || compute(source, messages, None))
}

fn render_tools(source: &str, tools: &Value) -> Result<String, TextError> {
    bounded(source.len() + tools.to_string().len(), || compute(source, &[], Some(tools)))
}

/// A template that may be a sound one, and a large one.
fn render_sound(source: &str) -> Result<String, TextError> {
    let messages = messages();
    within((64 << 10) + SOUND_PER_BYTE * source.len(), Duration::from_secs(1), || compute(source, &messages, None))
}

/// `bad` fails with a message that has `part`; `good` renders `text`.
fn twins(bad: &str, part: &str, good: &str, text: &str) {
    let message = render(bad, &messages()).expect_err(bad).to_string();
    assert!(message.contains(part), "{bad}: {message}");
    assert_eq!(render(good, &messages()).expect(good), text, "{good}");
}

#[test]
fn chat_template_28_endless_loops() {
    let nested = "{% for a in range(N) %}{% for b in range(N) %}{% endfor %}{% endfor %}.";
    twins(&nested.replace('N', "100000"), "exceeds the bound", &nested.replace('N', "10"), ".");
    twins("{{ range(1000000000) | length }}", "range", "{{ range(1000) | length }}", "1000");
    twins("{{ range(0, 1000000000) | list }}", "range", "{{ range(0, 3) | list }}", "[0, 1, 2]");
    twins("{% for x in 'abc' * 100000000 %}{% endfor %}", "bytes", "{% for x in 'abc' * 2 %}{{ x }}{% endfor %}", "abcabc");
}

#[test]
fn chat_template_28_recursion_through_macros() {
    twins(
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
        "recursion",
        "{% macro m(n) %}{{ n }}{{ m(n - 1) if n else '' }}{% endmacro %}{{ m(3) }}",
        "3210",
    );
    // Data that is nested deep is followed down as deep, and endless recursion over it ends as well.
    let endless = "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}";
    let follow = "{% macro m(t) %}{{ t.type }}{% for k, v in (t.properties or {}).items() %} {{ k }}: {{ m(v) }}{% endfor %}{% endmacro %}\
        {{ m(tools[0].function.parameters) }}";
    let schema = |levels: usize| {
        let leaf = json!({"type": "string"});
        let parameters = (0..levels).fold(leaf, |inner, _| json!({"type": "object", "properties": {"x": inner}}));
        json!([{"type": "function", "function": {"name": "f", "parameters": parameters}}])
    };
    assert_eq!(render_tools(follow, &schema(4)).expect("renders"), "object x: ".repeat(4) + "string");
    for levels in [16, 90] {
        // Some templates call three macros for each level.
        let bytes = (64 << 10) + 4 * (follow.len() + schema(levels).to_string().len()) + 3 * PER_LEVEL * levels.min(28);
        let text = within(bytes, Duration::from_secs(1), || compute(follow, &[], Some(&schema(levels))));
        let wrong = within(bytes, Duration::from_secs(1), || compute(endless, &[], Some(&schema(levels))));
        assert!(wrong.expect_err("endless").to_string().contains("recursion"));
        assert_eq!(text.is_ok(), levels == 16, "{levels}");
    }
    let deep = |n: usize| format!("{{{{ {}1{} }}}}", "(".repeat(n), ")".repeat(n));
    twins(&deep(100_000), "deeper", &deep(20), "1");
    let unary = |n: usize| format!("{{{{ {}true }}}}", "not ".repeat(n));
    assert!(render(&unary(100_000), &messages()).is_err());
    assert_eq!(render(&unary(4), &messages()).expect("renders"), "True");
}

#[test]
fn chat_template_28_includes_and_imports() {
    for bad in ["{% include 'tool_use' %}", "{% import '/etc/passwd' as p %}", "{% from 'x' import y %}", "{% extends 'default' %}"] {
        let compute = |tools: Option<&Value>| {
            let template = ChatTemplate::named([("default".to_owned(), bad), ("tool_use".to_owned(), "T")])?;
            template.render(&messages(), tools, true, &Map::new())
        };
        let input = bad.len() + "T".len() + json!(messages()).to_string().len();
        assert!(bounded(input, || compute(None)).is_err(), "{bad}");
        assert_eq!(bounded(input, || compute(Some(&json!([])))).expect("renders"), "T");
    }
}

#[test]
fn chat_template_28_walks_to_the_host() {
    for bad in [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages[0].__init__.__globals__['os'] }}",
        "{{ self.__init__ }}{{ namespace.__init__.__globals__ }}",
        "{{ (messages | attr('__class__')).__base__ }}",
        "{{ cycler.__init__ }}",
    ] {
        assert!(render(bad, &messages()).is_err(), "{bad}");
    }
    assert_eq!(render("{{ messages[0]['__class__'] is defined }}", &messages()).expect("renders"), "False");
}

#[test]
fn chat_template_28_doubling_text() {
    let grow = |step: &str| {
        format!("{{% set ns = namespace(x='ab') %}}{{% for i in range(N) %}}{{% set ns.x = {step} %}}{{% endfor %}}{{{{ ns.x | length }}}}")
    };
    for (step, size) in [
        ("ns.x ~ ns.x", "16"),
        ("ns.x + ns.x", "16"),
        ("ns.x * 2", "16"),
        ("2 * ns.x", "16"),
        ("[ns.x, ns.x] | join", "16"),
        ("''.join([ns.x, ns.x])", "16"),
        ("ns.x.replace('b', 'bab')", "16"),
        ("ns.x | replace('b', 'bab')", "16"),
        ("ns.x ~ ns.x[:]", "16"),
        ("(ns.x | upper) ~ (ns.x | upper)", "16"),
        ("ns.x.ljust((ns.x | length) * 2)", "16"),
        ("ns.x.center((ns.x | length) * 2)", "16"),
        ("ns.x.zfill((ns.x | length) * 2)", "16"),
    ] {
        let source = grow(step);
        twins(&source.replace('N', "60"), "text in bytes", &source.replace('N', "3"), size);
    }
    // Without a loop: statement after statement, or in one expression.
    let lines = |n: usize| format!("{{% set x = 'ab' %}}{}{{{{ x | length }}}}", "{% set x = x ~ x %}".repeat(n));
    twins(&lines(60), "text in bytes", &lines(3), "16");
    twins("{{ 'x' * 10000 * 10000 * 10000 }}", "text in bytes", "{{ 'x' * 2 * 2 * 2 }}", "xxxxxxxx");
    twins("{{ ('x' * 10000) * (10000 * 10000) }}", "text in bytes", "{{ ('x' * 2) * (2 * 2) }}", "xxxxxxxx");
    twins("{{ 100000000 * 'x' }}", "text in bytes", "{{ 2 * 3 * 4 }}", "24");
    let macros = "{% macro m(x, n) %}{% if n %}{{ m(x ~ x, n - 1) }}{% else %}{{ x | length }}{% endif %}{% endmacro %}";
    twins(&format!("{macros}{{{{ m('ab' * 1000, 60) }}}}"), "text in bytes", &format!("{macros}{{{{ m('ab', 3) }}}}"), "16");
    let with =
        |n: usize| format!("{{% set x = 'ab' %}}{}{{{{ x | length }}}}{}", "{% with x = x ~ x %}".repeat(n), "{% endwith %}".repeat(n));
    twins(&with(20), "text in bytes", &with(3), "16");
}

#[test]
fn chat_template_28_doubling_lists() {
    let grow = |step: &str, n: usize| {
        format!(
            "{{% set ns = namespace(x=[1]) %}}{{% for i in range({n}) %}}{{% set ns.x = {step} %}}{{% endfor %}}{{{{ ns.x | string | length }}}}"
        )
    };
    for step in ["ns.x + ns.x", "[ns.x, ns.x]", "{'a': ns.x, 'b': ns.x}", "ns.x * 2", "(ns.x | list) + (ns.x | list)", "(ns.x, ns.x)"] {
        assert!(render(&grow(step, 60), &messages()).is_err(), "{step}");
        assert!(render(&grow(step, 3), &messages()).is_ok(), "{step}");
    }
    twins("{{ [1] * 100000000 }}", "bytes", "{{ [1] * 3 }}", "[1, 1, 1]");
    twins("{{ [1, 2] | batch(100000000, 0) | list | length }}", "", "{{ [1, 2] | batch(1, 0) | list | length }}", "2");
    twins("{{ [1] | slice(100000000) | list | length }}", "", "{{ [1] | slice(1) | list | length }}", "1");
}

#[test]
fn chat_template_28_much_made_of_little() {
    let loops = |inside: &str| {
        let open: String = ["a", "b", "c", "d"].map(|v| format!("{{% for {v} in 'abcdefghij' %}}")).concat();
        format!("{open}{inside}{}", "{% endfor %}".repeat(4))
    };
    let texts = |n: usize| format!("{{% set x = ['y' * {n}] * {n} %}}");
    for bad in [
        // Lists of characters and pieces.
        "{% set x = 'a' * 4000 %}{{ x | list | length }}",
        "{{ ('ab' * 4000) | groupby('x') | list | length }}",
        "{{ ('ab' * 4000) | map('upper') | list | length }}",
        "{% for c in 'ab' * 4000 if c %}.{% endfor %}",
        "{% for c in range(900) if c %}.{% endfor %}",
        "{{ ('a ' * 4000).split() | length }}",
        "{{ ('a\n' * 4000).splitlines() | length }}",
        "{{ ('a,' * 4000) | split(',') | length }}",
        "{{ ('a\n' * 4000) | lines | length }}",
        "{{ range(900) | list | length }}",
        "{{ ('é' * 3000)[::-1] | length }}",
        // Characters that become longer, fields of a format.
        "{{ ('<' * 4000) | e | length }}",
        "{{ ('{0}' * 1000).format('y' * 3000) | length }}",
        "{{ ('%999d' * 1000) | format(1) | length }}",
        "{{ strftime_now('%c' * 3000) | length }}",
        // One text in many places of a list.
        &(texts(120) + "{{ x ~ '' }}"),
        &(texts(120) + "{{ x in 'abc' }}"),
        &(texts(120) + "{{ x | string }}"),
        &(texts(120) + "{{ x | join }}"),
        &(texts(120) + "{{ x }}"),
        // Short literal text, macros, mappings, and recursion that ends in much text.
        &loops("0123456789"),
        &format!("{{% set x %}}{}{{% endset %}}", loops("0123456789")),
        &loops("{% macro m() %}{% endmacro %}"),
        &loops("{% set ns = namespace(x=[a, b, c, d]) %}"),
        &format!("{{% set ns = namespace(l=0) %}}{}", loops("{% set ns.l = dict(a=ns.l) %}")),
        "{% macro m(n) %}{% if n > 2 %}{% set y %}{{ 'y' * 8000 }}{% endset %}{% endif %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
        "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    ] {
        let wrong = render(bad, &messages()).expect_err(bad);
        let deep = wrong.to_string().contains("nested deeper");
        assert!(deep || matches!(wrong, TextError::TemplateBound { .. }), "{bad}: {wrong}");
        let good = bad.replace("000", "").replace("range(900)", "range(9)").replace("120", "3").replace("'abcdefghij'", "'a'");
        let good = good.replace("m(n + 1)", "m(n + 1) if n < 3").replace("loop([1, 2])", "loop([]) if a");
        assert!(render(&good, &messages()).is_ok(), "{good}: {:?}", render(&good, &messages()));
    }
}

#[test]
fn chat_template_28_values_that_contain_themselves() {
    for bad in [
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns | tojson }}",
        "{% set ns = namespace() %}{% set l = [ns] %}{% set ns.a = l %}{{ ns.a == ns.a }}",
        "{% set ns = namespace() %}{% set m = namespace(n=ns) %}{% set ns.m = m %}{{ ns }}",
        "{% set ns = namespace() %}{% set d = dict(n=ns) %}{% set ns.m = d %}{{ ns }}",
    ] {
        assert!(render(bad, &messages()).is_err(), "{bad}");
    }
    assert_eq!(render("{% set ns = namespace() %}{% set ns.a = [1] %}{{ ns.a }}", &messages()).expect("renders"), "[1]");
}

#[test]
fn chat_template_28_output_of_a_gigabyte() {
    let filler = "lorem ipsum ".repeat(100);
    let body = |n: usize| format!("{{% for i in range({n}) %}}{filler}{{% endfor %}}");
    assert!(matches!(render(&body(1_000), &messages()), Err(TextError::TemplateBound { .. })));
    assert_eq!(render(&body(2), &messages()).expect("renders").len(), 2400);
    // The same, gathered instead of written.
    let gathered = |n: usize| format!("{{% set x %}}{}{{% endset %}}{{{{ x | length }}}}", body(n));
    twins(&gathered(90_000), "text in bytes", &gathered(2), "2400");
    let called = |n: usize| format!("{{% macro m() %}}{}{{% endmacro %}}{{{{ m() | length }}}}", body(n));
    twins(&called(90_000), "text in bytes", &called(2), "2400");
    let blank =
        |n: usize| format!("{{% set x %}}{{% for i in range({n}) %}}a{{{{ i }}}}{}\n{{% endfor %}}{{% endset %}}.", "\n".repeat(1000));
    twins(&blank(1_000), "text in bytes", &blank(2), ".");
    let json = "{% for i in range(90000) %}{{ messages | tojson(indent=60) }}{% endfor %}";
    assert!(render(json, &messages()).is_err());
    twins("{{ 1 | tojson(indent=1000000000) }}", "1000000000", "{{ [1] | tojson(indent=1) }}", "[\n 1\n]");
    twins("{{ '%100000000d' | format(1) }}", "", "{{ '%3d' | format(1) }}", "  1");
    twins("{{ '{:100000000}'.format(1) }}", "", "{{ '{:3}'.format(1) }}", "  1");
    twins("{{ 'a\nb' | indent(100000000) }}", "bytes", "{{ 'a\nb' | indent(1) }}", "a\n b");
}

#[test]
fn chat_template_28_its_own_words() {
    assert!(matches!(render("{{ raise_exception('no') }}", &messages()), Err(TextError::Refused { reason }) if reason == "no"));
    twins("{{ raise_exception('my own words') }}", "my own words", "{{ raise_exception('x') if false }}.", ".");
    twins("{{ 1 | nonsense }}", "nonsense", "{{ 1 | abs }}", "1");
    twins("{{ nonsense(1) }}", "nonsense", "{{ range(1) | first }}", "0");
    twins("{{ 1 is nonsense }}", "nonsense", "{{ 1 is odd }}", "True");
    twins("{{ undefined_thing | tojson }}", "undefined", "{{ none | tojson }}", "null");
    twins("{{ 1 | tojson(colour=1) }}", "colour", "{{ 1 | tojson(sort_keys=true) }}", "1");
    twins("x\n{{ 1 + }}", "line 2", "x\n{{ 1 + 1 }}", "x\n2");
    twins("{% generation %}x", "", "{% generation %}x{% endgeneration %}", "x");
    twins("{% for x in none %}{% endfor %}", "none", "{% for x in nobody %}{% endfor %}.", ".");
}

#[test]
fn chat_template_28_two_templates_of_one_name() {
    let list = |second: &str| json!({"chat_template": [{"name": "default", "template": "a"}, {"name": second, "template": "b"}]});
    let read = |list: Value| bounded(list.to_string().len(), || ChatTemplate::from_tokenizer_config(&list));
    let wrong = read(list("default")).expect_err("twice").to_string();
    assert!(wrong.contains("`default`"), "{wrong}");
    assert_eq!(read(list("rag")).expect("sound").expect("there").names().count(), 2);
}

#[test]
fn chat_template_28_odd_conversations() {
    let plain = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}";
    assert_eq!(render(plain, &[]).expect("renders"), "");
    let first = "{{ messages[0]['role'] }}";
    assert!(render(first, &[]).expect_err("no message").to_string().contains("undefined"));
    assert_eq!(render(first, &messages()).expect("renders"), "user");
    assert_eq!(render("{{ messages[::-1] | length }}{{ ''[::-1] }}", &[]).expect("renders"), "0");
    let null: Message = serde_json::from_value(json!({"role": "user", "content": null})).expect("a message");
    assert_eq!(render("{{ messages[0].content is none }}", std::slice::from_ref(&null)).expect("renders"), "True");
    assert!(render("{{ 'x' + messages[0].content }}", &[null]).is_err());
    let part: Message = serde_json::from_value(json!({"role": "user", "content": [{"type": "mystery"}]})).expect("a message");
    let parts =
        "{% for p in messages[0].content %}{{ p.text if p.type == 'text' else raise_exception('cannot show ' ~ p.type) }}{% endfor %}";
    assert!(render(parts, &[part]).expect_err("a mystery").to_string().contains("cannot show mystery"));
    let text: Message = serde_json::from_value(json!({"role": "user", "content": [{"type": "text", "text": "t"}]})).expect("a message");
    assert_eq!(render(parts, &[text]).expect("renders"), "t");
}

#[test]
fn chat_template_28_tool_schema_that_refers_to_itself() {
    let node = json!({"$ref": "#/$defs/node", "$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}}}});
    let tools = json!([{"type": "function", "function": {"name": "walk", "parameters": node}}]);
    let template = "{% for t in tools %}{{ t | tojson }}{% endfor %}";
    assert_eq!(render_tools(template, &tools).expect("renders").matches("$ref").count(), 2);
    // Without references nothing repeats, but it can be deep.
    let deep = |n: usize| json!([(0..n).fold(json!({}), |inner, _| json!({ "properties": { "x": inner } }))]);
    let wrong = render_tools(template, &deep(300)).expect_err("deep").to_string();
    assert!(wrong.contains("deeper"), "{wrong}");
    assert!(render_tools(template, &deep(20)).is_ok());
}

#[test]
fn chat_template_28_slow_searches_in_long_text() {
    let source = "{% set t = messages[0].content %}{% for i in range(N) %}{% if 'needle' in t %}{% endif %}{% endfor %}.";
    let long = [Message::user("hay ".repeat(100_000))];
    assert!(render(&source.replace('N', "90000"), &long).is_err());
    assert_eq!(render(&source.replace('N', "9"), &long).expect("renders"), ".");
}

#[test]
fn a_long_conversation_is_within_the_bounds() {
    let turns: Vec<Message> = (0..600)
        .map(|n| if n % 2 == 0 { Message::user("question ".repeat(20)) } else { Message::assistant("answer ".repeat(20)) })
        .collect();
    let source = "{% set ns = namespace(all='') %}{% for m in messages %}{% set ns.all = ns.all ~ m.role ~ m.content %}\
        {% for n in messages %}{% if n.role == 'tool' %}{% endif %}{% endfor %}{% endfor %}{{ ns.all | length }}";
    // The values of the engine, and the text that grows: old, new, and the block that it is written into.
    let bytes = 8 * json!(turns).to_string().len();
    let text = within(bytes, Duration::from_secs(1), || compute(source, &turns, None)).expect("renders");
    assert_eq!(text, (300 * (4 + 180) + 300 * (9 + 140)).to_string());
}

#[test]
fn chat_template_28_chains_as_long_as_the_source() {
    let chains: &[(&str, &str, &str)] = &[
        ("{{ 1", " + 1", " }}"),
        ("{{ 'a'", " ~ 'a'", " }}"),
        ("{{ 1", " and 1", " }}"),
        ("{{ 1", " if 1 else 1", " }}"),
        ("{{ 1", " ** 1", " }}"),
        ("{{ 1", " == 1", " }}"),
        ("{{ 1", " is odd is odd", " }}"),
        ("{{ 1", " | abs", " }}"),
        ("{{ messages", ".a", " }}"),
        ("{{ messages", "[0]", " }}"),
        ("{{ messages", "()", " }}"),
        ("{{ ", "not ", "1 }}"),
        ("{{ ", "-", "1 }}"),
        ("{{ ", "- ", "1 }}"),
        ("{{ ", "[", " }}"),
        ("{% if 0 %}", "{% elif 0 %}", "{% endif %}"),
        ("", "{% if 1 %}", ""),
        ("", "{% for x in messages %}", ""),
        ("", "{% macro m() %}", ""),
        ("", "{% set x %}", ""),
        ("{% raw %}", "{%", ""),
        ("", "{{", ""),
        ("", "{", ""),
        ("{{ '", "\\", ""),
        ("{{ f(", "a=1, ", ") }}"),
        ("{% set ", "a, ", "b = 1 %}"),
        ("{{ 1", "[:]", " }}"),
    ];
    for (start, link, end) in chains {
        for size in [3 << 10, 16 << 10, 500 << 10] {
            let long = format!("{start}{}{end}", link.repeat(size / link.len()));
            let _ = render(&long, &messages());
            // Broken over lines, where a line may not be longer.
            let _ = render(&format!("{start}{}{end}", format!("{link}\n").repeat(size / link.len())), &messages());
        }
    }
    for size in [3 << 10, 16 << 10, 50 << 10, 500 << 10] {
        let tags = |tag: &str| render_sound(&tag.repeat(size / tag.len()));
        assert_eq!(tags("{{ 1 }}\n").is_ok(), size < 60_000, "{size}");
        let _ = tags("{{ 1 }}");
    }
    let readable = format!("{{{{ 'a'{} }}}}", " ~ 'b'".repeat(100));
    assert_eq!(render(&readable, &messages()).expect("renders").len(), 101);
}

/// The engine without charges, for what templates mean without them.
fn uncharged(source: &str) -> Option<String> {
    let mut env = minijinja::Environment::new();
    let syntax = minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("sound"));
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    use minijinja::Value;
    let message = Value::from_pairs([("role", Value::from("user")), ("content", Value::from("hi")), ("n", Value::from(7))]);
    let context = Value::from_pairs([
        ("messages", Value::from(vec![message])),
        ("add_generation_prompt", Value::from(true)),
        ("tools", Value::from(())),
        ("documents", Value::from(())),
    ]);
    env.render_str(source, context).ok()
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "messages",
        "messages[0].content",
        "nobody",
        "'it\\'s'",
        "\"{{\"",
        "3",
        "true",
        "none",
        "messages[0]['n']",
        "x",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(4, 24, 3, |inner| {
        let two = (inner.clone(), inner.clone(), prop::sample::select(vec![" ~ ", " + ", " and ", " or ", " == ", " in ", " * ", ", "]));
        let one = prop::sample::select(vec![
            "(#)",
            "[#][0]",
            "{'k': #}.k",
            "{'k': #}['k']",
            "# | string | upper",
            "not #",
            "-#",
            "# is defined",
            "# is not none",
            "(# | string).strip('h')",
            "# if add_generation_prompt else 'no'",
            "range(2) | list",
            "(#)[0:1]",
            "(# | string)[1:] | length",
            "# | default('d', true)",
            "namespace(a=#).a",
            "dict(a=#)['a']",
            "# is in [#, 'hi']",
        ]);
        prop_oneof![two.prop_map(|(a, b, op)| format!("{a}{op}{b}")), (inner, one).prop_map(|(e, shape)| shape.replace('#', &e))]
    })
}

fn template() -> impl Strategy<Value = String> {
    let text = prop::sample::select(vec![
        "a",
        " ",
        "\n",
        "  \n  ",
        "{",
        "}",
        "{ \"k\": 1 }",
        "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n  ",
        "   a long line of text that is charged for what it is: more than some bytes   ",
        "{# note #}",
        "{#- note -#}",
        "{% raw %}{{ x }}{% endraw %}",
        "\n    \n  a long line of text behind a line end, charged as well, in its middle \n ",
    ]);
    let leaf = prop_oneof![
        text.prop_map(str::to_owned),
        expression().prop_map(|e| format!("{{{{ {e} }}}}")),
        expression().prop_map(|e| format!("{{{{- {e} -}}}}"))
    ];
    let node = leaf.prop_recursive(3, 16, 4, |inner| {
        let body = prop::collection::vec(inner, 0..4).prop_map(|parts| parts.concat());
        let shape = prop::sample::select(vec![
            "{% if # %}@{% else %}n{% endif %}",
            "{%- if # -%}@{%- elif # %}@{%- endif -%}",
            "{% for x in [#, 1] %}@{% endfor %}",
            "{% for x in messages if # %}@{{ loop.index }}{% endfor %}",
            "{% set x = # %}@",
            "{% set ns = namespace(v=1) %}{% set ns.v = # %}{{ ns.v }}@",
            "{% set x %}@{% endset %}{{ x }}",
            "{% macro m(x, y=#) %}@{% endmacro %}{{ m(#) }}",
            "{% with x = # %}@{% endwith %}",
            "{% filter upper %}@{% endfilter %}",
            "{% macro w() %}{{ caller(#) }}{% endmacro %}{% call(x) w() %}@{% endcall %}",
            "\n  {%+ if true %}@{% endif +%}\n",
        ]);
        (shape, expression(), body).prop_map(|(shape, e, body)| shape.replace('#', &e).replace('@', &body))
    });
    prop::collection::vec(node, 1..5).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn charges_change_no_rendering(source in template()) {
        // Where the engine fails or is more lenient than Python there is nothing to compare.
        if let (Some(plain), Ok(charged)) = (uncharged(&source), render_sound(&source)) {
            prop_assert_eq!(charged, plain, "{}", source);
        }
    }

    #[test]
    fn any_text_as_a_template_answers(parts in prop::collection::vec(prop::sample::select(vec![
        "{{", "}}", "{%", "%}", "{#", "#}", "-", "+", " ", "\n", "if", "endif", "for", "in", "endfor", "set", "endset", "=", "macro", "endmacro", "raw", "endraw", "x", "'", "\"", "\\", "[", "]", "(", ")", "{", "}",
        "|", "upper", ".", ",", ":", "*", "~", "is", "not", "1", "1.5e3", "é", "messages", "namespace()", "::-1", "%", "generation", "endgeneration", "call", "elif", "else", "with", "loop(", "recursive",
    ]), 0..24)) {
        let _ = render(&parts.concat(), &messages());
    }
}
