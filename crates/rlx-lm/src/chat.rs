//! Conversations: messages with their history.

use crate::{GenerateOptions, Generation, LmError, LmRunner, Result};
use rlx_text::Message;
use serde_json::Value;

/// A conversation with a model.  Each answer is added to the history; what the cache holds is not
/// computed again.
#[derive(Clone, Debug, Default)]
pub struct Chat {
    /// Messages so far.
    pub messages: Vec<Message>,
    /// Tool definitions, as the template takes them.
    pub tools: Option<Value>,
    /// More variables for the template (`enable_thinking`, …).
    pub variables: serde_json::Map<String, Value>,
}

impl Chat {
    /// An empty conversation, with instructions if given.
    pub fn new(system: Option<&str>) -> Chat {
        Chat { messages: system.map(Message::system).into_iter().collect(), ..Chat::default() }
    }

    /// The prompt the model gets now.
    pub fn prompt(&self, runner: &LmRunner) -> Result<String> {
        let (template, known) = runner.template()?;
        let mut variables = known.clone();
        variables.extend(self.variables.clone());
        template.render(&self.messages, self.tools.as_ref(), true, &variables).map_err(|source| LmError::Template { source })
    }

    /// The prompt as tokens.
    pub fn prompt_ids(&self, runner: &LmRunner) -> Result<Vec<u32>> {
        // The template writes special tokens itself.
        Ok(runner.tokenizer()?.encode(&self.prompt(runner)?, false)?)
    }

    /// Says something and hears the answer.  A failed or cancelled answer leaves what was said, and the
    /// text so far, in the history.
    pub fn say(
        &mut self,
        runner: &mut LmRunner,
        text: &str,
        options: &GenerateOptions,
        progress: &mut dyn FnMut(usize, usize),
        on_text: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Generation> {
        self.messages.push(Message::user(text));
        self.answer(runner, options, progress, on_text)
    }

    /// Lets the model answer the messages as they are.
    pub fn answer(
        &mut self,
        runner: &mut LmRunner,
        options: &GenerateOptions,
        progress: &mut dyn FnMut(usize, usize),
        on_text: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Generation> {
        let ids = self.prompt_ids(runner)?;
        let done = runner.generate_text(&ids, options, progress, on_text)?;
        self.messages.push(Message::assistant(done.text.clone()));
        Ok(done)
    }
}

impl LmRunner {
    /// The answer to a list of messages.
    pub fn chat(&mut self, messages: &[Message], options: &GenerateOptions, on_text: &mut dyn FnMut(&str) -> bool) -> Result<Generation> {
        let mut chat = Chat { messages: messages.to_vec(), ..Chat::default() };
        chat.answer(self, options, &mut |_, _| {}, on_text)
    }
}
