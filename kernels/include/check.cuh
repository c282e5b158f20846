// DEVICE_CHECK: traps on a value read from memory that only a bug can make wrong. It is compiled
// into test builds (-DQWEN2VL_DEVICE_CHECK) and costs nothing elsewhere.
#pragma once

#ifdef QWEN2VL_DEVICE_CHECK
#define DEVICE_CHECK(holds) \
  do {                      \
    if (!(holds)) __trap(); \
  } while (false)
#else
#define DEVICE_CHECK(holds) static_cast<void>(0)
#endif
