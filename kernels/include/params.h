// One plain struct for each kernel, and the constants that both sides must know. nvcc and bindgen
// read this header: it is the only contract between the kernels and src/ops.
#pragma once
#include <stdint.h>
