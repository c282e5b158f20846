// Philox4x32-10, a counter-based generator (Salmon et al., "Parallel Random Numbers: As Easy as
// 1, 2, 3", SC 2011): a pure function of key and counter, so a draw depends on the seed and the
// place of the token alone.
#pragma once
#include <stdint.h>

constexpr uint32_t PHILOX_MULTIPLIER_0 = 0xD2511F53u;
constexpr uint32_t PHILOX_MULTIPLIER_1 = 0xCD9E8D57u;
constexpr uint32_t PHILOX_WEYL_0 = 0x9E3779B9u;
constexpr uint32_t PHILOX_WEYL_1 = 0xBB67AE85u;
constexpr int PHILOX_ROUNDS = 10;

__device__ __forceinline__ uint4 philox4x32(uint2 key, uint4 counter) {
#pragma unroll
  for (int round = 0; round < PHILOX_ROUNDS; ++round) {
    const uint32_t high0 = __umulhi(PHILOX_MULTIPLIER_0, counter.x);
    const uint32_t low0 = PHILOX_MULTIPLIER_0 * counter.x;
    const uint32_t high1 = __umulhi(PHILOX_MULTIPLIER_1, counter.z);
    const uint32_t low1 = PHILOX_MULTIPLIER_1 * counter.z;
    counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
    key = make_uint2(key.x + PHILOX_WEYL_0, key.y + PHILOX_WEYL_1);
  }
  return counter;
}
