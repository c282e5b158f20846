//! What went wrong in a kernel: the error of a launch.

use std::fmt;

/// A place in CUDA source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceLoc {
    /// File as the line table names it, cut before its last `kernels/` component.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1; 0 when unknown.
    pub column: u32,
    /// Where the function that holds this place was inlined, innermost first.
    pub inlined_at: Option<Box<SourceLoc>>,
}

impl fmt::Display for SourceLoc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        if let Some(at) = &self.inlined_at {
            write!(f, " (inlined at {at})")?;
        }
        Ok(())
    }
}

/// A memory space, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Global memory, module variables and constants.
    Global,
    /// Constant variables.
    Const,
    /// Shared memory of a block.
    Shared,
    /// Local memory of a lane.
    Local,
    /// The launch's parameter buffer.
    Param,
    /// An address without a space.
    Generic,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Space::Global => "global",
            Space::Const => "const",
            Space::Shared => "shared",
            Space::Local => "local",
            Space::Param => "param",
            Space::Generic => "generic",
        })
    }
}

/// The class of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// An access outside live memory (700).
    IllegalAddress {
        /// First failing address.
        addr: u64,
        /// Bytes of the access of one lane.
        size: u32,
        /// Space of the access.
        space: Space,
    },
    /// An access that is not aligned to its size (716).
    Misaligned {
        /// First failing address.
        addr: u64,
        /// Bytes of the access of one lane.
        size: u32,
        /// Space of the access.
        space: Space,
    },
    /// `trap` or `brkpt` (719).
    Trap,
    /// A device-side assertion (710).
    Assert,
    /// Barriers that cannot complete, or used against their rules (719).
    Barrier,
    /// A warp operation whose members never arrive, or that reads a lane outside its mask (719).
    WarpSync,
    /// The per-lane stack is exhausted (719).
    StackOverflow,
    /// A call or branch through a value that is no target (718).
    InvalidPc,
    /// An operand whose value the instruction does not allow (719).
    InvalidOperand,
    /// The launch needs more than the device has (701).
    OutOfResources,
    /// The launch was cancelled (719).
    Cancelled,
    /// The launch ran longer than its limit (702).
    Timeout,
    /// Arguments of a launch or copy that make no sense (1).
    InvalidValue,
}

impl FaultKind {
    /// The `CUresult` of this fault.
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            FaultKind::IllegalAddress { .. } => 700,
            FaultKind::Misaligned { .. } => 716,
            FaultKind::Assert => 710,
            FaultKind::InvalidPc => 718,
            FaultKind::OutOfResources => 701,
            FaultKind::Timeout => 702,
            FaultKind::InvalidValue => 1,
            FaultKind::Trap
            | FaultKind::Barrier
            | FaultKind::WarpSync
            | FaultKind::StackOverflow
            | FaultKind::InvalidOperand
            | FaultKind::Cancelled => 719,
        }
    }

    fn title(&self) -> &'static str {
        match self {
            FaultKind::IllegalAddress { .. } => "illegal address",
            FaultKind::Misaligned { .. } => "misaligned address",
            FaultKind::Trap => "trap",
            FaultKind::Assert => "assertion failed",
            FaultKind::Barrier => "barrier error",
            FaultKind::WarpSync => "warp synchronisation error",
            FaultKind::StackOverflow => "stack overflow",
            FaultKind::InvalidPc => "invalid program counter",
            FaultKind::InvalidOperand => "invalid operand",
            FaultKind::OutOfResources => "out of resources",
            FaultKind::Cancelled => "cancelled",
            FaultKind::Timeout => "timeout",
            FaultKind::InvalidValue => "invalid value",
        }
    }
}

/// A failed launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The `CUresult` that the launch reports.
    pub code: u32,
    /// Name of the kernel.
    pub kernel: String,
    /// Source place of the instruction, when the module has line information.
    pub loc: Option<SourceLoc>,
    /// Line of the instruction in the PTX text, from 1; 0 when it has none.
    pub ptx_line: u32,
    /// Text of that line.
    pub ptx_text: String,
    /// Block that failed.
    pub block: [u32; 3],
    /// Size of the grid.
    pub grid: [u32; 3],
    /// Warp inside the block.
    pub warp: u32,
    /// Failing lanes of the warp.
    pub lanes: u32,
    /// First failing thread of the block.
    pub thread: [u32; 3],
    /// What happened.
    pub kind: FaultKind,
    /// What else is known: the nearest allocation, barrier states, a message.
    pub detail: String,
}

impl Fault {
    /// A fault outside any instruction: refused launches and copies.
    #[must_use]
    pub fn host(kind: FaultKind, detail: impl Into<String>) -> Self {
        Fault {
            code: kind.code(),
            kernel: String::new(),
            loc: None,
            ptx_line: 0,
            ptx_text: String::new(),
            block: [0; 3],
            grid: [0; 3],
            warp: 0,
            lanes: 0,
            thread: [0; 3],
            kind,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kernel.is_empty() {
            return write!(f, "softcuda: {}: {}", self.kind.title(), self.detail);
        }
        writeln!(f, "softcuda: {} in {}", self.kind.title(), self.kernel)?;
        match &self.loc {
            Some(loc) => write!(f, "  at {loc}, ")?,
            None => write!(f, "  at ")?,
        }
        writeln!(f, "PTX line {}: {}", self.ptx_line, self.ptx_text.trim())?;
        let ([x, y, z], [gx, gy, gz], [tx, ty, tz]) = (self.block, self.grid, self.thread);
        write!(f, "  block ({x},{y},{z}) of ({gx},{gy},{gz}), warp {}", self.warp)?;
        if self.lanes != 0 {
            let lane = self.lanes.trailing_zeros();
            write!(f, ", lane {lane}, thread ({tx},{ty},{tz}), ")?;
            write!(f, "{} lanes failed (mask {:#010x})", self.lanes.count_ones(), self.lanes)?;
        }
        if let FaultKind::IllegalAddress { addr, size, space }
        | FaultKind::Misaligned { addr, size, space } = self.kind
        {
            write!(f, "\n  {space} address {addr:#018x}, {size} bytes")?;
        }
        if !self.detail.is_empty() {
            write!(f, "\n  {}", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// A kernel that cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// The `CUresult` that the load reports: 218 for text that is not PTX, 500 for a missing
    /// name, 801 for an instruction that is not supported, 701 for too many registers.
    pub code: u32,
    /// The kernel or function in which it was found; empty for the module.
    pub function: String,
    /// Line of the PTX text, from 1; 0 when it has none.
    pub line: u32,
    /// What is wrong; for an instruction its whole text.
    pub message: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("softcuda: ")?;
        if !self.function.is_empty() {
            write!(f, "{}: ", self.function)?;
        }
        if self.line != 0 {
            write!(f, "PTX line {}: ", self.line)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for LoadError {}
