//! A text of a million nodes in a row, all the way to a memory plan: no recursion, and a second for each step at most, or
//! four times what writing the text took where that is longer: machines differ, and neighbours slow them.

use rlx_bounds::{measured, within};
use rlx_compile::passes::{FusionSwitches, pipeline};
use rlx_compile::{NullBackend, Plan, lower};
use rlx_ir::{Bindings, text, verify::verify};
use std::fmt::Write;
use std::time::Duration;

/// `n` nodes; the last is wrong when `broken`.
fn chain(n: usize, broken: bool) -> String {
    let mut s = String::from("func @f(%0 x: f32[T,4]) {\n");
    for i in 0..n {
        let dims = if broken && i + 1 == n { "T,5" } else { "T,4" };
        let _ = writeln!(s, "  %{} = softmax %{i} : f32[{dims}]", i + 1);
    }
    let _ = write!(s, "  return %{n} y\n}}\n");
    s
}

#[test]
fn ir_41_a_chain_of_a_million_nodes_is_planned_with_a_small_stack() {
    let n = 1_000_000;
    let run = move || {
        let (text, writing) = measured(|| chain(n, false));
        let time = Duration::from_secs(1).max(writing.took * 4);
        let mut graph = within(usize::MAX, time, || text::parse(&text).unwrap());
        within(usize::MAX, time, || verify(&graph).unwrap());
        for (_, pass) in pipeline(&FusionSwitches::default()) {
            graph = within(usize::MAX, time, || pass(graph));
        }
        let (graph, _) = within(usize::MAX, time, || lower(graph, &NullBackend).unwrap());
        let plan = within(usize::MAX, time, || Plan::new(graph, &NullBackend));
        let layout = within(usize::MAX, time, || plan.bind(&Bindings::new().with("T", 3), &NullBackend).unwrap());
        assert_eq!(plan.phases.len(), n);
        // Each value dies when the next one is made.
        assert_eq!(layout.arena_bytes, 2 * 64);
        let symbol = plan.bind(&Bindings::new(), &NullBackend).unwrap_err().to_string();
        assert!(symbol.contains('T'), "{symbol}");
        // The twin.
        let wrong = verify(&text::parse(&chain(n, true)).unwrap()).unwrap_err();
        assert!(wrong.len() == 1 && wrong[0].contains("declared f32[T,5]"), "{wrong:?}");
    };
    std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap().join().unwrap();
}
