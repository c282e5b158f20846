// Pixels of frames to rows of patches, normalised: the x of the patch embedding's GEMM.
//
// What     y[r,q] = value(colour, pixel) of the patch r and q = ((colour*temporal + frame)*patch +
//          row)*patch + column (docs/spec.md 3.8); zeros from 3*temporal*patch^2 to K. value is
//          table[colour][pixel], or E(fmaf(pixel, scale[colour], shift[colour])), which the host
//          uses only where both agree for all 768 inputs.
// Shapes   pixels u8 [frames, 3, gh*patch, pitch], y E [gt*gh*gw, K], K % 16 == 0, merge divides
//          gh and gw. Frames from `frames` on repeat the last: a picture is one frame.
// Mapping  grid ceil(R / 8), block 256: a warp owns a patch row, a lane 8 columns of each 256.
// Numerics one rounding to E, of a value in f32: tolerance class A, bit-equal.
// Floor    bytes frames*3*gh*patch*gw*patch + 2*R*K; pixels are read through L1.

#include "params.h"
#include "vec.cuh"
#include "warp.cuh"

constexpr int VEC = 8;
constexpr int LEVELS = 256;  // values of a pixel's byte
static_assert(PATCHIFY_THREADS == PATCHIFY_ROWS * WARP, "a warp for each patch row");

// Place of a patch: its group of frames, and its row and column in patches.
struct PatchPlace {
  int group, row, column;
};

// Patches of a merged patch are neighbours; merged patches go along rows.
__device__ __forceinline__ PatchPlace place_of(const PatchifyParams& p, int patch_row) {
  const int in_frame = patch_row % (p.gh * p.gw);
  const int merged = p.merge * p.merge;
  const int block_row = in_frame / (p.merge * p.gw);
  const int rest = in_frame % (p.merge * p.gw);
  const int block_column = rest / merged;
  const int inside = rest % merged;
  return {patch_row / (p.gh * p.gw), block_row * p.merge + inside / p.merge,
          block_column * p.merge + inside % p.merge};
}

template <typename E>
__device__ __forceinline__ E value_of(const PatchifyParams& p, int colour, int pixel) {
  if (p.table != nullptr) return static_cast<const E*>(p.table)[colour * LEVELS + pixel];
  // Chosen, not indexed: a parameter read at a computed place leaves the constant bank's fast path.
  const float scale = colour == 0 ? p.scale[0] : colour == 1 ? p.scale[1] : p.scale[2];
  const float shift = colour == 0 ? p.shift[0] : colour == 1 ? p.shift[1] : p.shift[2];
  return round_to<E>(fmaf(float(pixel), scale, shift));
}

template <typename E>
__device__ __forceinline__ void patchify(const PatchifyParams& p) {
  const int patch_row = blockIdx.x * PATCHIFY_ROWS + threadIdx.x / WARP;
  const int lane = threadIdx.x % WARP;
  if (patch_row >= p.gt * p.gh * p.gw) return;  // whole warps, and no barrier follows

  const PatchPlace place = place_of(p, patch_row);
  const int64_t plane = int64_t(p.gh) * p.patch * p.pitch;
  const uint8_t* corner =
      p.pixels + int64_t(place.row) * p.patch * p.pitch + place.column * p.patch;
  const int used = PATCHIFY_COLOURS * p.temporal * p.patch * p.patch;
  E* y = static_cast<E*>(p.y) + int64_t(patch_row) * p.K;

  for (int first = lane * VEC; first < p.K; first += WARP * VEC) {
    Vec8<E> out = zero8<E>();
#pragma unroll
    for (int i = 0; i < VEC; ++i) {
      const int q = first + i;
      if (q >= used) continue;
      const int line = q / p.patch;
      const int row = line % p.patch;
      const int slice = line / p.patch;  // colour * temporal + frame
      const int colour = slice / p.temporal;
      const int frame = min(place.group * p.temporal + slice % p.temporal, p.frames - 1);
      const int64_t offset = (int64_t(frame) * PATCHIFY_COLOURS + colour) * plane + row * p.pitch;
      out.lane[i] = value_of<E>(p, colour, corner[offset + q % p.patch]);
    }
    store8(y + first, out);
  }
}

extern "C" __global__ void __launch_bounds__(PATCHIFY_THREADS)
    patchify_bf16(const __grid_constant__ PatchifyParams p) {
  patchify<bf16>(p);
}

extern "C" __global__ void __launch_bounds__(PATCHIFY_THREADS)
    patchify_f16(const __grid_constant__ PatchifyParams p) {
  patchify<f16>(p);
}

extern "C" __global__ void __launch_bounds__(PATCHIFY_THREADS)
    patchify_f32(const __grid_constant__ PatchifyParams p) {
  patchify<float>(p);
}
