//! Command-line flags and terminal behaviour shared by the programs.

use std::process::ExitCode;

/// The exit code of a program, with its error printed.
pub fn exit(result: anyhow::Result<u8>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::from(1)
        }
    }
}

/// Programs of language models.
pub mod lm {
    use rlx_lm::{LmFamily, LmRunner};
    use std::ffi::OsString;

    /// Completes a prompt.
    pub fn run(family: &'static dyn LmFamily, _program: &str, args: impl IntoIterator<Item = OsString>) -> anyhow::Result<u8> {
        let args: Vec<OsString> = args.into_iter().collect();
        let mut runner = LmRunner::builder(family).weights(&args[0]).build()?;
        let ids = runner.tokenizer()?.encode(&args[1].to_string_lossy(), true)?;
        let done = runner.generate_text(&ids, &Default::default(), &mut |_, _| {}, &mut |_| true)?;
        println!("{}", done.text);
        Ok(0)
    }
}
