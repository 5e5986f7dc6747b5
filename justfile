# Recipes; `just` alone lists them.  Arguments go to the program as they are, with or without a leading `--`.

set positional-arguments

# List the recipes
[private]
default:
    @just --justfile {{ quote(justfile()) }} --list --unsorted

# Talk to a Qwen3 model: just qwen3 -- --weights weights/rlx-tiny-chat --prompt "What is 7 times 8?"
qwen3 *ARGS:
    @[ "${1-}" != "--" ] || shift; exec cargo run --release --package rlx-qwen3 --bin rlx-qwen3 -- "$@"

# Say what a checkpoint is: just inspect weights/rlx-tiny-chat
inspect *ARGS:
    @[ "${1-}" != "--" ] || shift; exec cargo run --release --package rlx-models --bin rlx-inspect -- "$@"

# Formatting, lints, documentation and layers, as CI checks them
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
    cargo test --package rlx-models --test layers

# Every test
test:
    cargo test --workspace

# The unit tests of the core crates alone
test-quick:
    cargo test --lib --package rlx-gguf --package rlx-ir --package rlx-compile --package rlx-text --package rlx-core --package rlx-runtime

# Fuzz a target for some seconds (needs nightly and cargo-fuzz): just fuzz gguf 900
fuzz TARGET SECONDS="60":
    @mkdir -p "fuzz/target/corpus/$1"
    dict=""; [ ! -f "fuzz/dict/$1.dict" ] || dict="-dict=fuzz/dict/$1.dict"; \
    exec cargo +nightly fuzz run "$1" "fuzz/target/corpus/$1" "fuzz/corpus/$1" -- "-max_total_time=$2" $dict \
        -max_len=8192 -timeout=60 -rss_limit_mb=2048 -malloc_limit_mb=512

# All programs, optimised
build:
    cargo build --release --workspace --bins

# Load time, prefill and decode tokens per second, peak memory: just bench weights/rlx-tiny-chat --threads 2
bench *ARGS:
    @[ "${1-}" != "--" ] || shift; [ $# -gt 0 ] || set -- weights/rlx-tiny-chat; exec cargo run --release --package rlx-models --bin rlx-run -- bench "$@"

# Write the result tables of docs/benchmarks.md from capsules: just bench-docs docs/benchmarks/*.json
bench-docs *CAPSULES:
    @[ "${1-}" != "--" ] || shift; exec cargo run --release --package rlx-bench -- report --docs docs/benchmarks.md "$@"

# Count the instructions of NEON products per block of weights, under qemu-aarch64
neon-instructions:
    @exec crates/rlx-cpu/benches/instructions.sh

# Pull a Qwen3 checkpoint from the Hugging Face hub into ./weights (needs Docker): just fetch-qwen3 Qwen/Qwen3-0.6B
fetch-qwen3 REPO REVISION="main":
    @docker/qwen3-fetch/fetch.sh "$1" "$2"
