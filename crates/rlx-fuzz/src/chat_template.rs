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
    within(256 << 20, Duration::from_secs(10), || {
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

fn messages_of(text: &str) -> Vec<Message> {
    match serde_json::from_str(text) {
        Ok(Value::Array(list)) => list.into_iter().filter_map(|m| if let Value::Object(m) = m { Some(Message(m)) } else { None }).collect(),
        _ => vec![Message::system("s"), Message::user("a\"b\n<x>é"), Message::assistant("c"), Message::user("d")],
    }
}
