//! The text form of graphs, and everything that takes a graph.

use crate::check_message;
use rlx_bounds::{bounded, within};
use rlx_compile::passes::{FusionSwitches, run_all};
use rlx_compile::{Layout, NullBackend, Plan, Root, lower};
use rlx_ir::{Bindings, Graph, Sym, Type, text, verify::verify};
use std::collections::BTreeSet;
use std::time::Duration;

/// Parses a text.  What parses prints to a text that parses to the same graph; what verifies comes out of every pass
/// verified, with the same interface, and can be planned.
pub fn ir_text(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let graph = match bounded(data.len(), || text::parse(source)) {
        Ok(graph) => graph,
        Err(e) => return check_message(&e.to_string()),
    };
    let printed = graph.to_string();
    let again = text::parse(&printed).unwrap_or_else(|e| panic!("{e}:\n{printed}"));
    assert_eq!(again.to_string(), printed, "the print of a graph parses to another one");
    match bounded(data.len(), || verify(&graph)) {
        Err(_) => {}
        Ok(()) => compile(graph),
    }
}

fn interface(graph: &Graph) -> Vec<(String, Type)> {
    let named = graph.inputs.iter().map(|n| (&n.0, n.1));
    let named = named.chain(graph.states.iter().map(|n| (&n.0, n.1))).chain(graph.outputs.iter().map(|n| (&n.0, n.1)));
    named.map(|(name, v)| (name.to_string(), graph.ty(v).clone())).collect()
}

fn verified(what: &str, graph: &Graph) {
    verify(graph).unwrap_or_else(|e| panic!("{what}: {}\n{graph}", e.join("\n")));
}

fn compile(graph: Graph) {
    let before = interface(&graph);
    within(64 << 20, Duration::from_secs(2), || {
        let (fused, _) = run_all(graph.clone(), &FusionSwitches::default());
        verified("after the passes", &fused);
        assert_eq!(interface(&fused), before, "{fused}");
        let Ok((lowered, _)) = lower(fused, &NullBackend) else { return };
        verified("lowered", &lowered);
        let plan = Plan::new(lowered, &NullBackend);
        for n in [1, 2, 7] {
            let dims = symbols(&plan.graph).iter().fold(Bindings::new(), |dims, s| dims.with(s, n));
            if let Ok(layout) = plan.bind(&dims, &NullBackend) {
                check_layout(&plan, &layout);
            }
        }
    });
}

fn symbols(graph: &Graph) -> BTreeSet<Sym> {
    let mut found = BTreeSet::new();
    for v in &graph.values {
        if let Type::Tensor(_, shape) | Type::Cache(_, shape) | Type::State(_, shape) = &*v.ty {
            shape.0.iter().for_each(|d| d.symbols(&mut found));
        }
    }
    found
}

/// Every element of every value lies in the bytes that it is placed in.
fn check_layout(plan: &Plan, layout: &Layout) {
    for (i, (slot, place)) in layout.values.iter().zip(&plan.places).enumerate() {
        let (Some(place), Type::Tensor(dtype, _)) = (place, &*plan.graph.values[i].ty) else { continue };
        let Some(size) = dtype.size().filter(|_| !slot.shape.contains(&0)) else { continue };
        let last: u128 = slot.shape.iter().zip(&slot.strides).map(|(n, s)| (*n as u128 - 1) * *s as u128).sum();
        let end = slot.offset as u128 + (last + 1) * size as u128;
        let room = match place.root {
            Root::Arena => layout.arena_bytes as u128,
            _ => layout.values[place.owner.index()].bytes as u128,
        };
        assert!(end <= room, "value {i} ends at byte {end} of {room}: {slot:?}\n{}", plan.graph);
    }
}
