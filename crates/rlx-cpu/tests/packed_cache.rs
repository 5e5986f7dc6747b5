//! Packed weights that are kept in a file: used when it is the one that would be written, told and written anew when it
//! is not, and done without where it cannot be written.

mod levels;
mod packable;

use levels::levels;
use packable::{graph, tokens, weights};
use rlx_bounds::{Counting, measured, within};
use rlx_compile::{Backend, PackedCache, Plan, WeightData, WeightSource, Weights, lower};
use rlx_conform::{OnBackend, Runner};
use rlx_cpu::matmul::{Matmul, Mode, WeightType};
use rlx_cpu::{Cpu, Level, Options};
use rlx_gguf::blocks::BlockFormat;
use rlx_ir::{Graph, Tensor, Weight};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A checkpoint that tells what was asked of it.
struct Source {
    weights: Vec<Weight>,
    cache: PackedCache,
    asked: Mutex<Vec<String>>,
}

impl Source {
    fn new(g: &Graph, cache: PackedCache) -> Source {
        Source { weights: weights(g), cache, asked: Mutex::default() }
    }
}

impl WeightSource for Source {
    fn weight(&self, name: &str) -> Result<WeightData, String> {
        self.asked.lock().unwrap().push(name.into());
        let w = self.weights.iter().find(|w| &*w.name == name).ok_or("is not here")?;
        Ok(WeightData { dtype: w.tensor.dtype, shape: w.tensor.shape.clone(), bytes: Arc::new(w.bytes.clone()) })
    }
    fn packed_cache(&self) -> Option<&PackedCache> {
        Some(&self.cache)
    }
}

fn cache(dir: &Path) -> PackedCache {
    PackedCache { beside: dir.join("model.gguf"), source: vec!["model.gguf: 7 bytes".into(), "config.json: 3 bytes".into()] }
}

/// On one thread, whose memory is measured.
fn cpu(level: Level) -> Cpu {
    Cpu::new(Options { threads: 1, level: Some(level), ..Options::default() }).unwrap()
}

fn load(g: &Graph, source: &Source) -> Arc<dyn Weights> {
    let cpu = cpu(Level::Scalar);
    let (lowered, _) = lower(g.clone(), &cpu).unwrap();
    cpu.load(&Plan::new(lowered, &cpu), source, &|_, _| {}).unwrap()
}

/// The outputs of a few runs.
fn outputs(g: &Graph, level: Level, params: &[Weight], cache: Option<PackedCache>) -> Vec<Vec<Tensor>> {
    let cpu = cpu(level);
    let mut runner = OnBackend { mapped: true, cache, ..OnBackend::new(&cpu) }.prepare(g, params).unwrap();
    [1, 9, 40].iter().map(|n| tokens(*n)).map(|(dims, inputs)| runner.run(&dims, &inputs).unwrap()).collect()
}

/// What lies in a directory, but the directories in it.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(|p| !p.is_dir()).collect();
    all.sort();
    all
}

#[test]
fn the_first_and_the_second_start_compute_the_bits_of_a_start_without() {
    for level in levels() {
        for format in ["q4_0", "q8_0", "q4_k", "q5_k", "q6_k", "affine4_g64_f16"] {
            let (g, dir) = (graph(format), tempfile::tempdir().unwrap());
            let params = weights(&g);
            let plain = outputs(&g, level, &params, None);
            assert_eq!(files(dir.path()), [] as [PathBuf; 0]);
            assert!(outputs(&g, level, &params, Some(cache(dir.path()))) == plain, "{format} at {level}, first start");
            let file = dir.path().join(format!("model.gguf.rlx-packed-{level}"));
            assert_eq!(files(dir.path()), [&*file]);
            let written = fs::metadata(&file).unwrap().modified().unwrap();
            assert!(outputs(&g, level, &params, Some(cache(dir.path()))) == plain, "{format} at {level}, second start");
            assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), written, "the second start writes nothing");
        }
    }
}

#[test]
fn the_second_start_asks_for_no_weight_that_is_kept_and_holds_none() {
    let (g, dir) = (graph("q4_k"), tempfile::tempdir().unwrap());
    for start in 0..2 {
        let source = Source::new(&g, cache(dir.path()));
        let loaded = load(&g, &source);
        assert_eq!((loaded.notes(), loaded.held_bytes()), (&[] as &[String], 0), "start {start}");
        assert!(loaded.mapped_bytes() > 100_000);
        let asked = source.asked.into_inner().unwrap();
        assert_eq!(asked, if start == 0 { vec!["table", "up", "experts"] } else { vec![] });
    }
}

#[test]
fn weights_that_are_not_packed_leave_no_file() {
    let (g, dir) = (graph("q5_1"), tempfile::tempdir().unwrap());
    let loaded = load(&g, &Source::new(&g, cache(dir.path())));
    assert!(loaded.notes().len() == 1 && loaded.notes()[0].contains("no weights that are packed"), "{:?}", loaded.notes());
    assert_eq!(files(dir.path()), [] as [PathBuf; 0]);
}

/// A file with a text in it replaced, which is there.
fn replaced(file: &[u8], from: &str, to: &str) -> Vec<u8> {
    let at = file.windows(from.len()).position(|w| w == from.as_bytes()).unwrap_or_else(|| panic!("{from} is not there"));
    [&file[..at], to.as_bytes(), &file[at + from.len()..]].concat()
}

#[test]
fn what_is_not_the_file_that_would_be_written_is_told_and_replaced() {
    let (g, dir) = (graph("q8_0"), tempfile::tempdir().unwrap());
    let file = dir.path().join("model.gguf.rlx-packed-scalar");
    let start = || {
        let source = Source::new(&g, cache(dir.path()));
        load(&g, &source)
    };
    // The first one makes tables that later ones use.
    start();
    fs::remove_file(&file).unwrap();
    let (_, cost) = measured(start);
    let sound = fs::read(&file).unwrap();
    let changed = |from: &str, to: &str| replaced(&sound, from, to);
    let header = String::from_utf8_lossy(&sound[..sound.iter().position(|b| *b == 0).unwrap()]).into_owned();
    let lines: Vec<&str> = header.split_inclusive('\n').collect();
    let [.., second, _, end] = lines[..] else { panic!("{header}") };
    let place = second.rsplit(", ").next().unwrap();
    let hostile = [
        (vec![], "is empty"),
        (sound[..1].to_vec(), "has 1 bytes, expected"),
        (sound[..header.len() - 1].to_vec(), "bytes, expected"),
        (sound[..header.len()].to_vec(), "bytes, expected"),
        (sound[..sound.len() - 1].to_vec(), "bytes, expected"),
        ([&sound[..], &[0]].concat(), "bytes, expected"),
        (vec![b'a'; 1 << 20], "is no file of packed weights"),
        (vec![0xFF; 5000], "is no file of packed weights"),
        (changed("rlx-cpu ", "rlx-cpu 9"), "is of another version or instruction set"),
        (changed(", layout ", ", layout 9"), "is of another version or instruction set"),
        (changed(", scalar", ", avx512"), "is of another version or instruction set"),
        (changed("of model.gguf: 7", "of model.gguf: 8"), "is of other weights"),
        (changed("of config.json: 3 bytes\n", ""), "is of other weights"),
        (changed("q8_0[260,256]", "q4_0[260,256]"), "has other weights in it"),
        (changed(" groups of", "18446744073709551615 groups of"), "has other weights in it"),
        // Weights behind the end of the file, over each other, beyond all numbers; one that is there twice, none at all.
        (changed(place, "9999999 bytes behind this text\n"), "has other weights in it"),
        (changed(place, "0 bytes behind this text\n"), "has other weights in it"),
        (changed(place, "18446744073709551616 bytes behind this text\n"), "has other weights in it"),
        (changed(second, &second.repeat(2)), "has other weights in it"),
        (changed(&lines[4..].concat(), end), "has other weights in it"),
        (changed(end, &second.repeat(10_000)), "has other weights in it"),
    ];
    for (bytes, why) in hostile {
        fs::write(&file, &bytes).unwrap();
        let loaded = within(cost.peak + 64 * 1024, Duration::from_secs(1), start);
        let [note] = loaded.notes() else { panic!("{why}: {:?}", loaded.notes()) };
        let named = format!("packed cache {} {why}", file.display());
        assert!(why == "bytes, expected" || note.starts_with(&named), "{note:?} does not begin with {named:?}");
        assert!(note.contains(why) && note.ends_with("; it is written anew") && note.len() < 1000, "{note}");
        // The twin.
        assert!(fs::read(&file).unwrap() == sound, "{why}");
        assert_eq!(start().notes(), &[] as &[String]);
    }
    assert_eq!(files(dir.path()), [&*file]);
}

#[test]
fn a_file_of_any_length_is_judged_without_reading_it() {
    let (g, dir) = (graph("q8_0"), tempfile::tempdir().unwrap());
    load(&g, &Source::new(&g, cache(dir.path())));
    let [file] = &files(dir.path())[..] else { panic!("one file") };
    let sound = fs::read(file).unwrap();
    fs::OpenOptions::new().write(true).open(file).unwrap().set_len(1 << 40).unwrap();
    let loaded = load(&g, &Source::new(&g, cache(dir.path())));
    assert!(loaded.notes()[0].contains("has 1099511627776 bytes, expected"), "{:?}", loaded.notes());
    assert!(fs::read(file).unwrap() == sound);
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_not_waited_for() {
    let (g, dir) = (graph("q8_0"), tempfile::tempdir().unwrap());
    let file = dir.path().join("model.gguf.rlx-packed-scalar");
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    let loaded = load(&g, &Source::new(&g, cache(dir.path())));
    assert!(loaded.notes()[0].contains("is no regular file; it is written anew"), "{:?}", loaded.notes());
    assert_eq!(load(&g, &Source::new(&g, cache(dir.path()))).notes(), &[] as &[String]);
    // A directory cannot be replaced.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let loaded = load(&g, &Source::new(&g, cache(dir.path())));
    let [found, written] = loaded.notes() else { panic!("{:?}", loaded.notes()) };
    assert!(found.contains("is no regular file"), "{found}");
    assert!(written.contains("cannot be written") && written.contains("going on without"), "{written}");
    assert_eq!(files(dir.path()), [] as [PathBuf; 0], "what could not be finished is removed");
}

#[test]
fn a_place_that_takes_no_file_is_named_and_done_without() {
    let (g, dir) = (graph("q6_k"), tempfile::tempdir().unwrap());
    let absent = cache(&dir.path().join("absent"));
    let loaded = load(&g, &Source::new(&g, absent.clone()));
    let [note] = loaded.notes() else { panic!("{:?}", loaded.notes()) };
    assert!(note.contains("absent") && note.contains("cannot be written: ") && note.ends_with("; going on without"), "{note}");
    assert!(loaded.held_bytes() > 100_000 && loaded.mapped_bytes() == 0);
    let params = weights(&g);
    assert!(outputs(&g, Level::Scalar, &params, Some(absent)) == outputs(&g, Level::Scalar, &params, None));
}

#[test]
fn weights_in_use_stay_when_their_file_is_replaced() {
    let (g, dir) = (graph("q4_k"), tempfile::tempdir().unwrap());
    let cpu = cpu(Level::Scalar);
    let (params, mut others) = (weights(&g), weights(&g));
    for w in &mut others {
        let half = w.bytes.len() / 2;
        w.bytes.rotate_left(half);
    }
    let on = |source: &str| {
        let cache = PackedCache { source: vec![source.into()], ..cache(dir.path()) };
        OnBackend { cache: Some(cache), ..OnBackend::new(&cpu) }
    };
    let (dims, inputs) = tokens(3);
    on("one").prepare(&g, &params).unwrap();
    let mut first = on("one").prepare(&g, &params).unwrap();
    let before = first.run(&dims, &inputs).unwrap();
    let after = on("two").prepare(&g, &others).unwrap().run(&dims, &inputs).unwrap();
    assert!(after != before, "other weights give other results");
    assert!(first.run(&dims, &inputs).unwrap() == before);
}

#[test]
fn what_a_broken_write_left_behind_is_removed_when_it_is_old() {
    let (g, dir) = (graph("q8_0"), tempfile::tempdir().unwrap());
    let name = |end: &str| dir.path().join(format!("model.gguf.rlx-packed-scalar{end}"));
    for (end, minutes) in [(".partial-1-0", 59), (".partial-2-0", 61)] {
        let left = fs::File::create(name(end)).unwrap();
        left.set_modified(SystemTime::now() - Duration::from_secs(60 * minutes)).unwrap();
    }
    load(&g, &Source::new(&g, cache(dir.path())));
    assert_eq!(files(dir.path()), [name(""), name(".partial-1-0")]);
}

/// FNV-1a of what matrices of all packed formats are packed to, from bytes that are always the same.
fn sum(level: Level) -> u64 {
    let affine = BlockFormat::all().filter(|f| matches!(f, BlockFormat::Affine(_)));
    let ggml = [BlockFormat::Q4_0, BlockFormat::Q8_0, BlockFormat::Q4K, BlockFormat::Q5K, BlockFormat::Q6K];
    let packed = ggml.into_iter().chain(affine).flat_map(|f| {
        let each = Matmul::new(WeightType::Block(f), Mode::Fast, level, 21, 512);
        let stored: Vec<u8> = (0..21 * each.weight_type().row_bytes(512)).map(|i| (i * 7 + i / 100) as u8).collect();
        let mut packed = vec![0; each.bytes()];
        each.pack(&stored, 0..each.n_groups(), &mut packed);
        packed
    });
    packed.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn packed_bytes_change_only_with_the_number_of_their_layouts() {
    let (g, dir) = (graph("q8_0"), tempfile::tempdir().unwrap());
    load(&g, &Source::new(&g, cache(dir.path())));
    let file = fs::read(dir.path().join("model.gguf.rlx-packed-scalar")).unwrap();
    let header = String::from_utf8_lossy(&file[..200]).into_owned();
    let layout = header.split(", ").find_map(|part| part.strip_prefix("layout ")).unwrap();
    // By lanes and bias of 8-bit codes.
    let known = [
        ((4, 0), 8_537_197_407_876_076_082),
        ((8, 128), 9_109_892_479_262_227_174),
        ((16, 128), 13_525_492_191_376_279_390),
        ((8, 0), 1_308_766_675_467_070_438),
    ];
    for level in Level::available() {
        let of = (level.lanes(), level.i8_bias());
        let known = known.iter().find(|k| k.0 == of).expect("sums of this layout are known").1;
        assert_eq!(
            (layout, sum(level)),
            ("2", known),
            "packed bytes of {level} {of:?} have changed: raise `VERSION` in matmul/layout.rs, and put the new sums here"
        );
    }
}
