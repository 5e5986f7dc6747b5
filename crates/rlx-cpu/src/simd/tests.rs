//! Every method of every instruction set against its meaning in [`Scalar`].

use super::*;
use half::bf16;

/// A deterministic stream of numbers.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
    fn float(&mut self) -> f32 {
        (self.next() % 20001) as f32 / 1000.0 - 10.0
    }
    fn bytes<const N: usize>(&mut self, low: i32, high: i32) -> [u8; N] {
        std::array::from_fn(|_| (low + (self.next() % (high - low + 1) as u64) as i32) as u8)
    }
}

/// The results of all methods on one set of inputs, as words in a fixed order.
struct Observe {
    seed: u64,
}

impl Kernel for Observe {
    type Out = Vec<u32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<u32> {
        let mut n = Numbers(self.seed);
        let mut out = Vec::new();
        let floats: [[f32; 16]; 3] = std::array::from_fn(|_| std::array::from_fn(|_| n.float()));
        let halves: [u16; 16] = std::array::from_fn(|_| half::f16::from_f32(n.float()).to_bits());
        let small: [u8; 64] = n.bytes(0, 15);
        let six: [u8; 64] = n.bytes(0, 63);
        let any: [u8; 64] = n.bytes(-128, 127);
        let act: [u8; 64] = n.bytes(-127, 127);
        let pair: [i16; 2] = [n.next() as i16 % 4064, n.next() as i16 % 4064];
        let mut show = |v: S::F| {
            let mut all = [0f32; 16];
            // SAFETY: 16 floats hold the widest vector.
            unsafe { s.store(all.as_mut_ptr(), v) };
            out.extend(all[..S::LANES].iter().map(|x| (x + 0.0).to_bits()));
        };
        // SAFETY: all arrays hold the widest vector.
        unsafe {
            let [a, b, c] = floats.each_ref().map(|f| s.load(f.as_ptr()));
            for v in [s.add(a, b), s.sub(a, b), s.mul(a, b), s.div(a, b), s.fma(a, b, c), s.fnma(a, b, c)] {
                show(v);
            }
            for v in [s.max(a, b), s.min(a, b), s.select_lt(a, b, c, a), s.load_f16(halves.as_ptr())] {
                show(v);
            }
            show(s.load_bf16(halves.as_ptr()));
            show(s.splat(s.hmax(a)));
            let ints = s.to_i(s.mul(a, s.splat(12.0)));
            show(s.to_f(s.isub(s.iadd(ints, s.ishl::<5>(ints)), s.isplat(3))));
            show(s.bits_to_f(s.ishl::<23>(s.iadd(s.to_i(a), s.isplat(127)))));
            let mut stored = [0i8; 16];
            s.store_i8(stored.as_mut_ptr(), ints);
            show(s.load(stored.map(f32::from).as_ptr()));
            let (w4, w6) = (s.load_b(small.as_ptr()), s.load_b(six.as_ptr()));
            let act = act.as_ptr().cast::<i8>();
            let pairs = s.load_pairs_u8(six.as_ptr());
            let signed = s.load_pairs_i8(any.as_ptr());
            let mut part = s.part();
            for i in 0..8 {
                part = s.dot(part, w4, s.dup4(act.add(4 * i)));
            }
            let sum = s.flush(s.isplat(5), part, s.first(pairs));
            show(s.to_f(s.flush(sum, part, s.second(signed))));
            show(s.to_f(s.part_to_i(part)));
            let mut part = s.part();
            for i in 0..S::U6_DOTS {
                part = s.dot(part, w6, s.dup4(act.add(4 * i)));
            }
            if S::U6_DOTS == 2 {
                part = s.dot(s.part(), w6, s.dup4(act));
            }
            show(s.to_f(s.part_to_i(part)));
            let five = s.or(s.bits_shl::<4>(w6, 16), s.bits_shr::<2>(w6, 15));
            show(s.to_f(s.part_to_i(s.dot(s.part(), five, s.dup4(act)))));
            let sums = s.dot_pair([s.part(); 2], s.pair([w4, w6]), act);
            for part in s.unpair(s.dot_pair(sums, s.pair([w4, w4]), act.add(16))) {
                show(s.to_f(s.part_to_i(part)));
            }
            let biased = any.map(|b| b ^ S::I8_BIAS);
            let w8 = s.prep8(s.load_b(biased.as_ptr()));
            show(s.to_f(s.dot8(s.isplat(7), w8, s.dup4(act))));
            show(s.to_f(s.dots8(s.isplat(7), [w8; 2], act)));
            show(s.to_f(s.part_to_i(s.dots(s.part(), [w4; 4], act))));
            show(s.to_f(s.madd(s.isplat(1), pairs, s.dup_pair(pair.as_ptr()))));
            show(s.to_f(s.madd(s.isplat(1), signed, s.dup_pair(pair.as_ptr()))));
            let mut first = [9f32; 16];
            s.store_first(first.as_mut_ptr(), a, S::LANES - 1);
            show(s.load(first.as_ptr()));
        }
        out
    }
}

#[test]
fn every_level_agrees_with_scalar() {
    for level in Level::available() {
        for seed in 1..200 {
            let want = match (level.lanes(), level.i8_bias()) {
                (4, 0) => Observe { seed }.run(Scalar::<4, 0>),
                (8, 0) => Observe { seed }.run(Scalar::<8, 0>),
                (8, 128) => Observe { seed }.run(Scalar::<8, 128>),
                (16, 128) => Observe { seed }.run(Scalar::<16, 128>),
                other => panic!("{level} has {other:?}, which no `Scalar` stands for"),
            };
            assert_eq!(dispatch_int8(level, Observe { seed }), want, "{level}, seed {seed}");
        }
    }
}

#[test]
fn constants_of_levels_are_those_of_their_types() {
    struct Constants;
    impl Kernel for Constants {
        type Out = (usize, u8, usize, bool);
        #[inline(always)]
        fn run<S: Simd>(self, _: S) -> Self::Out {
            assert!(!S::PAIRS || S::I8_BIAS == 0);
            (S::LANES, S::I8_BIAS, S::TILE, S::PAIRS)
        }
    }
    for level in Level::available() {
        assert_eq!(dispatch_int8(level, Constants), (level.lanes(), level.i8_bias(), level.tile(), level.pairs()), "{level}");
        let base = level.base();
        assert_eq!(dispatch(level, Constants), (base.lanes(), base.i8_bias(), base.tile(), base.pairs()), "{level}");
        // Prepared activations and packed groups pass between the two.
        assert_eq!((level.lanes(), level.tile()), (base.lanes(), base.tile()), "{level}");
    }
}

#[test]
fn levels_are_read_by_their_names_and_stand_on_available_ones() {
    for level in Level::ALL {
        assert_eq!(level.name().parse(), Ok(level));
        assert_eq!(level.base().base(), level.base());
        assert!(!level.is_available() || level.base().is_available(), "{level}");
    }
    assert!(Level::available().contains(&Level::detect()) && Level::detect() != Level::ScalarWide);
    let e = "avx".parse::<Level>().unwrap_err();
    assert_eq!(e, "unknown instruction set `avx` (one of scalar, avx2, avxvnni, avx512, avx512bf16, neon, i8mm)");
}

/// The manual: bit 4 of EAX of leaf 7, subleaf 1.
#[cfg(target_arch = "x86_64")]
#[test]
fn avx_vnni_is_found_where_the_processor_announces_it() {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    let announced = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).eax >= 1 && __cpuid_count(7, 1).eax >> 4 & 1 == 1;
    assert_eq!(Level::AvxVnni.is_available(), announced && Level::Avx2.is_available());
}

/// The manual: bit 5 of EAX of leaf 7, subleaf 1.
#[cfg(target_arch = "x86_64")]
#[test]
fn avx512_bf16_is_found_where_the_processor_announces_it() {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    let announced = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).eax >= 1 && __cpuid_count(7, 1).eax >> 5 & 1 == 1;
    assert_eq!(Level::Avx512Bf16.is_available(), announced && Level::Avx512.is_available());
}

/// Numbers whose products and sums are exact in any order, so that every instruction must find the same.
#[test]
fn dots_of_bfloat16_take_both_halves_of_every_word() {
    struct Dot;
    impl Kernel for Dot {
        type Out = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let halves = |from: i32| -> Vec<bf16> { (0..32).map(|i| bf16::from_f32((from + 3 * i - 40) as f32)).collect() };
            let (a, b, mut out) = (halves(0), halves(7), vec![0.0; S::LANES]);
            // SAFETY: 64 bytes hold the widest vector.
            unsafe {
                let (a, b) = (s.load_b(a.as_ptr().cast()), s.load_b(b.as_ptr().cast()));
                s.store(out.as_mut_ptr(), s.dot_bf16(s.splat(0.5), a, b));
            }
            out
        }
    }
    for level in Level::available() {
        let number = |from: i32, i: usize| f64::from(from + 3 * i as i32 - 40);
        let want = |lane: usize| (2 * lane..2 * lane + 2).map(|i| number(0, i) * number(7, i)).sum::<f64>() + 0.5;
        let got = dispatch_bf16(level, Dot);
        assert!(got.iter().enumerate().all(|(lane, v)| f64::from(*v) == want(lane)), "{level}: {got:?}");
    }
}

#[test]
fn extreme_codes_and_activations_do_not_overflow_a_part() {
    struct Extremes;
    impl Kernel for Extremes {
        type Out = [f32; 4];
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [f32; 4] {
            let act = [-127i8; 4];
            // SAFETY: four bytes are read, and 16 floats hold the widest vector.
            unsafe {
                let a = s.dup4(act.as_ptr());
                let sum = |n: usize, w: u8| {
                    let w = s.load_b([w; 64].as_ptr());
                    let part = (0..n).fold(s.part(), |p, _| s.dot(p, w, a));
                    s.hmax(s.to_f(s.part_to_i(part)))
                };
                let w8 = s.prep8(s.load_b([0x80 ^ S::I8_BIAS; 64].as_ptr()));
                let bias = 4.0 * 127.0 * f32::from(S::I8_BIAS);
                let eight = s.hmax(s.to_f(s.dot8(s.isplat(0), w8, a))) + bias;
                [sum(8, 15), sum(S::U5_DOTS, 31) / S::U5_DOTS as f32, sum(S::U6_DOTS, 63) / S::U6_DOTS as f32, eight]
            }
        }
    }
    for level in Level::available() {
        let expected = [-127.0 * 4.0 * 8.0 * 15.0, -127.0 * 4.0 * 31.0, -127.0 * 4.0 * 63.0, 127.0 * 4.0 * 128.0];
        assert_eq!(dispatch_int8(level, Extremes), expected, "{level}");
    }
}

#[test]
fn exp_is_within_two_units() {
    struct Exp(f32);
    impl Kernel for Exp {
        type Out = f32;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> f32 {
            s.hmax(exp(s, s.splat(self.0)))
        }
    }
    for level in Level::available() {
        for i in -8700..8800 {
            let x = i as f32 * 0.01;
            let (got, want) = (f64::from(dispatch(level, Exp(x))), f64::from(x).exp());
            assert!((got / want - 1.0).abs() < 2.4e-7, "{level}: e^{x} is {want}, not {got}");
        }
        assert_eq!(dispatch(level, Exp(f32::NEG_INFINITY)), 0.0, "{level}");
        assert_eq!(dispatch(level, Exp(-1e5)), 0.0, "{level}");
    }
}

#[test]
fn exp_of_negative_is_as_exact_as_a_weight_needs() {
    struct Exp(f32);
    impl Kernel for Exp {
        type Out = f32;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> f32 {
            s.sum(exp_of_negative(s, s.splat(self.0))) / S::LANES as f32
        }
    }
    for level in Level::available() {
        for i in 0..10_000 {
            let x = i as f32 * -0.01;
            let (got, want) = (f64::from(dispatch(level, Exp(x))), f64::from(x).exp());
            assert!((got - want).abs() < 1.2e-7, "{level}: e^{x} is {want}, not {got}");
            let relative = 2e-7 + 1e-7 * f64::from(x.abs());
            assert!(x < -86.0 || (got / want - 1.0).abs() < relative, "{level}: e^{x} is {want}, not {got}");
        }
        assert_eq!(dispatch(level, Exp(0.0)), 1.0, "{level}");
        assert_eq!(dispatch(level, Exp(f32::NEG_INFINITY)), 2f32.powi(-125), "{level}");
        assert!(dispatch(level, Exp(f32::NAN)).is_nan(), "{level}");
    }
}
