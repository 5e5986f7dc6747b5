//! The chat at the terminal.

use crate::Usage;
use crate::lm::{Answerer, Fresh};
use crate::term::speed;
use rlx_lm::{Chat, LmError};
use rlx_text::Message;
use rustyline::error::ReadlineError;
use std::io::{self, Write};

const HELP: &str = "  /clear           forget the conversation
  /system [TEXT]   show, or replace, the instructions; replacing starts over
  /help            this
  /exit            leave (so do Ctrl-D and Ctrl-C at the prompt)
  A line that ends with \\ goes on in the next.  Ctrl-C during an answer ends the answer.";

/// What a line asks for.
#[derive(PartialEq, Eq, Debug)]
enum Line<'a> {
    Clear,
    System(&'a str),
    Help,
    Exit,
    Unknown(&'a str),
    Empty,
    Say(&'a str),
}

fn read(line: &str) -> Line<'_> {
    let line = line.trim();
    let Some(command) = line.strip_prefix('/') else {
        return if line.is_empty() { Line::Empty } else { Line::Say(line) };
    };
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    match name {
        "clear" | "reset" => Line::Clear,
        "system" => Line::System(rest.trim()),
        "help" | "?" => Line::Help,
        "exit" | "quit" | "bye" => Line::Exit,
        other => Line::Unknown(other),
    }
}

/// Talks until the user leaves.
pub(crate) fn run(a: &mut Answerer, system: Option<&str>, fresh: &Fresh) -> anyhow::Result<u8> {
    if !a.raw {
        a.runner.template()?; // before anything is typed
    }
    let mut editor = rustyline::Editor::<(), _>::with_history(rustyline::Config::default(), rustyline::history::MemHistory::new())
        .map_err(|e| Usage(format!("no chat at this terminal ({e}); give --prompt")))?;
    a.notes.say("/help for help, Ctrl-D to leave");
    let (mut chat, mut system) = (fresh.chat(system), system.map(str::to_owned));
    loop {
        let line = match next(&mut editor) {
            Ok(line) => line,
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(0),
            Err(e) => return Err(e.into()),
        };
        match read(&line) {
            Line::Empty => {}
            Line::Exit => return Ok(0),
            Line::Help => writeln!(io::stderr(), "{HELP}")?,
            Line::Unknown(name) => writeln!(io::stderr(), "unknown command /{name}; /help lists them")?,
            Line::Clear => chat = fresh.chat(system.as_deref()),
            Line::System("") => writeln!(io::stderr(), "{}", system.as_deref().unwrap_or("(no instructions)"))?,
            Line::System(text) => {
                system = Some(text.to_owned());
                chat = fresh.chat(Some(text));
            }
            Line::Say(text) => say(a, &mut chat, text)?,
        }
    }
}

/// One line, with what continues it.
fn next(editor: &mut rustyline::Editor<(), rustyline::history::MemHistory>) -> Result<String, ReadlineError> {
    let mut line = editor.readline("> ")?;
    while line.ends_with('\\') {
        line.pop();
        line.push('\n');
        line += &editor.readline(". ")?;
    }
    editor.add_history_entry(line.as_str())?;
    Ok(line)
}

/// One turn.  A failed turn leaves the conversation as it was; a cancelled one keeps what was said.
fn say(a: &mut Answerer, chat: &mut Chat, text: &str) -> anyhow::Result<()> {
    let before = chat.messages.len();
    match turn(a, chat, text) {
        Ok(()) => Ok(()),
        Err(e) if e.downcast_ref::<LmError>().is_some() => {
            chat.messages.truncate(before);
            let hint = if matches!(e.downcast_ref(), Some(LmError::TooLong { .. })) { " (/clear starts over)" } else { "" };
            writeln!(io::stderr(), "error: {}{hint}", crate::describe(&e))?;
            Ok(())
        }
        Err(e) => Err(e),
    }
}

fn turn(a: &mut Answerer, chat: &mut Chat, text: &str) -> anyhow::Result<()> {
    let done = if a.raw {
        let ids = a.runner.tokenizer()?.encode(text, true).map_err(LmError::from)?;
        a.answer(&ids)?
    } else {
        chat.messages.push(Message::user(text));
        let ids = chat.prompt_ids(&a.runner)?;
        let done = a.answer(&ids)?;
        chat.messages.push(Message::assistant(done.text.clone()));
        done
    };
    a.notes.say(speed(&done));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_speech() {
        assert_eq!(read("  hello "), Line::Say("hello"));
        assert_eq!(read("/system  Be brief. "), Line::System("Be brief."));
        assert_eq!(read("/exit"), Line::Exit);
        assert_eq!(read("/sing"), Line::Unknown("sing"));
        assert_eq!(read("  "), Line::Empty);
    }
}
