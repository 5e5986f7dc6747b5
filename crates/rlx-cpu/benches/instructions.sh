#!/usr/bin/env bash
# Instructions that NEON products of bytes execute per block of weights, as a table of Markdown.
#
# The program `instructions` runs under qemu-aarch64, which logs every instruction it executes.  Counts are differences
# of four runs, of two lengths of rows and two numbers of products, so that all that is not the inner loop falls out.
# Needs qemu-user and the target aarch64-unknown-linux-musl (rustup target add); takes some minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld
program=$(cargo bench --package rlx-cpu --bench instructions --target aarch64-unknown-linux-musl --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
[ -x "$program" ] || { echo "error: no program was built" >&2; exit 1; }

# Newer versions have another name for blocks of a single instruction.
single=-singlestep
if qemu-aarch64 --help | grep --quiet one-insn-per-tb; then single=-one-insn-per-tb; fi

# Instructions of a whole run.
executed() {
    qemu-aarch64 -cpu max "$single" -d exec,nochain "$program" "$@" 2>&1 > /dev/null | grep --count '^Trace'
}
# Per block of $3 weights of one weight row and all $4 activation rows: format, level, block, rows.
per_block() {
    local k=$((4 * $3)) a b c d
    a=$(executed "$1" "$2" "$4" "$k" 1)
    b=$(executed "$1" "$2" "$4" "$k" 3)
    c=$(executed "$1" "$2" "$4" $((3 * k)) 1)
    d=$(executed "$1" "$2" "$4" $((3 * k)) 3)
    # Two products, eight blocks, four rows of weights.
    awk -v n=$((d - c - b + a)) 'BEGIN { printf "%.1f", n / 64 }'
}

echo '| format | weights in a block | 1 row, dotprod | 8 rows, dotprod | 8 rows, i8mm |'
echo '|---|---|---|---|---|'
for format in q4_0:32 q8_0:32 q4_k:256 q5_k:256 q6_k:256; do
    block=${format#*:} format=${format%:*}
    echo "| ${format^^} | $block | $(per_block "$format" neon "$block" 1) | $(per_block "$format" neon "$block" 8) | $(per_block "$format" i8mm "$block" 8) |"
done
