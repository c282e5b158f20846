//! Device profiles: which GPU the software device says it is.
//!
//! A profile answers attribute queries, occupancy and launch checks. It changes no result of a
//! kernel.

mod table;

pub use table::{A100, H100, L4, RTX4090};

/// The limits and figures of one GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// As `SOFTCUDA_PROFILE` names it.
    pub name: &'static str,
    /// As the device name shows it.
    pub title: &'static str,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub processors: u32,
    /// Resident threads on a multiprocessor.
    pub threads_per_processor: u32,
    /// Resident blocks on a multiprocessor.
    pub blocks_per_processor: u32,
    /// Shared memory of a multiprocessor, bytes.
    pub shared_per_processor: u32,
    /// Shared memory that a block may opt in to, bytes.
    pub shared_per_block_optin: u32,
    /// L2 cache, bytes.
    pub l2_bytes: u32,
    /// Multiprocessor clock, kHz.
    pub clock_khz: u32,
    /// Memory clock, kHz.
    pub memory_clock_khz: u32,
    /// Memory bus, bits.
    pub memory_bus_bits: u32,
    /// Memory bandwidth, bytes a second.
    pub memory_bandwidth: f64,
    /// Nominal memory, bytes.
    pub memory_bytes: u64,
    /// Dense bf16 with f32 sums, FLOP a second.
    pub bf16_flops: f64,
    /// f32, FLOP a second.
    pub f32_flops: f64,
    /// Blocks in a cluster; 0 where there are no clusters.
    pub max_cluster: u32,
}

/// Threads of a warp.
pub const WARP: u32 = 32;
/// Threads of a block, at most.
pub const MAX_THREADS_PER_BLOCK: u32 = 1024;
/// Block dimensions, at most.
pub const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
/// Grid dimensions, at most.
pub const MAX_GRID: [u32; 3] = [0x7fff_ffff, 65_535, 65_535];
/// Registers of a multiprocessor, and of a block at most.
pub const REGISTERS: u32 = 65_536;
/// Registers are given to a warp in units of this many.
pub const REGISTER_UNIT: u32 = 256;
/// Shared memory of a block without opting in, bytes.
pub const SHARED_DEFAULT: u32 = 49_152;
/// Shared memory that the system takes from each block, bytes.
pub const SHARED_RESERVED: u32 = 1024;
/// Constant memory of a module, bytes.
pub const CONSTANT_BYTES: u32 = 65_536;

impl Profile {
    /// Every profile.
    pub const ALL: [&'static Profile; 4] = [&A100, &H100, &RTX4090, &L4];

    /// The profile of this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Profile> {
        Self::ALL.into_iter().find(|profile| profile.name == name)
    }

    /// The name that the device reports.
    #[must_use]
    pub fn device_name(&self) -> String {
        format!("softcuda ({} profile)", self.title)
    }

    /// `major · 10 + minor`.
    #[must_use]
    pub fn architecture(&self) -> u32 {
        self.capability.0 * 10 + self.capability.1
    }

    /// The value of a `CUdevice_attribute`; `None` for a number that is none.
    #[must_use]
    pub fn attribute(&self, attribute: u32) -> Option<i32> {
        const ATTRIBUTE_MAX: u32 = 148;
        let value = match attribute {
            0 | ATTRIBUTE_MAX.. => return None,
            1 => MAX_THREADS_PER_BLOCK,
            2..=4 => MAX_BLOCK[attribute as usize - 2],
            5..=7 => MAX_GRID[attribute as usize - 5],
            8 => SHARED_DEFAULT,
            9 => CONSTANT_BYTES,
            10 => WARP,
            11 => i32::MAX as u32,
            12 | 82 => REGISTERS,
            13 => self.clock_khz,
            14 => 512,
            // Copies overlap with kernels, kernels with kernels, host memory is mapped.
            15 | 19 | 31 => 1,
            16 => self.processors,
            36 => self.memory_clock_khz,
            37 => self.memory_bus_bits,
            38 => self.l2_bytes,
            39 => self.threads_per_processor,
            40 => 2,
            41 => 1,
            51 => 32,
            75 => self.capability.0,
            76 => self.capability.1,
            // Stream priorities, caching of global and local loads in L1.
            78..=80 => 1,
            81 => self.shared_per_processor,
            83 => 1,
            // f32 to f64 throughput.
            87 => {
                if self.capability.1 == 9 {
                    64
                } else {
                    2
                }
            }
            // Preemption; registered memory at its host address; cooperative launch.
            90 | 91 | 95 => 1,
            97 => self.shared_per_block_optin,
            99 => 1,
            106 => self.blocks_per_processor,
            111 => SHARED_RESERVED,
            115 => 1,
            120 => u32::from(self.max_cluster > 0),
            _ => 0,
        };
        Some(value as i32)
    }

    /// Blocks of this kind that fit on one multiprocessor at once.
    #[must_use]
    pub fn occupancy(&self, threads: u32, registers: u32, shared: u32) -> u32 {
        if threads == 0 || threads > MAX_THREADS_PER_BLOCK {
            return 0;
        }
        let warps = threads.div_ceil(WARP);
        let by_threads = self.threads_per_processor / (warps * WARP);
        let for_warp = (registers * WARP).next_multiple_of(REGISTER_UNIT);
        let by_registers = match for_warp {
            0 => u32::MAX,
            // Warps are spread over four schedulers, each with a quarter of the registers.
            _ => REGISTERS / 4 / for_warp * 4 / warps,
        };
        let shared = (shared + SHARED_RESERVED).next_multiple_of(128);
        let by_shared = self.shared_per_processor / shared;
        by_threads.min(by_registers).min(by_shared).min(self.blocks_per_processor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_profiles() {
        for profile in Profile::ALL {
            assert_eq!(Profile::by_name(profile.name), Some(profile));
        }
        assert_eq!(Profile::by_name("A100"), None);
        assert_eq!(A100.device_name(), "softcuda (A100 profile)");
    }

    #[test]
    fn attributes_are_the_profile_s() {
        assert_eq!(A100.attribute(16), Some(108));
        assert_eq!(A100.attribute(75), Some(8));
        assert_eq!(H100.attribute(97), Some(232_448));
        assert_eq!(H100.attribute(120), Some(1));
        assert_eq!(L4.attribute(39), Some(1536));
        assert_eq!(A100.attribute(5), Some(i32::MAX));
        assert_eq!(A100.attribute(4), Some(64));
        assert_eq!(A100.attribute(147), Some(0), "known to the header, not to us");
        assert_eq!(A100.attribute(148), None);
        assert_eq!(A100.attribute(0), None);
    }

    /// Figures of NVIDIA's occupancy calculator.
    #[test]
    fn occupancy_is_the_smallest_of_four_limits() {
        assert_eq!(A100.occupancy(256, 32, 0), 8, "threads");
        assert_eq!(A100.occupancy(32, 16, 0), 32, "blocks");
        assert_eq!(A100.occupancy(256, 128, 0), 2, "registers");
        assert_eq!(A100.occupancy(128, 255, 0), 2, "registers");
        assert_eq!(A100.occupancy(256, 32, 48 << 10), 3, "shared");
        assert_eq!(A100.occupancy(1024, 32, 166_912), 1, "all shared memory");
        assert_eq!(RTX4090.occupancy(1024, 32, 0), 1, "1,536 threads hold one");
        assert_eq!(A100.occupancy(1025, 32, 0), 0);
    }
}
