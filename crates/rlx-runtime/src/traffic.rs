//! Bytes that one call moves, counted from the plan.  A count of what the graph asks for, not a measurement: what
//! stays in a processor's caches between two nodes is counted as often as it is read and written.

use crate::session::{RuntimeError, Session};
use rlx_compile::backend::stored_bytes;
use rlx_compile::plan::{Layout, Root};
use rlx_compile::{BackendError, Plan};
use rlx_ir::{Bindings, Node, Op, Type, ValueId};

/// Bytes read and written by one call, by what they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Weights as the device keeps them: matrices whole, of tables the rows that are looked up.
    pub weights: u64,
    /// Cached rows that are read and written; recurrent states.
    pub cache: u64,
    /// Arguments and intermediate values.
    pub activations: u64,
}

impl Traffic {
    /// What a call cannot find in a processor's caches when the model is larger than they are.
    pub fn from_memory(&self) -> u64 {
        self.weights + self.cache
    }

    /// Everything.
    pub fn total(&self) -> u64 {
        self.from_memory() + self.activations
    }
}

/// The sequences of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sequences {
    /// How many.
    pub count: u64,
    /// Rows that each has cached before.
    pub past: u64,
    /// Rows that each gets.
    pub new: u64,
}

struct Count<'a> {
    session: &'a Session,
    plan: &'a Plan,
    layout: Layout,
    of: Sequences,
}

impl Session {
    /// The bytes that a call of `plan` with these dimensions and sequences moves.
    ///
    /// # Errors
    /// Dimensions without a value, and types that the plan cannot have.
    pub fn traffic(&self, plan: &Plan, dims: &Bindings, of: Sequences) -> Result<Traffic, RuntimeError> {
        let layout = plan.bind(dims, self.backend())?;
        let count = Count { session: self, plan, layout, of };
        let mut sum = Traffic::default();
        for node in plan.phases.iter().flatten().map(|n| &plan.graph.nodes[n.index()]) {
            for (i, v) in node.ins.iter().enumerate() {
                count.read(node, i, *v, &mut sum)?;
            }
            for v in &node.outs {
                count.written(*v, &mut sum)?;
            }
        }
        Ok(sum)
    }
}

impl Count<'_> {
    fn root(&self, v: ValueId) -> Option<Root> {
        self.plan.places[v.index()].as_ref().map(|p| p.root)
    }

    fn bytes(&self, v: ValueId) -> u64 {
        self.layout.values[v.index()].bytes as u64
    }

    fn read(&self, node: &Node, i: usize, v: ValueId, sum: &mut Traffic) -> Result<(), BackendError> {
        let root = self.root(v);
        match root {
            Some(Root::Param(p)) => sum.weights += self.param(node, i, p as usize)?,
            Some(Root::State(s)) => {
                // A writer of a cache touches new rows alone, and they are counted where they are written.
                let writes = node.outs.iter().any(|o| self.root(*o) == root);
                let rows = match self.plan.graph.ty(v) {
                    Type::Cache(..) if writes => 0,
                    Type::Cache(..) => self.seen(node),
                    _ => self.of.count,
                };
                sum.cache += rows * self.plan.state_row_bytes(s as usize)?;
            }
            Some(Root::Input(_) | Root::Arena) => sum.activations += self.bytes(v),
            None => {}
        }
        Ok(())
    }

    fn written(&self, v: ValueId, sum: &mut Traffic) -> Result<(), BackendError> {
        match self.root(v) {
            Some(Root::State(s)) => {
                let rows = match self.plan.graph.ty(v) {
                    Type::Cache(..) => self.of.count * self.of.new,
                    _ => self.of.count,
                };
                sum.cache += rows * self.plan.state_row_bytes(s as usize)?;
            }
            Some(Root::Arena) => sum.activations += self.bytes(v),
            _ => {}
        }
        Ok(())
    }

    /// Cached rows that a node looks at, in all sequences.
    fn seen(&self, node: &Node) -> u64 {
        let all = self.of.past + self.of.new;
        let window = match &node.op {
            Op::Attention(a) => a.window.map_or(all, |w| w as u64 + self.of.new - 1),
            _ => all,
        };
        self.of.count * all.min(window)
    }

    /// Bytes of a parameter that a node reads.
    fn param(&self, node: &Node, i: usize, p: usize) -> Result<u64, BackendError> {
        let g = &self.plan.graph;
        let stored = stored_bytes(g, p)?;
        let bytes = match self.session.backend().weight_bytes(g, p)? {
            0 => stored,
            held => held,
        };
        let rows = |index: ValueId| self.layout.values[index.index()].shape.iter().product::<usize>() as u64;
        let of = match g.ty(g.params[p].value) {
            Type::Tensor(_, s) => s.0.first().and_then(|d| d.as_const()).unwrap_or(1).max(1) as u64,
            _ => 1,
        };
        Ok(match (&node.op, i) {
            (Op::Gather(_), 0) => bytes / of * rows(node.ins[1]),
            (Op::ExpertLinear(_), 1) => bytes / of * rows(node.ins[2]).min(of),
            _ => bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlx_compile::{NullBackend, Profile};
    use std::sync::Arc;

    const GRAPH: &str = "\
func @test(%0 tokens: u32[T], %1 seg: segments[S,T]) {
  param %2 table: f32[320,64]
  param %3 w: f16[128,64]
  state %4 k: cache f16[2,32]
  %5 = gather %2, %0 {to=\"f32\"} : f32[T,64]
  %6 = linear %5, %3 {weights=1} : f32[T,128]
  %7 = reshape %6 {shape=[\"T\",4,32]} : f32[T,4,32]
  %8 = reshape %5 {shape=[\"T\",2,32]} : f32[T,2,32]
  %9 = cache_append %4, %8, %1 : cache f16[2,32]
  %10 = attention %7, %9, %9, %1 {scale=0.125, mask=\"causal\", ragged=true} : f32[T,4,32]
  update %4 = %9
  return %10 out
}
";

    fn traffic(text: &str, of: Sequences) -> Traffic {
        let graph = rlx_ir::text::parse(text).unwrap_or_else(|e| panic!("{e}"));
        let session = Session::on(Arc::new(NullBackend), Profile::preset("lm").unwrap());
        let plan = Plan::new(graph, session.backend());
        let dims = Bindings::new().with("T", of.count * of.new).with("S", of.count).with("R", of.count);
        session.traffic(&plan, &dims, of).unwrap()
    }

    #[test]
    fn a_step_reads_matrices_whole_rows_of_tables_and_the_context() {
        let one = traffic(GRAPH, Sequences { count: 1, past: 100, new: 1 });
        assert_eq!(one.weights, 64 * 4 + 128 * 64 * 2);
        // Keys and values are one cache here: 101 rows read twice, one written.
        assert_eq!(one.cache, (2 * 101 + 1) * 64 * 2);
        let four = traffic(GRAPH, Sequences { count: 4, past: 100, new: 1 });
        assert_eq!(four.weights, 4 * 64 * 4 + 128 * 64 * 2, "matrices are read once for all sequences");
        assert_eq!(four.cache, 4 * one.cache);
        assert_eq!(four.activations, 4 * one.activations);
        assert_eq!(one.total(), one.from_memory() + one.activations);
    }

    #[test]
    fn a_window_bounds_what_is_read() {
        let text = GRAPH.replace("ragged=true", "window=16, ragged=true");
        assert_eq!(traffic(&text, Sequences { count: 1, past: 100, new: 1 }).cache, (2 * 16 + 1) * 64 * 2);
        assert_eq!(traffic(&text, Sequences { count: 1, past: 3, new: 1 }).cache, (2 * 4 + 1) * 64 * 2);
    }
}
