//! Every sample case of every op, at every instruction set this machine has (`RLX_TEST_LEVEL=avx2` names one).

mod levels;

use levels::levels;
use rlx_conform::{OnBackend, conform};
use rlx_cpu::{Cpu, Options};

fn check(exact: bool, threads: usize) {
    for level in levels() {
        let cpu = Cpu::new(Options { threads, level: Some(level), exact, ..Options::default() }).unwrap();
        for (seed, mapped) in [(1, false), (2, true)] {
            conform(&mut OnBackend { mapped, ..OnBackend::new(&cpu) }, seed).assert_ok();
        }
    }
}

#[test]
fn every_op_conforms_at_every_level() {
    check(false, 2);
}

#[test]
fn every_op_conforms_in_exact_mode_and_with_odd_numbers_of_threads() {
    check(true, 1);
    check(true, 3);
}
