//! Chat templates.
//!
//! Input: a template; behind a NUL byte, a JSON list of messages.

use rlx_bounds::within;
use rlx_text::{ChatTemplate, Message};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Renders a conversation with a template twice, with and without tools: the same both times, within bounds.
pub fn chat_template(data: &[u8]) {
    let data = String::from_utf8_lossy(data);
    let (source, messages) = data.split_once('\0').unwrap_or((&data, ""));
    let messages = messages_of(messages);
    within(bytes(source, &messages), Duration::from_secs(5), || {
        let Ok(template) = ChatTemplate::new(source) else { return };
        let template = template.with_clock(1_700_000_000).with_variable("bos_token", "<s>").with_variable("eos_token", "</s>");
        let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]);
        for tools in [None, Some(&tools)] {
            let render = || template.render(&messages, tools, true, &Map::new()).map_err(|e| e.to_string());
            let first = render();
            assert_eq!(first, render());
            if let Err(message) = first {
                assert!(!message.is_empty());
            }
        }
    });
}

/// What four renderings, one after another, may hold at most: the tree and instructions of a template of nothing but
/// short tags, the engine's values of the conversation, text thrice while it grows, and the frames of macros.
fn bytes(source: &str, messages: &[Message]) -> usize {
    let messages = json!(messages);
    // With the names of the variables, the tool and the special tokens.
    let conversation = messages.to_string().len() + 512;
    let (items, depth) = (messages.as_array().map_or(0, Vec::len) + 1, depth(&messages).max(7));
    let text = (8 << 10) + 4 * source.len() + conversation * (32 + 4 * items + 4 * depth);
    let levels = (30 + 8 * depth + (source.len() + conversation) / 256).min(400) / 5;
    (64 << 10) + 128 * source.len() + 8 * conversation + 3 * text.min(256 << 20) + (5 << 10) * levels
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn messages_of(text: &str) -> Vec<Message> {
    match serde_json::from_str(text) {
        Ok(Value::Array(list)) => list.into_iter().filter_map(|m| if let Value::Object(m) = m { Some(Message(m)) } else { None }).collect(),
        _ => vec![Message::system("s"), Message::user("a\"b\n<x>é"), Message::assistant("c"), Message::user("d")],
    }
}
