#!/usr/bin/env bash
# Usage: fuzz/run.sh TARGET [libFuzzer options]      e.g. fuzz/run.sh messages -runs=10000000
# Builds the fuzz targets with coverage (a nightly compiler) and runs one on its corpus. New inputs
# go to fuzz/found/TARGET; `fuzz/run.sh TARGET -merge=1 fuzz/corpus/TARGET fuzz/found/TARGET` keeps
# those that reach new code.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,5s/^# //p' "$0"; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=$1
shift
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
coverage+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
coverage+=" -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$here/target}
(cd "$here" && RUSTFLAGS=$coverage cargo +nightly build --quiet --release --target x86_64-unknown-linux-gnu)
mkdir -p "$here/found/$target" "$here/corpus/$target"
dictionary=$here/dictionaries/$target.txt
export QWEN2VL_FUZZ_TARGET=$target
[ $# -gt 0 ] && [[ $1 = -merge=* ]] || set -- -timeout=10 -rss_limit_mb=2048 -max_len=4096 "$@" \
    "$here/found/$target" "$here/corpus/$target"
[ ! -f "$dictionary" ] || set -- -dict="$dictionary" "$@"
exec "$CARGO_TARGET_DIR/x86_64-unknown-linux-gnu/release/parsers" "$@"
