//! Nothing but a product of packed weights, some times over: for counting the instructions it executes.
//!
//! `instructions FORMAT LEVEL ROWS K ROUNDS`: one group of a weight `[lanes, K]` times `ROWS` activation rows. The
//! group's rows are printed, and nothing where there are no arguments. `instructions.sh` beside this file counts.

use rlx_cpu::matmul::{Matmul, Mode, Output, WeightType};
use rlx_cpu::simd::Level;
use rlx_gguf::blocks::BlockFormat;

fn main() {
    // `cargo bench` and `cargo test` give flags of their own.
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let [format, level, rows, k, rounds] = &args[..] else { return };
    let format = BlockFormat::from_name(format).expect("a block format");
    let level: Level = level.parse().expect("an instruction set");
    let [m, k, rounds] = [rows, k, rounds].map(|n| n.parse::<usize>().expect("a number"));
    let mm = Matmul::new(WeightType::Block(format), Mode::Fast, level, level.lanes(), k);
    let stored = vec![0; level.lanes() * mm.weight_type().row_bytes(k)];
    let mut packed = vec![0; mm.bytes()];
    mm.pack(&stored, 0..1, &mut packed);
    let spec = mm.activation();
    let mut act = vec![0; spec.bytes(m)];
    let x: Vec<f32> = (0..m * k).map(|i| (i % 17) as f32 - 8.0).collect();
    // SAFETY: `act` has the specification's size.
    unsafe { spec.prepare(&x, m, act.as_mut_ptr(), 0, 1) };
    let mut y = vec![0f32; m * level.lanes()];
    for _ in 0..rounds {
        let out = Output { ptr: y.as_mut_ptr(), stride: level.lanes(), col: 0 };
        // SAFETY: `y` holds `m` rows of a group.
        unsafe { mm.run(&packed, &x, &act, m, 0..1, out) };
    }
    assert!(y.iter().all(|v| *v == 0.0), "weights of zeros have products of zero");
    println!("{}", level.lanes());
}
