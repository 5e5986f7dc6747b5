//! Ctrl-C: cancels the answer that is being made; otherwise ends the program.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// An answer is being made.
static ANSWERING: AtomicBool = AtomicBool::new(false);

fn flag() -> &'static Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&flag);
        // Fails where a host program handles Ctrl-C itself; then it is the host's to decide.
        let _ = ctrlc::set_handler(move || {
            let again = seen.swap(true, Ordering::SeqCst);
            if again || !ANSWERING.load(Ordering::SeqCst) {
                std::process::exit(i32::from(crate::CANCELLED));
            }
        });
        flag
    })
}

/// While it lives, the first Ctrl-C cancels and the second ends the program.
pub struct Answering(());

impl Answering {
    /// Starts now.
    pub fn start() -> Answering {
        flag().store(false, Ordering::SeqCst);
        ANSWERING.store(true, Ordering::SeqCst);
        Answering(())
    }

    /// Whether Ctrl-C was pressed.
    pub fn cancelled(&self) -> bool {
        flag().load(Ordering::SeqCst)
    }

    /// The flag itself, for the engine to look at.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(flag())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        ANSWERING.store(false, Ordering::SeqCst);
    }
}
