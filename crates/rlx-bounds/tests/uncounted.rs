//! A program without the counting allocator: a bound on memory that could not break is refused, a bound on time alone holds.

use rlx_bounds::{bounded, quick};

#[test]
#[should_panic(expected = "is not this program's `#[global_allocator]`")]
fn memory_cannot_be_bounded_where_it_is_not_counted() {
    bounded(100, || ());
}

#[test]
fn time_alone_needs_no_allocator() {
    assert_eq!(quick(|| vec![1u8; 1 << 20].len()), 1 << 20);
}
