//! How programs end.

use std::io::{self, Write};
use std::process::ExitCode;

/// Exit code after Ctrl-C.
pub const CANCELLED: u8 = 130;

/// What the exit codes mean, for `--help`.
pub const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 cancelled with Ctrl-C.";

/// The command line asks for something that cannot be; exit code 2.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(
    /// What is wrong, and what to do.
    pub String,
);

/// The exit code of a program, with its error printed to stderr.
///
/// A reader of stdout that went away (`| head`) is no error: the program ends quietly.
pub fn exit(result: anyhow::Result<u8>) -> ExitCode {
    let error = match result {
        Ok(code) => return ExitCode::from(code),
        Err(e) => e,
    };
    if let Some(e) = error.downcast_ref::<clap::Error>() {
        // Help and usage texts; stdout or stderr may be gone.
        let _ = e.print();
        return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
    }
    if error.chain().any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)) {
        return ExitCode::SUCCESS;
    }
    let _ = writeln!(io::stderr(), "error: {}", describe(&error));
    ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
}

/// An error and its causes, one a line; causes whose text the error above them tells already are left out.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text += &format!("\n  caused by: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let e = anyhow::anyhow!("disk full").context("x.gguf: disk full").context("cannot load");
        assert_eq!(describe(&e), "cannot load\n  caused by: x.gguf: disk full");
    }
}
