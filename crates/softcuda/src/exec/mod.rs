//! Execution of lowered kernels.

pub mod block;
pub mod grid;
pub mod handlers;
pub mod op;
mod sched;
pub(crate) mod simd;
pub mod warp;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::memory::Memory;
use crate::ptx::ast::Module;

pub use block::{BUDGET, BlockState, Progress, Worker};
pub use op::{Handler, Level, Op, Reg};
pub use warp::Warp;

/// A parameter of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelParam {
    /// Offset in the parameter buffer.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

/// An instruction of the text, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// PTX line, from 1.
    pub line: u32,
    /// Source position: an index of the module's line table.
    pub loc: u32,
}

/// A lowered kernel.
#[derive(Debug)]
pub struct Kernel {
    /// Its symbol.
    pub name: String,
    /// Parameters in order.
    pub params: Vec<KernelParam>,
    /// Bytes of the parameter buffer.
    pub params_size: u32,
    /// Static shared memory in bytes; dynamic shared memory begins there.
    pub shared_size: u32,
    /// Local memory of a lane in bytes.
    pub local_size: u32,
    /// `.maxntid` or `.reqntid` as threads of a block; 1,024 without them.
    pub max_threads: u32,
    /// `.reqntid`.
    pub required_threads: Option<[u32; 3]>,
    /// Warp registers.
    pub regs: u32,
    /// Predicate masks.
    pub masks: u32,
    /// Registers that hold a constant in every lane, and the constants.
    pub constants: Vec<(u16, u32)>,
    /// Ops whose results hold for all blocks of a launch: run by a warp before its first block, up
    /// to the last op. May be empty.
    pub preamble: Box<[Op]>,
    /// The ops; execution begins at the first.
    pub ops: Box<[Op]>,
    /// Instructions, by [`Op::loc`].
    pub sites: Vec<Site>,
    /// Level of the handlers.
    pub level: Level,
    /// The module, for texts of reports.
    pub module: Arc<Module>,
}

/// The order in which blocks or warps run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// By ascending index.
    #[default]
    Ascending,
    /// By descending index.
    Descending,
}

/// When asynchronous copies land.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CopyMode {
    /// The destination holds 0xff bytes until the wait that covers the copy.
    #[default]
    Strict,
    /// At the instruction.
    Eager,
}

/// Choices that must not change the result of a right kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// SIMD level of the handlers; part of lowering.
    pub level: Level,
    /// Without the optimiser; part of lowering.
    pub plain: bool,
    /// Order of blocks. Followed by whoever hands out blocks.
    pub blocks: Order,
    /// Order of warps in a block.
    pub warps: Order,
    /// Asynchronous copies.
    pub copies: CopyMode,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            level: Level::detect(),
            plain: false,
            blocks: Order::default(),
            warps: Order::default(),
            copies: CopyMode::default(),
        }
    }
}

/// A kernel launch: what all of its blocks share.
pub struct Launch {
    /// The kernel.
    pub kernel: Arc<Kernel>,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
    /// The parameter buffer, `kernel.params_size` bytes.
    pub params: Arc<[u8]>,
    /// Device memory.
    pub memory: Arc<Memory>,
    /// Launch number, from 1.
    pub number: u64,
    /// Multiprocessors that `%nsmid` shows.
    pub processors: u32,
    /// Orders and modes.
    pub settings: Settings,
    /// Set to end the launch early: blocks of it return a fault of kind `Cancelled` soon.
    pub stop: AtomicBool,
}
