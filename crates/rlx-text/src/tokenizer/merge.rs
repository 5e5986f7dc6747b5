//! Merging neighbours, best pair first, leftmost among equals.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Texts up to this many symbols are merged by scanning, longer ones with a queue.
const SCAN_LIMIT: usize = 48;

/// What two neighbours become; smaller ranks merge first.
pub(super) type Merged<S> = Option<(u32, S)>;

/// Buffers kept from word to word.
#[derive(Debug)]
pub(super) struct Merger<S> {
    pub symbols: Vec<S>,
    pairs: Vec<Merged<S>>,
}

impl<S> Default for Merger<S> {
    fn default() -> Self {
        Self { symbols: Vec::new(), pairs: Vec::new() }
    }
}

impl<S: Copy + Ord> Merger<S> {
    /// Merges the symbols until `merge` has nothing more to offer.
    pub(super) fn run(&mut self, merge: impl Fn(S, S) -> Merged<S>) {
        if self.symbols.len() <= SCAN_LIMIT { self.by_scan(merge) } else { self.by_queue(merge) }
    }

    /// Looks at all pairs each time: quickest for short words.
    fn by_scan(&mut self, merge: impl Fn(S, S) -> Merged<S>) {
        let Self { symbols, pairs } = self;
        let of = |w: &[S]| if let [l, r] = *w { merge(l, r) } else { None };
        pairs.clear();
        pairs.extend(symbols.windows(2).map(of));
        loop {
            let ranked = pairs.iter().enumerate().filter_map(|(at, p)| p.map(|(rank, s)| (rank, at, s)));
            let Some((_, at, symbol)) = ranked.min_by_key(|&(rank, at, _)| (rank, at)) else {
                return;
            };
            symbols.remove(at + 1);
            pairs.remove(at);
            if let Some(slot) = symbols.get_mut(at) {
                *slot = symbol;
            }
            for at in [at.checked_sub(1), Some(at)].into_iter().flatten() {
                if let (Some(slot), Some(w)) = (pairs.get_mut(at), symbols.get(at..at + 2)) {
                    *slot = of(w);
                }
            }
        }
    }

    /// The same in O(n log n): a linked list of symbols and a queue of the pairs in it.
    fn by_queue(&mut self, merge: impl Fn(S, S) -> Merged<S>) {
        const NONE: u32 = u32::MAX;
        #[derive(Clone, Copy)]
        struct Node<S> {
            symbol: S,
            prev: u32,
            next: u32,
            alive: bool,
        }
        let n = u32::try_from(self.symbols.len()).unwrap_or(NONE);
        let link = |(at, &symbol): (u32, &S)| {
            let next = if at + 1 < n { at + 1 } else { NONE };
            Node { symbol, prev: at.wrapping_sub(1), next, alive: true }
        };
        let mut nodes: Vec<Node<S>> = (0..n).zip(&self.symbols).map(link).collect();
        let entry = |nodes: &[Node<S>], at: u32| {
            let left = nodes.get(at as usize)?;
            let right = nodes.get(left.next as usize)?;
            let (rank, symbol) = merge(left.symbol, right.symbol)?;
            Some(Reverse((rank, at, symbol, left.symbol, right.symbol)))
        };
        let mut queue: BinaryHeap<_> = (0..n).filter_map(|at| entry(&nodes, at)).collect();
        while let Some(Reverse((_, at, symbol, was_left, was_right))) = queue.pop() {
            let Some(&left) = nodes.get(at as usize).filter(|n| n.alive && n.symbol == was_left) else { continue };
            // An entry is stale when its symbols are no longer what they were.
            let Some(right) = nodes.get_mut(left.next as usize).filter(|n| n.symbol == was_right) else { continue };
            right.alive = false;
            let next = right.next;
            if let Some(node) = nodes.get_mut(next as usize) {
                node.prev = at;
            }
            if let Some(node) = nodes.get_mut(at as usize) {
                *node = Node { symbol, next, ..left };
            }
            queue.extend(entry(&nodes, left.prev));
            queue.extend(entry(&nodes, at));
        }
        self.symbols.clear();
        self.symbols.extend(nodes.iter().filter(|n| n.alive).map(|n| n.symbol));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn queue_and_scan_merge_alike(text in "[abc]{0,80}", ranks in prop::collection::vec(0u32..40, 81)) {
            // Symbols are numbers; those whose sum is small enough merge, in an order given by `ranks`.
            let merge = |l: u32, r: u32| Some(l * 4 + r).filter(|&s| s < 81).map(|s| (ranks[s as usize], s));
            let mut scan = Merger { symbols: text.bytes().map(|b| u32::from(b - b'a' + 1)).collect(), pairs: Vec::new() };
            let mut queue = Merger { symbols: scan.symbols.clone(), pairs: Vec::new() };
            scan.by_scan(merge);
            queue.by_queue(merge);
            prop_assert_eq!(scan.symbols, queue.symbols);
        }
    }
}
