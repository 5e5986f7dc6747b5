//! Merging neighbours, best pair first, leftmost among equals.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

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

    /// The same in O(n log n) or better: a linked list of symbols, and the pairs in it by rank.
    fn by_queue(&mut self, merge: impl Fn(S, S) -> Merged<S>) {
        let n = u32::try_from(self.symbols.len()).unwrap_or(NONE);
        let link = |(at, &symbol): (u32, &S)| Node { symbol, prev: at.wrapping_sub(1), next: if at + 1 < n { at + 1 } else { NONE } };
        let mut list = List((0..n).zip(&self.symbols).map(link).collect());
        let mut pairs = Pairs { later: BTreeMap::new(), now: BinaryHeap::new() };
        (0..n).for_each(|at| pairs.extend(list.pair(at, &merge), None));
        while let Some((rank, mut same)) = pairs.later.pop_first() {
            if !same.is_sorted_by_key(|p| p.at) {
                same.sort_unstable_by_key(|p| p.at);
            }
            let mut same = same.into_iter().peekable();
            // What has become possible since, and is as good or better, takes its turn among those of this rank.
            loop {
                let pair = match (pairs.now.peek(), same.peek()) {
                    (Some(Reverse(new)), Some(old)) if (new.0, new.1.at) < (rank, old.at) => pairs.now.pop().map(|new| new.0.1),
                    (_, Some(_)) => same.next(),
                    (_, None) => pairs.now.pop().map(|new| new.0.1),
                };
                let Some(pair) = pair else { break };
                if let Some(prev) = list.join(&pair) {
                    pairs.extend(list.pair(prev, &merge), Some(rank));
                    pairs.extend(list.pair(pair.at, &merge), Some(rank));
                }
            }
        }
        self.symbols.clear();
        self.symbols.extend(list.0.iter().filter(|n| n.next != DEAD).map(|n| n.symbol));
    }
}

/// No node.
const NONE: u32 = u32::MAX;
/// The successor of a node that was merged into the one before it.
const DEAD: u32 = u32::MAX - 1;

#[derive(Clone, Copy)]
struct Node<S> {
    symbol: S,
    prev: u32,
    next: u32,
}

/// Two neighbours that can merge.  The pair is stale when the places behind its halves are no longer what they were.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pair<S> {
    at: u32,
    next: u32,
    after: u32,
    symbol: S,
}

/// Pairs that wait, by rank, in no order but mostly from the left; and those that are as good as what is being merged.
struct Pairs<S> {
    later: BTreeMap<u32, Vec<Pair<S>>>,
    now: BinaryHeap<Reverse<(u32, Pair<S>)>>,
}

impl<S: Copy + Ord> Pairs<S> {
    fn extend(&mut self, pair: Option<(u32, Pair<S>)>, current: Option<u32>) {
        match pair {
            Some((rank, pair)) if current.is_some_and(|current| rank <= current) => self.now.push(Reverse((rank, pair))),
            Some((rank, pair)) => self.later.entry(rank).or_default().push(pair),
            None => {}
        }
    }
}

struct List<S>(Vec<Node<S>>);

impl<S: Copy> List<S> {
    /// What the symbol at `at` and the one behind it would become.
    fn pair(&self, at: u32, merge: impl Fn(S, S) -> Merged<S>) -> Option<(u32, Pair<S>)> {
        let left = self.0.get(at as usize)?;
        let right = self.0.get(left.next as usize)?;
        let (rank, symbol) = merge(left.symbol, right.symbol)?;
        Some((rank, Pair { at, next: left.next, after: right.next, symbol }))
    }

    /// Merges a pair that is not stale; the place before it, or `NONE`.
    fn join(&mut self, pair: &Pair<S>) -> Option<u32> {
        let &left = self.0.get(pair.at as usize).filter(|n| n.next == pair.next)?;
        let right = self.0.get_mut(pair.next as usize).filter(|n| n.next == pair.after)?;
        right.next = DEAD;
        if let Some(node) = self.0.get_mut(pair.after as usize) {
            node.prev = pair.at;
        }
        let node = self.0.get_mut(pair.at as usize)?;
        *node = Node { symbol: pair.symbol, next: pair.after, ..left };
        Some(left.prev)
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
