//! A program with all of `rlx-run` and a command of its own.
//!
//!     cargo run --release -p rlx-models --example register_custom_runner -- count weights/rlx-tiny-chat
//!     cargo run --release -p rlx-models --example register_custom_runner -- --help

use rlx_models::run;
use rlx_models::weights::{LoadOpts, open_with};
use std::ffi::OsString;
use std::process::ExitCode;

/// Prints how many parameters a checkpoint has.
fn count(args: Vec<OsString>) -> anyhow::Result<u8> {
    let Some(path) = args.first() else {
        return Err(rlx_cli::Usage("usage: count WEIGHTS".into()).into());
    };
    let checkpoint = open_with(LoadOpts::map(), path)?;
    println!("{} parameters in {} tensors", checkpoint.tensors().map(|t| t.elements()).sum::<u64>(), checkpoint.tensors().len());
    Ok(0)
}

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.is_empty() {
        args = vec!["count".into(), concat!(env!("CARGO_MANIFEST_DIR"), "/../../weights/rlx-tiny-chat").into()];
    }
    let result = run::register_cli("count", "Count the parameters of a checkpoint", count).map_err(Into::into);
    rlx_cli::exit(result.and_then(|()| run::main(args)))
}
