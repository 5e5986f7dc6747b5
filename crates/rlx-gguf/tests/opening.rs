//! Opening large files and opening from many threads: nothing but the header is read.
#![cfg(target_os = "linux")]

mod common;

use common::{F32, Raw, fixture, tensor};
use rlx_gguf::Gguf;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

/// Pages of this process that come from files, in bytes.
fn resident_file_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("RssFile:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_file_of_4_gib_opens_without_reading_its_tensors() {
    const BYTES: u64 = 4 << 30;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.gguf");
    let two = vec![tensor(b"a", &[1 << 28, 2], F32, 0), tensor(b"b", &[1 << 28, 2], F32, BYTES / 2)];
    let header = Raw::default().tensors(two, 0).build();
    let write = |bytes: u64| {
        let mut file = File::create(&path).unwrap();
        file.write_all(&header).unwrap();
        file.set_len(header.len() as u64 + bytes).unwrap(); // a hole: takes no room on the disk
        file.seek(SeekFrom::End(-4)).unwrap();
        file.write_all(&7.5f32.to_le_bytes()).unwrap();
    };
    write(BYTES);
    let before = resident_file_bytes();
    let start = Instant::now();
    let gguf = Gguf::open(&path).unwrap();
    let (took, grown) = (start.elapsed(), resident_file_bytes().saturating_sub(before));
    assert!(took < Duration::from_secs(1), "took {took:?}");
    // Room for the pages around those that are touched, and for the test beside this one.
    assert!(grown < 16 << 20, "{grown} bytes became resident");
    let last = gguf.tensor("b").unwrap();
    assert_eq!((last.shape.as_slice(), last.bytes), ([2, 1 << 28].as_slice(), BYTES / 2));
    assert_eq!(gguf.tensor_bytes(last).unwrap().last_chunk(), Some(&7.5f32.to_le_bytes()));
    assert!(resident_file_bytes().saturating_sub(before) < 16 << 20, "one element is read, not its tensor");
    drop(gguf);
    // The twin: one byte short.
    write(BYTES - 1);
    assert!(Gguf::open(&path).unwrap_err().to_string().contains("\"b\""));
}

#[test]
fn eight_threads_open_one_file() {
    let path = fixture("qwen3-Q4_0.gguf");
    let sums = |gguf: &Gguf| {
        let sum = |t| gguf.tensor_f32(t).unwrap().iter().map(|v| f64::from(*v)).sum::<f64>().to_bits();
        gguf.tensors().iter().map(sum).collect::<Vec<_>>()
    };
    let shared = Gguf::open(&path).unwrap();
    let expected = sums(&shared);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|i| {
                let (path, shared) = (&path, &shared);
                scope.spawn(move || {
                    // Half of them open it themselves, many times; half share one that is open.
                    if i % 2 == 0 { (0..20).map(|_| sums(&Gguf::open(path).unwrap())).next_back().unwrap() } else { sums(shared) }
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), expected);
        }
    });
}
