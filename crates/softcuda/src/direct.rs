//! The device without the driver API, for tests and tools: one thread, no streams.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::driver::module::place_variables;
use crate::exec::{Kernel, Launch, Order, Settings, Worker};
use crate::fault::{Fault, FaultKind, LoadError};
use crate::lower::{Env, lower};
use crate::memory::Memory;
use crate::ptx::ast::{self, VarId};

/// An address in device memory.
pub type DevPtr = u64;

/// A software device of its own.
pub struct Device {
    memory: Arc<Memory>,
    settings: Settings,
}

/// A loaded module.
#[derive(Debug)]
pub struct Module {
    ast: Arc<ast::Module>,
    /// Of its variables; 0 for those that are not in device memory.
    addresses: Vec<u64>,
    settings: Settings,
}

impl Device {
    /// A device with `bytes` of memory.
    ///
    /// # Errors
    /// If the host cannot reserve the memory.
    pub fn new(bytes: u64, settings: Settings) -> std::io::Result<Self> {
        Ok(Device { memory: Arc::new(Memory::new(bytes)?), settings })
    }

    /// The settings of modules that are loaded and launches that are made from now on.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Allocates `bytes` bytes.
    ///
    /// # Errors
    /// If there is no room.
    pub fn alloc(&self, bytes: usize) -> Result<DevPtr, Box<Fault>> {
        self.memory.allocate(bytes as u64, "Device::alloc").ok_or_else(|| {
            Box::new(Fault::host(FaultKind::OutOfResources, "no room in device memory"))
        })
    }

    /// Frees an allocation; false if there is none at this address.
    pub fn free(&self, at: DevPtr) -> bool {
        self.memory.free(at)
    }

    fn host(&self, at: DevPtr, bytes: usize) -> Result<*mut u8, Box<Fault>> {
        self.memory.host_range(at, bytes as u64).ok_or_else(|| {
            let size = u32::try_from(bytes).unwrap_or(u32::MAX);
            let space = crate::fault::Space::Global;
            let kind = FaultKind::IllegalAddress { addr: at, size, space };
            Box::new(Fault::host(kind, self.memory.describe(at)))
        })
    }

    /// Copies bytes to the device.
    ///
    /// # Errors
    /// If the range is not inside one allocation.
    pub fn write(&self, at: DevPtr, bytes: &[u8]) -> Result<(), Box<Fault>> {
        let host = self.host(at, bytes.len())?;
        // SAFETY: the range was checked.
        unsafe { host.copy_from(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies bytes from the device.
    ///
    /// # Errors
    /// If the range is not inside one allocation.
    pub fn read(&self, at: DevPtr, bytes: &mut [u8]) -> Result<(), Box<Fault>> {
        let host = self.host(at, bytes.len())?;
        // SAFETY: the range was checked.
        unsafe { host.copy_to(bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Loads PTX text.
    ///
    /// # Errors
    /// If it is not PTX, or its variables do not fit.
    pub fn load_ptx(&self, source: &str) -> Result<Module, LoadError> {
        let ast = crate::ptx::parse(source.as_bytes()).map_err(|e| LoadError {
            code: 218,
            function: String::new(),
            line: e.line,
            message: e.to_string(),
        })?;
        let addresses = place_variables(&self.memory, &ast)?;
        Ok(Module { ast: Arc::new(ast), addresses, settings: self.settings })
    }

    /// Runs a kernel to its end. `params` is its parameter buffer.
    ///
    /// # Errors
    /// The fault that ended it.
    pub fn launch(
        &self,
        kernel: &Arc<Kernel>,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        params: &[u8],
    ) -> Result<(), Box<Fault>> {
        let launch = Launch {
            kernel: Arc::clone(kernel),
            grid,
            block,
            shared_bytes,
            params: Arc::from(params),
            memory: Arc::clone(&self.memory),
            number: 1,
            processors: 108,
            settings: self.settings,
            stop: AtomicBool::new(false),
        };
        let [gx, gy, gz] = grid.map(u64::from);
        let total = gx * gy * gz;
        let mut worker = Worker::new();
        for at in 0..total {
            let n = match self.settings.blocks {
                Order::Ascending => at,
                Order::Descending => total - 1 - at,
            };
            let block = [n % gx, n / gx % gy, n / (gx * gy)].map(|v| v as u32);
            worker.run_block(&launch, block)?;
        }
        Ok(())
    }
}

impl Module {
    /// The kernel called `name`.
    ///
    /// # Errors
    /// If there is none, or it uses what we do not support.
    pub fn kernel(&self, name: &str) -> Result<Arc<Kernel>, LoadError> {
        let address = |v: VarId| self.addresses.get(v.0 as usize).copied().filter(|at| *at != 0);
        let Settings { level, plain, .. } = self.settings;
        let env = Env { level, plain, address: &address };
        lower(&self.ast, name, &env).map(Arc::new)
    }

    /// Names of its kernels.
    #[must_use]
    pub fn kernels(&self) -> Vec<String> {
        let entry = |f: &&ast::Function| f.kind == ast::FunctionKind::Entry;
        let name = |f: &ast::Function| self.ast.name(f.name).to_owned();
        self.ast.functions.iter().filter(entry).map(name).collect()
    }
}
