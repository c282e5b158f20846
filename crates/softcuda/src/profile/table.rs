//! Figures from NVIDIA's data sheets and the tables of compute capabilities in its programming
//! guide.

use super::Profile;

const GIB: u64 = 1 << 30;

/// NVIDIA A100, 80 GB.
pub static A100: Profile = Profile {
    name: "a100",
    title: "A100",
    capability: (8, 0),
    processors: 108,
    threads_per_processor: 2048,
    blocks_per_processor: 32,
    shared_per_processor: 167_936,
    shared_per_block_optin: 166_912,
    l2_bytes: 41_943_040,
    clock_khz: 1_410_000,
    memory_clock_khz: 1_593_000,
    memory_bus_bits: 5120,
    memory_bandwidth: 2039e9,
    memory_bytes: 80 * GIB,
    bf16_flops: 312e12,
    f32_flops: 19.5e12,
    max_cluster: 0,
};

/// NVIDIA H100, SXM.
pub static H100: Profile = Profile {
    name: "h100",
    title: "H100",
    capability: (9, 0),
    processors: 132,
    threads_per_processor: 2048,
    blocks_per_processor: 32,
    shared_per_processor: 233_472,
    shared_per_block_optin: 232_448,
    l2_bytes: 52_428_800,
    clock_khz: 1_980_000,
    memory_clock_khz: 2_619_000,
    memory_bus_bits: 5120,
    memory_bandwidth: 3352e9,
    memory_bytes: 80 * GIB,
    bf16_flops: 989e12,
    f32_flops: 67e12,
    max_cluster: 8,
};

/// NVIDIA RTX 4090.
pub static RTX4090: Profile = Profile {
    name: "rtx4090",
    title: "RTX 4090",
    capability: (8, 9),
    processors: 128,
    threads_per_processor: 1536,
    blocks_per_processor: 24,
    shared_per_processor: 102_400,
    shared_per_block_optin: 101_376,
    l2_bytes: 75_497_472,
    clock_khz: 2_520_000,
    memory_clock_khz: 10_501_000,
    memory_bus_bits: 384,
    memory_bandwidth: 1008e9,
    memory_bytes: 24 * GIB,
    bf16_flops: 165e12,
    f32_flops: 82.6e12,
    max_cluster: 0,
};

/// NVIDIA L4.
pub static L4: Profile = Profile {
    name: "l4",
    title: "L4",
    capability: (8, 9),
    processors: 58,
    threads_per_processor: 1536,
    blocks_per_processor: 24,
    shared_per_processor: 102_400,
    shared_per_block_optin: 101_376,
    l2_bytes: 50_331_648,
    clock_khz: 2_040_000,
    memory_clock_khz: 6_251_000,
    memory_bus_bits: 192,
    memory_bandwidth: 300e9,
    memory_bytes: 23 * GIB,
    bf16_flops: 121e12,
    f32_flops: 30.3e12,
    max_cluster: 0,
};
