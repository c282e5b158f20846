#!/usr/bin/env bash
# Kernel tests on this machine's GPU, then compute-sanitizer over the small case of each kernel.
# Fails where there is no GPU: use `make test` for the software device.
set -euo pipefail
cd "$(dirname "$0")/../.."
export QWEN2VL_DEVICE=${QWEN2VL_DEVICE:-cuda:0}
binary=$(cargo test --profile ci --test kernels --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*kernels-[^"]*\)".*/\1/p' | tail -1)
[ -n "$binary" ] || { echo "check.sh: the kernel tests did not build" >&2; exit 1; }
"$binary" --test-threads=1
if ! command -v compute-sanitizer >/dev/null; then
    echo "check.sh: compute-sanitizer is not in PATH: its three runs were NOT made" >&2
    exit 1
fi
for tool in memcheck racecheck synccheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 99 "$binary" gpu_small --test-threads=1
done
