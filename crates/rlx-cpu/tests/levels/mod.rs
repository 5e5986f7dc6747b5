//! The instruction sets that tests run at.

use rlx_cpu::simd::Level;

/// The level named by the environment variable `RLX_TEST_LEVEL`, else every level of this machine.
///
/// One level is what an emulator has time for: `RLX_TEST_LEVEL=avx512 cargo test -p rlx-cpu`.
///
/// # Panics
/// When the variable names no level, or one that this machine cannot run.
pub fn levels() -> Vec<Level> {
    let Ok(name) = std::env::var("RLX_TEST_LEVEL") else { return Level::available() };
    let level: Level = name.parse().expect("RLX_TEST_LEVEL names an instruction set");
    assert!(level.is_available(), "RLX_TEST_LEVEL is {level}, which this machine lacks");
    vec![level]
}
