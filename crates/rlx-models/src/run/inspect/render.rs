//! `--render`: what the chat template makes of an example conversation.

use super::page::{Page, first_of};
use super::words::{Template, Words, tokens};
use crate::run::check::one_line;
use rlx_text::Message;
use serde_json::{Map, Value, json};

/// The tool of the example.
const TOOL: &str = "get_weather";
/// Most ids shown in text; JSON has them all.
const IDS: usize = 96;

/// A conversation and what became of it.
struct Rendering {
    name: &'static str,
    text: Result<String, String>,
    /// Ids of the text, or why there are none.
    ids: Result<Vec<u32>, String>,
}

/// Every rendering, or why there is none.
pub(super) struct Renderings(Result<Vec<Rendering>, String>);

fn conversation(system: bool) -> Vec<Message> {
    let mut messages = vec![];
    messages.extend(system.then(|| Message::system("You are a helpful assistant.")));
    messages.push(Message::user("What is the capital of Norway?"));
    messages.push(Message::assistant("The capital of Norway is Oslo."));
    messages.push(Message::user("And of Sweden?"));
    messages
}

/// A question, the call that the model makes, and what the tool answers.
fn with_tool(system: bool) -> Vec<Message> {
    // Mistral's templates take ids of nine characters alone.
    let id = "call00001";
    let call = json!([{ "id": id, "type": "function", "function": { "name": TOOL, "arguments": { "city": "Oslo" } } }]);
    let mut messages = vec![];
    messages.extend(system.then(|| Message::system("You are a helpful assistant.")));
    messages.push(Message::user("What is the weather in Oslo?"));
    messages.push(Message::assistant("").with("tool_calls", call));
    messages.push(Message::tool("4 °C, rain").with("name", TOOL).with("tool_call_id", id));
    messages
}

fn tools() -> Value {
    let city = json!({ "type": "string", "description": "Name of the city" });
    let parameters = json!({ "type": "object", "properties": { "city": city }, "required": ["city"] });
    json!([{ "type": "function", "function": { "name": TOOL, "description": "The weather of a city", "parameters": parameters } }])
}

fn render(t: &Template, messages: &[Message], tools: Option<&Value>) -> Result<String, String> {
    let compiled = t.compiled.as_ref().map_err(Clone::clone)?;
    compiled.render(messages, tools, true, &t.variables).map_err(|e| e.to_string())
}

/// Whether a tool that is offered comes into the prompt; `None` when nothing can be rendered.
pub(super) fn takes_tools(t: &Template) -> Option<bool> {
    let ask = [Message::user("Hello")];
    let text = render(t, &ask, Some(&tools())).ok()?;
    Some(text.contains(TOOL))
}

impl Renderings {
    /// An example with and, where the template takes them, without tools.  What a template refuses about instructions
    /// is told, and the conversation rendered without them.
    pub fn of(words: Option<&Words>, template: Option<&Template>) -> Renderings {
        let Some(t) = template else { return Renderings(Err("there is no chat template".into())) };
        let one = |name, messages: Vec<Message>, tools: Option<&Value>| {
            let text = render(t, &messages, tools);
            let ids = match (&text, words) {
                // The template writes special tokens itself.
                (Ok(text), Some(w)) => w.tokenizer.encode(text, false).map_err(|e| e.to_string()),
                (Ok(_), None) => Err("there is no tokenizer that could be used".into()),
                (Err(_), _) => Err("nothing was rendered".into()),
            };
            Rendering { name, text, ids }
        };
        let mut all = vec![one("conversation", conversation(true), None)];
        let system = all.iter().all(|r| r.text.is_ok());
        if !system && t.compiled.is_ok() {
            all.push(one("conversation without instructions", conversation(false), None));
        }
        if takes_tools(t) == Some(true) {
            all.push(one("conversation with a tool", with_tool(system), Some(&tools())));
        }
        Renderings(Ok(all))
    }

    /// Why nothing could be rendered at all.
    pub fn failure(&self) -> Option<&String> {
        match &self.0 {
            Err(why) => Some(why),
            Ok(all) if all.iter().all(|r| r.text.is_err()) => all.iter().find_map(|r| r.text.as_ref().err()),
            Ok(_) => None,
        }
    }

    pub fn json(&self) -> Value {
        let Ok(all) = &self.0 else { return Value::Null };
        let one = |r: &Rendering| {
            let mut object = Map::from_iter([("name".to_owned(), Value::from(r.name))]);
            object.insert("text".into(), r.text.as_ref().ok().cloned().into());
            object.insert("tokens".into(), r.ids.as_ref().ok().map(Vec::len).into());
            object.insert("ids".into(), r.ids.as_ref().ok().cloned().into());
            let error = r.text.as_ref().err().or(r.ids.as_ref().err());
            object.insert("error".into(), error.cloned().into());
            Value::from(object)
        };
        all.iter().map(one).collect()
    }

    pub fn text(&self, page: &mut Page) {
        let all = match &self.0 {
            Ok(all) => all,
            Err(why) => {
                page.section("rendering");
                return page.line("none", why);
            }
        };
        for r in all {
            let size = match (&r.text, &r.ids) {
                (Ok(text), Ok(ids)) => format!(": {}, {} bytes", tokens(ids.len()), text.len()),
                (Ok(text), Err(_)) => format!(": {} bytes", text.len()),
                (Err(_), _) => String::new(),
            };
            page.section(&format!("rendering of a {}{size}", r.name));
            match (&r.text, &r.ids) {
                (Err(why), _) => page.line("refused", why),
                (Ok(text), ids) => {
                    text.split('\n').for_each(|line| page.raw(&format!("  | {}", one_line(line))));
                    match ids {
                        Ok(ids) => page.line("ids", &first_of(&ids.iter().map(u32::to_string).collect::<Vec<_>>(), IDS)),
                        Err(why) => page.line("no ids", why),
                    }
                }
            }
        }
    }
}
