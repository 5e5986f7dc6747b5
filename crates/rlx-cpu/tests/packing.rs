//! Weights that are packed while they are in use give the results of weights packed while loading, to the last bit.

mod levels;
mod packable;

use levels::levels;
use packable::{graph, tokens, weights};
use rlx_conform::{OnBackend, Runner};
use rlx_cpu::{Cpu, Options};

#[test]
fn results_do_not_depend_on_how_far_packing_is() {
    for level in levels() {
        for format in ["q4_0", "q8_0", "q4_k", "q5_k", "q6_k", "affine4_g64_f16", "q5_1"] {
            let g = graph(format);
            let params = weights(&g);
            let options = Options { threads: 3, level: Some(level), ..Options::default() };
            let (eager, lazy) = (Cpu::new(Options { eager: true, ..options }).unwrap(), Cpu::new(options).unwrap());
            let mut eager = OnBackend { mapped: true, ..OnBackend::new(&eager) }.prepare(&g, &params).unwrap();
            let mut lazy = OnBackend { mapped: true, ..OnBackend::new(&lazy) }.prepare(&g, &params).unwrap();
            for run in 0..40 {
                let (dims, inputs) = tokens([1, 9, 40][run % 3]);
                let (a, b) = (eager.run(&dims, &inputs).unwrap(), lazy.run(&dims, &inputs).unwrap());
                assert!(a == b, "{format} at {level}, run {run}");
            }
        }
    }
}
