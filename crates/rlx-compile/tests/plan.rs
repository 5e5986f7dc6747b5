//! The memory plan of every sample graph and of a decoder block: nothing that is alive shares bytes with
//! anything else alive, memory is reused, bytes follow the binding, views are views.

use rlx_compile::{Backend, NullBackend, Plan, Pool, Root};
use rlx_ir::ops::{Op, UnaryOp};
use rlx_ir::{Bindings, Builder, DType, Dim, Graph, Type, ValueId};
use std::ops::Range;

/// First and last phase in which each arena value's bytes are needed, found without the plan's own help.
fn lifetimes(plan: &Plan) -> Vec<Option<Range<usize>>> {
    let mut life: Vec<Option<Range<usize>>> = vec![None; plan.graph.values.len()];
    let owner = |v: ValueId| plan.places[v.index()].as_ref().filter(|p| p.root == Root::Arena).map(|p| p.owner);
    for (phase, nodes) in plan.phases.iter().enumerate() {
        for n in nodes {
            let node = &plan.graph.nodes[n.index()];
            for o in node.ins.iter().chain(&node.outs).filter_map(|v| owner(*v)) {
                let l = life[o.index()].get_or_insert(phase..phase + 1);
                *l = l.start.min(phase)..l.end.max(phase + 1);
            }
        }
    }
    for o in plan.graph.outputs.iter().filter_map(|o| owner(o.1)) {
        if let Some(l) = &mut life[o.index()] {
            l.end = plan.phases.len() + 1;
        }
    }
    life
}

fn check(name: &str, graph: Graph, dims: &Bindings) -> u64 {
    let plan = Plan::new(graph, &NullBackend);
    let layout = plan.bind(dims, &NullBackend).unwrap();
    assert_eq!(layout, plan.bind(dims, &NullBackend).unwrap(), "{name}: the same binding gives the same layout");
    let life = lifetimes(&plan);
    let placed: Vec<(usize, Range<usize>, &Range<usize>)> = life
        .iter()
        .enumerate()
        .filter_map(|(i, l)| {
            let slot = &layout.values[i];
            Some((i, slot.offset..slot.offset + slot.bytes, l.as_ref()?)).filter(|p| !p.1.is_empty())
        })
        .collect();
    for (k, (a, bytes, life)) in placed.iter().enumerate() {
        assert!(bytes.end as u64 <= layout.arena_bytes, "{name}: value {a} leaves the arena");
        for (b, other, other_life) in &placed[..k] {
            let in_time = life.start < other_life.end && other_life.start < life.end;
            let in_space = bytes.start < other.end && other.start < bytes.end;
            assert!(!(in_time && in_space), "{name}: values {a} and {b} are alive together and overlap");
        }
    }
    // Every node that is no view runs exactly once, after the nodes it reads from.
    let mut phase_of = vec![None; plan.graph.nodes.len()];
    for (phase, nodes) in plan.phases.iter().enumerate() {
        nodes.iter().for_each(|n| assert!(phase_of[n.index()].replace(phase).is_none(), "{name}: a node runs twice"));
    }
    for (i, n) in plan.graph.nodes.iter().enumerate() {
        let view = plan.is_view(rlx_ir::NodeId(i as u32));
        assert_eq!(phase_of[i].is_none(), view, "{name}: node {i} {}", n.op.name());
    }
    layout.arena_bytes
}

#[test]
fn values_that_are_alive_together_never_overlap() {
    for case in &Op::all_samples().cases {
        for step in &case.steps {
            check(&case.name, case.graph.clone(), &step.dims);
        }
    }
}

/// `layers` blocks of norm, attention over a cache, and a gated feed-forward layer.
fn decoder(layers: usize) -> Graph {
    let b = Builder::new("decoder");
    let logits = {
        let x = b.input("x", Type::tensor(DType::F32, vec![Dim::sym("T"), Dim::from(64)]));
        let seg = b.segments();
        let (mut x, root) = (x, b.root());
        for i in 0..layers {
            let w = root.at(format!("{i}"));
            let n = w.rms_norm("norm", x, 1e-6);
            let heads = |name: &str| w.linear(name, n, 64).split_heads(4);
            let (k, v) = w.kv_cache(heads("k"), heads("v"), seg);
            let a = heads("q").attend(k, v, Some(seg), rlx_ir::ops::Attention::causal(0.25));
            x = x + w.linear("o", a.merge_heads(), 64);
            let gate = w.linear("gate", x, 96).with(rlx_ir::ops::Unary { op: UnaryOp::Silu }, &[]);
            x = x + w.linear("down", gate * w.linear("up", x, 96), 64);
        }
        x.id()
    };
    b.finish(&[("y", logits)]).unwrap()
}

fn dims(t: u64) -> Bindings {
    Bindings::new().with("T", t).with("S", 1)
}

#[test]
fn deeper_models_reuse_the_same_activation_memory() {
    let bytes = |layers| check("decoder", decoder(layers), &dims(100));
    assert_eq!(bytes(2), bytes(9));
    let sum: u64 = {
        let plan = Plan::new(decoder(9), &NullBackend);
        plan.bind(&dims(100), &NullBackend).unwrap().values.iter().map(|v| v.bytes as u64).sum()
    };
    assert!(bytes(9) * 20 < sum, "{} of {sum} bytes", bytes(9));
}

#[test]
fn bytes_follow_the_binding() {
    let plan = Plan::new(decoder(2), &NullBackend);
    let bytes = |t| plan.bind(&dims(t), &NullBackend).unwrap().arena_bytes;
    assert_eq!(bytes(64), 64 * bytes(1));
    assert!(plan.bind(&Bindings::new(), &NullBackend).is_err(), "an unbound symbol is an error");
}

#[test]
fn states_count_every_block_of_the_pool() {
    let plan = Plan::new(decoder(3), &NullBackend);
    let pool = Pool { block_tokens: 16, blocks: 10, slots: 4 };
    // 3 layers, keys and values, 160 rows of 64 floats.
    assert_eq!(plan.state_bytes(&pool).unwrap(), 3 * 2 * 160 * 64 * 4);
}

#[test]
fn splitting_heads_of_a_slice_copies_nothing() {
    let b = Builder::new("views");
    let id = {
        let x = b.input("x", Type::tensor(DType::F32, vec![Dim::sym("T"), Dim::from(96)]));
        let y = x.exp();
        let (u, v) = (y.slice(1, 0, 64).split_heads(4), y.slice(1, 64, 32).split_heads(2));
        (u.sum(&[1]) + v.sum(&[1])).id()
    };
    let plan = Plan::new(b.finish(&[("y", id)]).unwrap(), &NullBackend);
    let work: Vec<&str> = plan.phases.iter().flatten().map(|n| plan.graph.nodes[n.index()].op.name()).collect();
    assert_eq!(work, ["unary", "reduce", "reduce", "binary"]);
    assert_eq!(plan.phases.len(), 3, "both sums in one phase");
    assert!(NullBackend.accepts_strided(&plan.graph.nodes[0].op, 0));
}

#[test]
fn slices_beyond_a_symbolic_size_are_refused_when_the_size_is_known() {
    for op in ["permute %1 {axes=[1,0]} : f32[2,T]", "unary %1 {op=\"exp\"} : f32[T,2]"] {
        let text =
            format!("func @f(%0 x: f32[T,N]) {{\n  %1 = slice %0 {{axis=1, start=1, len=2}} : f32[T,2]\n  %2 = {op}\n  return %2 y\n}}\n");
        let plan = Plan::new(rlx_ir::text::parse(&text).unwrap(), &NullBackend);
        let bind = |n| plan.bind(&Bindings::new().with("T", 5).with("N", n), &NullBackend).map(|_| ());
        bind(3).unwrap();
        let e = bind(2).unwrap_err().to_string();
        assert!(e.contains("1+2 are beyond the size 2 of axis 1"), "{e}");
    }
}
