//! What programs say on stderr: notes, progress bars, figures.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rlx_lm::Generation;
use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Anything that takes less gets no progress bar.
const PATIENCE: Duration = Duration::from_millis(300);

/// Talks on stderr, unless told to be quiet.
#[derive(Clone, Copy, Debug)]
pub struct Notes {
    quiet: bool,
    bars: bool,
}

impl Notes {
    /// Progress bars are drawn only where stderr is a terminal.
    pub fn new(quiet: bool) -> Notes {
        Notes { quiet, bars: !quiet && io::stderr().is_terminal() }
    }

    /// One line.
    pub fn say(&self, text: impl fmt::Display) {
        if !self.quiet {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// A progress bar over bytes.
    pub fn bytes_bar(&self, what: &'static str) -> Bar {
        Bar::new(self.bars, what, "{msg:<8} [{bar:32}] {bytes} of {total_bytes}")
    }

    /// A progress bar over the bytes of a file that is being downloaded.
    pub fn download_bar(&self, file: &str) -> Bar {
        let name = file.rsplit('/').next().unwrap_or(file).to_owned();
        Bar::new(self.bars, name, "{msg} [{bar:32}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
    }

    /// A progress bar over tokens.
    pub fn tokens_bar(&self, what: &'static str) -> Bar {
        Bar::new(self.bars, what, "{msg:<8} [{bar:32}] {pos} of {len} tokens")
    }

    /// A progress bar over steps of any kind.
    pub fn count_bar(&self, what: &'static str) -> Bar {
        Bar::new(self.bars, what, "{msg:<8} [{bar:32}] {pos} of {len}")
    }
}

/// A progress bar that appears when something takes a while, and leaves nothing behind.
#[derive(Clone)]
pub struct Bar(Option<Arc<Inner>>);

struct Inner {
    bar: ProgressBar,
    since: Instant,
    shown: AtomicBool,
}

impl Bar {
    fn new(on: bool, what: impl Into<Cow<'static, str>>, template: &str) -> Bar {
        Bar(on.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()).with_message(what);
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            Arc::new(Inner { bar, since: Instant::now(), shown: AtomicBool::new(false) })
        }))
    }

    /// `done` of `all` is done.
    pub fn at(&self, done: u64, all: u64) {
        let Some(b) = &self.0 else { return };
        if done >= all {
            return self.clear();
        }
        if b.since.elapsed() > PATIENCE && !b.shown.swap(true, Ordering::Relaxed) {
            b.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        b.bar.set_length(all);
        b.bar.set_position(done);
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        if let Some(b) = &self.0 {
            b.bar.finish_and_clear();
        }
    }
}

/// `1.5 GiB`.
pub fn human_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut v, mut u) = (bytes as f64, 0);
    while v >= 1024.0 && u + 1 < units.len() {
        v /= 1024.0;
        u += 1;
    }
    match (u, v < 10.0) {
        (0, _) => format!("{bytes} B"),
        (_, true) => format!("{v:.1} {}", units[u]),
        (_, false) => format!("{v:.0} {}", units[u]),
    }
}

/// `7.0 M`.
pub fn human_count(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.1} k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.2} B", n as f64 / 1e9),
    }
}

/// Tokens per second, three digits.
pub fn rate(v: f64) -> String {
    if v < 99.95 { format!("{v:.1}") } else { format!("{v:.0}") }
}

/// `prompt 14 tok (0 cached) 812 tok/s · 8 tok 95.0 tok/s`.
pub fn speed(g: &Generation) -> String {
    let new = g.tokens.len();
    let mut text = format!("prompt {} tok ({} cached) {} tok/s · {new} tok", g.prompt_tokens, g.cached_tokens, rate(g.prefill_rate()));
    if new > 1 {
        text += &format!(" {} tok/s", rate(g.decode_rate()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(38 << 20), "38 MiB");
        assert_eq!(human_count(7_000_000), "7.0 M");
        assert_eq!(rate(811.6), "812");
        assert_eq!(rate(9.04), "9.0");
    }
}
