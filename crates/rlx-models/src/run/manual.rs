//! `rlx-run completions` and `rlx-run man`: rendered from the flags that the programs parse, so neither can be behind.

use super::{Command, command_line, commands};
use clap::Parser;
use clap_complete::Shell;
use clap_mangen::Man;
use rlx_cli::Usage;
use rlx_cli::args;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

const COMPLETIONS: &str = "\
Examples:
  $P bash > ~/.local/share/bash-completion/completions/rlx-run
  $P zsh > ~/.zfunc/_rlx-run
  $P fish > ~/.config/fish/completions/rlx-run.fish
  $P bash --program rlx-inspect            one of the other programs
";

const MAN: &str = "\
Examples:
  $P ~/.local/share/man/man1     a page for every program and command
  $P | man -l -                  the page of rlx-run
";

/// Print the completion script of a shell
#[derive(Parser, Debug)]
#[command(version)]
struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
    /// The program to complete
    #[arg(long, value_name = "NAME", default_value = "rlx-run")]
    program: String,
}

/// Write manual pages, one for each program and command
#[derive(Parser, Debug)]
#[command(version)]
struct ManArgs {
    /// Where to write the pages; made if need be.  Without it, the page of rlx-run goes to stdout
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions_command(program: &str) -> clap::Command {
    args::command::<CompletionsArgs>(program, COMPLETIONS)
}

pub(super) fn man_command(program: &str) -> clap::Command {
    args::command::<ManArgs>(program, MAN)
}

pub(super) fn completions(program: &str, args: Vec<OsString>) -> anyhow::Result<u8> {
    let args: CompletionsArgs = args::parse(program, COMPLETIONS, args)?;
    let mut programs = programs();
    let Some((name, command)) = programs.iter_mut().find(|(name, _)| *name == args.program) else {
        let known: Vec<String> = programs.into_iter().map(|p| p.0).collect();
        return Err(Usage(format!("--program {}: no such program; there are {}", args.program, known.join(", "))).into());
    };
    // The generators write to what cannot fail; a reader of stdout that went away is dealt with here.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, name.clone(), &mut script);
    if args.shell == Shell::Bash {
        // clap_complete 4.6 writes the dash of the program's name in two ways, so no command's flags would be found.
        let label = |dash: &str| args.program.replace('-', dash) + "__subcmd__";
        script = String::from_utf8(script)?.replace(&label("__subcmd__"), &label("__")).into_bytes();
    }
    io::stdout().write_all(&script)?;
    Ok(0)
}

pub(super) fn man(program: &str, args: Vec<OsString>) -> anyhow::Result<u8> {
    let args: ManArgs = args::parse(program, MAN, args)?;
    let pages = pages()?;
    let Some(dir) = args.dir else {
        let (_, page) = &pages[0];
        io::stdout().write_all(page)?;
        return Ok(0);
    };
    let wrote = |e: io::Error| anyhow::Error::from(e).context(format!("{}: cannot be written", dir.display()));
    std::fs::create_dir_all(&dir).map_err(wrote)?;
    for (name, page) in &pages {
        std::fs::write(dir.join(name), page).map_err(wrote)?;
    }
    writeln!(io::stdout(), "{} pages in {}", pages.len(), dir.display())?;
    Ok(0)
}

/// Every program with its flags: `rlx-run` with its commands, then the programs that are one command.
fn programs() -> Vec<(String, clap::Command)> {
    let all = commands();
    let with_flags = |c: &Command| c.clap(&format!("rlx-run {}", c.name)).name(c.name.clone());
    let run = command_line(&[]).arg_required_else_help(false).subcommands(all.iter().map(with_flags));
    let alone = all.iter().filter_map(|c| Some((c.program?.to_owned(), c.clap(c.program?))));
    std::iter::once(("rlx-run".to_owned(), run)).chain(alone).collect()
}

/// File names and manual pages; the first is that of `rlx-run`.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let all = commands();
    let mut pages = vec![page("rlx-run", command_line(&all))?];
    for c in &all {
        pages.push(page(&format!("rlx-run-{}", c.name), c.clap(&format!("rlx-run {}", c.name)))?);
    }
    for (name, command) in all.iter().filter_map(|c| Some((c.program?, c.clap(c.program?)))) {
        pages.push(page(name, command)?);
    }
    Ok(pages)
}

/// The page of one command.  What follows the flags in `--help` (examples, exit codes) is kept line by line.
fn page(name: &str, command: clap::Command) -> io::Result<(String, Vec<u8>)> {
    let has_flags = command.get_arguments().next().is_some();
    let notes = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let commands: Vec<String> = command.get_subcommands().map(|c| format!("{name}-{}", c.get_name())).collect();
    let man = Man::new(command.name(name.to_owned()));
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    if has_flags {
        man.render_options_section(&mut out)?;
    }
    if !commands.is_empty() {
        man.render_subcommands_section(&mut out)?;
    }
    let notes = notes.strip_prefix("Examples:\n").unwrap_or(&notes);
    writeln!(out, ".SH EXAMPLES\n.nf")?;
    for line in notes.lines() {
        // A leading dot or apostrophe would be a request.
        writeln!(out, "\\&{}", line.replace('\\', "\\e").replace('-', "\\-"))?;
    }
    writeln!(out, ".fi")?;
    man.render_version_section(&mut out)?;
    // Formatters do not agree on the encoding of pages; escapes mean the same to all of them.
    let text = String::from_utf8_lossy(&out);
    let escape = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", c as u32) };
    Ok((format!("{name}.1"), text.chars().map(escape).collect::<String>().into_bytes()))
}
