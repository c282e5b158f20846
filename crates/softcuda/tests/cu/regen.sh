#!/usr/bin/env bash
# Compiles the corpus to tests/ptx with the pinned nvcc. Run from anywhere; the paths in the output
# do not name this machine.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../../.." && pwd)
cuda=$(cd "${QWEN2VL_CUDA_HOME:-$root/.toolchain/cuda}" && pwd -P)
# A fixed folder: -G writes its name into the debug sections.
work=/tmp/softcuda-corpus
mkdir "$work"
trap 'rm -rf "$work"' EXIT
mkdir "$work/kernels"
cp "$here"/*.cu "$work/kernels"
cd "$work"
flags=(-std=c++17 -fmad=false -prec-div=true -prec-sqrt=true -ftz=false --ptx)
compile() { # name suffix flags...
  local out="$here/../ptx/$1.$2.ptx"
  "$cuda/bin/nvcc" "${flags[@]}" "${@:3}" "kernels/$1.cu" -o "$work/out.ptx"
  sed -e "s|$cuda|cuda|g" -e "s|$work|build|g" -e 's|"/[^"]*/include/|"include/|' "$work/out.ptx" >"$out"
}
for file in kernels/*.cu; do
  name=$(basename "$file" .cu)
  compile "$name" sm_80 -O3 -lineinfo -arch=compute_80
  compile "$name" sm_120 -O3 -arch=compute_120
done
for name in control memory warp; do
  compile "$name" debug -O0 -G -arch=compute_80
done
# Containers: plain, and with the compression that nvcc chooses by itself.
cat >kernels/image.cu <<'CU'
extern "C" __global__ void image(float* a) {
  __shared__ float s[300];
  s[threadIdx.x] = a[1];
  __syncthreads();
  a[threadIdx.x] = s[threadIdx.x ^ 1] * 2;
}
CU
fatbin() { # name flags...
  "$cuda/bin/nvcc" -std=c++17 -O3 -fmad=false -lineinfo --fatbin "${@:2}" kernels/image.cu -o "$here/../ptx/$1.fatbin"
}
fatbin plain --no-compress -gencode 'arch=compute_80,code=[sm_80,compute_80]' \
  -gencode 'arch=compute_90a,code=[sm_90a,compute_90a]' -gencode arch=compute_89,code=compute_89
fatbin zstd -gencode 'arch=compute_80,code=[sm_80,compute_80]' --compress-mode=size
