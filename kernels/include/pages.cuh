// From a page table to the keys and values of one layer and head.
//
// The pool is [page][L][2][G][P][D]: a page holds P = 64 tokens of every layer, keys before
// values, so that one (page, layer, keys or values, head) tile is P * D contiguous elements.
// A sequence's token at position s lies in page page_table[s / P], row s % P.
#pragma once
#include "check.cuh"
#include "params.h"

// Offset of a head's key tile in its page, in the layer of the launch; its value tile is kv.values
// further.
__device__ __forceinline__ int64_t key_offset(const KvStrides& kv, int head) {
  return kv.layer + head * kv.head;
}

// Offset of a page. -1 marks an unused place of a page table: to visit it is a bug of the host.
__device__ __forceinline__ int64_t page_offset(const KvStrides& kv, int page) {
  DEVICE_CHECK(page >= 0);
  return page * kv.page;
}
