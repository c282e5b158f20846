// Asynchronous copies from global to shared memory (PTX ISA 9.7.9.25, cp.async).
//
// A copy lands in shared memory when its thread waits for its group; other threads see it after a
// barrier that follows the wait. Every step of a pipeline commits one group, also an empty one:
// `cp_async_wait<N>` counts groups, not copies.
#pragma once
#include <stdint.h>

// Address of shared memory as cp.async, ldmatrix and friends take it.
__device__ __forceinline__ uint32_t shared_address(const void* at) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}

// cp.async.cg: 16 bytes past L1; the bytes from `bytes` (0 to 16) on become zero. Both addresses
// are 16-byte aligned, and `source` is a valid address also when `bytes` is 0.
__device__ __forceinline__ void cp_async_16(uint32_t shared, const void* source, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(source),
               "r"(bytes)
               : "memory");
}

// The same for 16 whole bytes, to a fixed distance that is part of the instruction.
template <int BYTES>
__device__ __forceinline__ void cp_async_16_at(uint32_t shared, const void* source) {
  asm volatile("cp.async.cg.shared.global [%0 + %1], [%2], 16;" ::"r"(shared), "n"(BYTES),
               "l"(source)
               : "memory");
}

// cp.async.commit_group: closes the group of this thread's copies so far.
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// cp.async.wait_group: until at most the newest PENDING groups of this thread are in flight.
template <int PENDING>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
