//! How long one call of an op takes on this processor, at sizes of real models.

use rlx_compile::{Arg, Backend, Plan, Pool, Ragged, WeightData, WeightSource, lower};
use rlx_cpu::{Cpu, Options};
use rlx_ir::ops::{Conv, ConvTranspose, ExpertLinear, Fft, GatedDeltaRule, LayerNorm, SelectiveScan, ShortConv, fft::FftKind};
use rlx_ir::sample::{Gen, Rng};
use rlx_ir::{Bindings, Builder, Dim, Op, Segments, Type, Val};
use std::sync::Arc;
use std::time::Instant;

struct Random;

impl WeightSource for Random {
    fn weight(&self, name: &str) -> Result<WeightData, String> {
        // The name of a parameter is its type.
        let Ok(Type::Tensor(dtype, shape)) = name.parse::<Type>() else { return Err("no type".into()) };
        let shape: Vec<usize> = shape.0.iter().filter_map(Dim::as_const).collect();
        let small = [&[1], &shape[1..]].concat();
        let one = Gen::Normal(0.1).draw_stored(&mut Rng(7), dtype, &small).map_err(|e| e.to_string())?.1;
        Ok(WeightData { dtype, bytes: Arc::new(one.repeat(shape[0])), shape })
    }
}

/// Times `op` on inputs of these types; those marked `true` are parameters.  Prints milliseconds and
/// what `work` (operations per call, in billions) makes of them.
fn time(cpu: &Cpu, name: &str, op: impl Into<Op>, ins: &[(&str, bool)], tokens: u32, work: f64) {
    let b = Builder::new("bench");
    let vals: Vec<Val<'_>> = ins
        .iter()
        .enumerate()
        .map(|(i, (ty, is_param))| {
            let parsed: Type = ty.parse().expect("a type");
            if *is_param { b.param_value(ty, parsed) } else { b.input(&format!("x{i}"), parsed) }
        })
        .collect();
    let outs: Vec<_> = b.emit("", op, &vals).iter().map(|v| v.id()).collect();
    let graph = b.finish_ids(&outs).expect("a graph");
    let (lowered, _) = lower(graph.clone(), cpu).expect("every op has a step");
    let plan = Arc::new(Plan::new(lowered, cpu));
    let weights = cpu.load(&plan, &Random, &|_, _| {}).expect("weights load");
    let mut program = cpu.compile(plan, weights, Pool { block_tokens: 16, blocks: 1, slots: 1 }).expect("a program");
    let seg = Segments::new([(tokens, 0, 0)]);
    let dims = Bindings::new().with("S", 1).with("T", u64::from(tokens));
    let (mut rng, mut data) = (Rng(1), vec![]);
    for (_, v) in &graph.inputs {
        if let Type::Tensor(d, s) = graph.ty(*v) {
            let shape: Vec<usize> = s.0.iter().map(|d| d.eval(&dims).expect("bound")).collect();
            let g = if d.is_int() { Gen::Uniform(0.0, 64.0) } else { Gen::Uniform(-1.0, -0.1) };
            let bytes = g.draw(&mut rng, *d, &shape).and_then(|t| t.to_bytes()).expect("drawn");
            data.push(
                bytes.chunks(8).map(|c| u64::from_ne_bytes(std::array::from_fn(|i| c.get(i).copied().unwrap_or(0)))).collect::<Vec<_>>(),
            );
        } else {
            data.push(vec![]);
        }
    }
    let args: Vec<Arg<'_>> = graph
        .inputs
        .iter()
        .zip(&data)
        .map(|((_, v), d)| match graph.ty(*v) {
            Type::Tensor(t, s) => {
                let len = s.numel().eval(&dims).expect("bound") * t.size().unwrap_or(0);
                // SAFETY: any initialised memory may be read as bytes, and the words hold `len` of them.
                Arg::Tensor(unsafe { std::slice::from_raw_parts(d.as_ptr().cast(), len) })
            }
            _ => Arg::Segments(Ragged { segments: &seg, blocks: &[], block_starts: &[0, 0] }),
        })
        .collect();
    let mut best = f64::INFINITY;
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < 1.0 {
        let at = Instant::now();
        program.run(&dims, &args).expect("it runs");
        best = best.min(at.elapsed().as_secs_f64());
    }
    println!("{name:<44} {:>9.3} ms {:>8.1} G/s", best * 1e3, work / best);
}

fn main() {
    let threads = std::env::var("THREADS").ok().and_then(|t| t.parse().ok()).unwrap_or(0);
    let cpu = Cpu::new(Options { threads, ..Options::default() }).expect("a processor");
    println!("{} threads, {}", cpu.threads(), cpu.level());
    let same = Conv { padding: vec![[1, 1]; 2], bias: true, ..Conv::plain(2) };
    time(
        &cpu,
        "image decoder, 3x3 of 256 channels, 64x64",
        same,
        &[("f32[1,256,64,64]", false), ("f32[256,256,3,3]", true), ("f32[256]", true)],
        0,
        4.83,
    );
    let point = Conv::plain(2);
    time(&cpu, "1x1 of 256 channels, 64x64", point, &[("f32[1,256,64,64]", false), ("f16[256,256,1,1]", true)], 0, 0.537);
    let whisper = Conv { stride: vec![2], padding: vec![[1, 1]], ..Conv::plain(1) };
    time(&cpu, "speech encoder, second convolution", whisper, &[("f32[1,512,3000]", false), ("f16[512,512,3]", true)], 0, 2.36);
    let depth = Conv { padding: vec![[3, 3]; 2], groups: 256, ..Conv::plain(2) };
    time(&cpu, "depthwise 7x7 of 256 channels, 56x56", depth, &[("f32[1,256,56,56]", false), ("f32[256,1,7,7]", true)], 0, 0.0787);
    let patches = Conv { stride: vec![14, 14], bias: true, ..Conv::plain(2) };
    time(
        &cpu,
        "patches of a 448x448 image",
        patches,
        &[("f32[1,3,448,448]", false), ("f16[1152,3,14,14]", true), ("f32[1152]", true)],
        0,
        1.387,
    );
    let up = ConvTranspose { padding: vec![[4, 4]], ..ConvTranspose::plain(&[8]) };
    time(&cpu, "vocoder, upsampling by 8", up, &[("f32[1,256,128]", false), ("f32[256,128,16]", true)], 0, 0.134);
    for tokens in [1, 256] {
        let experts = [("f32[T,2048]", false), ("q4_k[64,768,2048]", true), ("u32[T,8]", false)];
        let work = 2.0 * f64::from(tokens) * 8.0 * 768.0 * 2048.0 * 1e-9;
        time(&cpu, &format!("8 of 64 experts, q4_k, {tokens} tokens"), ExpertLinear { bias: false }, &experts, tokens, work);
        let mamba = ["f32[T,80,64]", "f32[T,80]", "f32[80]", "f32[T,1,128]", "f32[T,1,128]", "segments[S,T]", "f32[S,80,64,128]"];
        let work = f64::from(tokens) * 80.0 * 64.0 * 128.0 * 5.0 * 1e-9;
        time(
            &cpu,
            &format!("mamba-2 scan, 80 heads, {tokens} tokens"),
            SelectiveScan { skip: false },
            &mamba.map(|t| (t, false)),
            tokens,
            work,
        );
        let delta = ["f32[T,16,128]", "f32[T,16,128]", "f32[T,32,128]", "f32[T,32]", "f32[T,32]", "segments[S,T]", "f32[S,32,128,128]"];
        let work = f64::from(tokens) * 32.0 * 128.0 * 128.0 * 7.0 * 1e-9;
        let op = GatedDeltaRule { scale: 0.088, qk_norm: Some(1e-6) };
        time(&cpu, &format!("gated delta rule, 32 heads, {tokens} tokens"), op, &delta.map(|t| (t, false)), tokens, work);
        let short = ["f32[T,8192]", "f32[8192,4]", "segments[S,T]", "f32[S,8192,3]"];
        time(
            &cpu,
            &format!("short convolution, {tokens} tokens"),
            ShortConv { bias: false },
            &short.map(|t| (t, false)),
            tokens,
            f64::from(tokens) * 8192.0 * 8e-9,
        );
    }
    time(&cpu, "3000 spectra of 400 samples", Fft { kind: FftKind::Real }, &[("f32[3000,400]", false)], 0, 3000.0 * 400.0 * 8.64 * 2.5e-9);
    let norm = LayerNorm { eps: 1e-5, weight: true, bias: true };
    time(
        &cpu,
        "layer norm of 1500 x 1024",
        norm,
        &[("f32[1500,1024]", false), ("f32[1024]", true), ("f32[1024]", true)],
        0,
        1500.0 * 1024.0 * 8e-9,
    );
}
