#![no_main]

#[global_allocator]
static ALLOCATOR: rlx_fuzz::Counting = rlx_fuzz::Counting;

libfuzzer_sys::fuzz_target!(|data: &[u8]| rlx_fuzz::tool_calls(data));
