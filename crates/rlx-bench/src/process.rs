//! A program run once: what it printed, how long it took, how much memory it had.

use anyhow::{Context, bail};
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Instant;

/// What a program that ended well left.
pub struct Ran {
    /// Its stdout.
    pub out: String,
    /// From its start to its end.
    pub seconds: f64,
    /// The most memory it ever had, in bytes, where the system tells.
    pub peak: Option<u64>,
}

/// Runs a program to its end with nothing on its stdin.
///
/// # Errors
/// It cannot be started, or does not end with 0; then with the last lines of its stderr.
pub fn run(program: &Path, args: &[OsString]) -> anyhow::Result<Ran> {
    let started = Instant::now();
    let spawned = Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.with_context(|| format!("cannot run {}", program.display()))?;
    let (out, err) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let (status, peak) = reap(&mut child)?;
    let seconds = started.elapsed().as_secs_f64().max(1e-9);
    let text = |t: thread::JoinHandle<Vec<u8>>| String::from_utf8_lossy(&t.join().unwrap_or_default()).into_owned();
    let (out, err) = (text(out), text(err));
    if !status.success() {
        let tail: Vec<&str> = err.lines().rev().take(4).collect();
        bail!("{}: {status}: {}", shown(program, args), tail.into_iter().rev().collect::<Vec<_>>().join("; "));
    }
    Ok(Ran { out, seconds, peak })
}

/// A command as one would type it.
pub fn shown(program: &Path, args: &[OsString]) -> String {
    format!("{} {}", program.display(), args.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" "))
}

/// Reads a pipe to its end, so that the program never waits for its reader.
fn reader(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = vec![];
        // What could be read is worth showing.
        let _ = pipe.map(|mut p| p.read_to_end(&mut all));
        all
    })
}

/// Waits for the end; its status, and its peak memory.
#[cfg(unix)]
fn reap(child: &mut Child) -> io::Result<(ExitStatus, Option<u64>)> {
    use std::os::unix::process::ExitStatusExt;
    let pid = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    loop {
        // SAFETY: both pointers are to live memory of the types that the call fills, and the child was not waited for.
        if unsafe { libc::wait4(pid, &mut status, 0, usage.as_mut_ptr()) } == pid {
            break;
        }
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
    // SAFETY: zeros are a valid rusage, and the call has filled it.
    let usage = unsafe { usage.assume_init() };
    let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    let peak = u64::try_from(usage.ru_maxrss).ok().filter(|m| *m > 0).map(|m| m * unit);
    Ok((ExitStatus::from_raw(status), peak))
}

#[cfg(not(unix))]
fn reap(child: &mut Child) -> io::Result<(ExitStatus, Option<u64>)> {
    Ok((child.wait()?, None))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> anyhow::Result<Ran> {
        run(Path::new("/bin/sh"), &["-c".into(), script.into()])
    }

    #[test]
    fn output_time_and_memory_are_those_of_the_program() {
        let ran = shell("echo out; echo err >&2; sleep 0.1").unwrap();
        assert_eq!(ran.out, "out\n");
        assert!(ran.seconds >= 0.1, "{}", ran.seconds);
        assert!(ran.peak.is_some_and(|b| b > 100_000 && b < 1 << 30), "{:?}", ran.peak);
    }

    #[test]
    fn a_failure_tells_command_status_and_the_end_of_stderr() {
        let e = shell("for i in 1 2 3 4 5 6; do echo line $i >&2; done; exit 3").err().unwrap().to_string();
        assert!(e.starts_with("/bin/sh -c ") && e.contains("exit status: 3: line 3; line 4; line 5; line 6"), "{e}");
        let e = run(Path::new("no/such/program"), &[]).err().unwrap().to_string();
        assert_eq!(e, "cannot run no/such/program");
    }
}
