//! Every pass, alone and in the pipeline, keeps what a random graph computes.

mod common;
#[path = "common/random.rs"]
mod random;

use common::{assert_results, assert_well_formed, run};
use proptest::prelude::*;
use rlx_compile::passes::{FusionSwitches, Pass, pipeline, run_all};

/// Every pass once.
fn passes() -> Vec<Pass> {
    let mut all = pipeline(&FusionSwitches::default());
    all.pop();
    assert_eq!(all.len(), 11);
    all
}

/// Switches from the bits of a number.
fn switches(bits: u16) -> FusionSwitches {
    let on = |i: u16| bits >> i & 1 == 1;
    FusionSwitches {
        canonicalise: on(0),
        constant_fold: on(1),
        cse: on(2),
        dce: on(3),
        merge_linear: on(4),
        swiglu: on(5),
        epilogue: on(6),
        norm_residual: on(7),
        norm_residual_first: on(8),
        rope_append: on(9),
        elementwise: on(10),
        early_rows: on(11),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn passes_keep_results(seed in any::<u64>(), size in 1usize..28, bits in any::<u16>()) {
        let g = random::graph(seed, size);
        assert_well_formed("generated", &g, &g);
        let seen = run(&g, seed);
        for (name, pass) in passes() {
            let after = pass(g.clone());
            assert_well_formed(name, &g, &after);
            assert_results(name, &g, &seen, &after, seed, 1e-9);
        }
        for on in [FusionSwitches::default(), FusionSwitches::all(true), switches(bits)] {
            let after = run_all(g.clone(), &on).0;
            assert_well_formed("pipeline", &g, &after);
            assert_results("pipeline", &g, &seen, &after, seed, 1e-9);
        }
    }
}

#[test]
fn passes_are_deterministic_and_the_random_graphs_reach_them_all() {
    let mut fired = vec![0; passes().len()];
    for seed in 0..60 {
        let mut g = random::graph(seed, 24);
        let first = g.clone();
        for (i, (name, pass)) in passes().into_iter().enumerate() {
            let after = pass(g.clone());
            assert!(pass(g.clone()) == after, "{name} differs from run to run");
            fired[i] += u32::from(after != g || pass(first.clone()) != first);
            g = after;
        }
    }
    for ((name, _), n) in passes().iter().zip(&fired) {
        assert!(*n >= 20, "{name} changed {n} of 60 graphs");
    }
}
