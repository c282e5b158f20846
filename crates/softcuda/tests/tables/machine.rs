//! Device memory and launches for the tests, straight on the executor.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use softcuda::exec::{Kernel, Launch, Level, Progress, Settings, Worker};
use softcuda::fault::{Fault, LoadError};
use softcuda::lower::{Env, lower};
use softcuda::memory::Memory;
use softcuda::ptx;
use softcuda::ptx::ast::{FuncId, Module, Symbol, VarId};
use softcuda::ptx::types::Space;

/// Every level that this processor has.
pub fn levels() -> impl Iterator<Item = Level> {
    let best = Level::detect();
    [Level::Base, Level::Avx2, Level::Avx512].into_iter().filter(move |l| *l <= best)
}

/// A loaded module and its device memory.
pub struct Machine {
    module: Arc<Module>,
    memory: Arc<Memory>,
    variables: Vec<Option<u64>>,
    pub settings: Settings,
}

/// A launch: its shape and parameters.
#[derive(Clone, Copy)]
pub struct Shape<'a> {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub params: &'a [u8],
}

impl Machine {
    /// Loads a module and places its variables.
    pub fn new(text: &str) -> Machine {
        let module = ptx::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        for function in &module.functions {
            if let Some(Err(error)) = &function.body {
                panic!("{error}");
            }
        }
        let memory = Memory::new(256 << 20).expect("memory");
        let variables = module.variables.iter().map(|v| {
            let placed = matches!(v.space, Space::Global | Space::Const);
            placed.then(|| memory.allocate(v.size.max(1), "variable").expect("room"))
        });
        let variables = variables.collect();
        let machine = Machine {
            module: Arc::new(module),
            memory: Arc::new(memory),
            variables,
            settings: Settings::default(),
        };
        machine.initialise();
        machine
    }

    fn initialise(&self) {
        for (variable, address) in self.module.variables.iter().zip(&self.variables) {
            let Some(address) = *address else { continue };
            let mut bytes = vec![0; variable.size as usize];
            if let Some(init) = &variable.init {
                bytes[..init.bytes.len()].copy_from_slice(&init.bytes);
                for r in &init.relocations {
                    let base = match r.target {
                        Symbol::Var(VarId(id)) => self.variables[id as usize].expect("placed"),
                        // The tag of function tokens.
                        Symbol::Func(FuncId(id)) => 4 << 48 | u64::from(id),
                        other => panic!("{other:?} in an initial value"),
                    };
                    let value = base.wrapping_add_signed(r.addend);
                    let (at, width) = (r.at as usize, usize::from(r.width));
                    bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
                }
            }
            self.write(address, &bytes);
        }
    }

    /// Allocates, and copies `bytes` there.
    pub fn upload(&self, bytes: &[u8]) -> u64 {
        let address = self.memory.allocate(bytes.len() as u64, "test").expect("room");
        self.write(address, bytes);
        address
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        let host = self.memory.host_range(address, bytes.len() as u64).expect("allocated");
        // SAFETY: `host_range` gives as many accessible bytes; no launch runs meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), host, bytes.len()) };
    }

    pub fn download(&self, address: u64, size: usize) -> Vec<u8> {
        let host = self.memory.host_range(address, size as u64).expect("allocated");
        let mut bytes = vec![0; size];
        // SAFETY: `host_range` gives as many accessible bytes; no launch runs meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(host, bytes.as_mut_ptr(), size) };
        bytes
    }

    /// 32-bit words from device memory.
    pub fn words(&self, address: u64, count: usize) -> Vec<u32> {
        let bytes = self.download(address, count * 4);
        bytes.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().expect("four"))).collect()
    }

    pub fn free(&self, address: u64) {
        assert!(self.memory.free(address));
    }

    /// Lowers and runs a kernel, all blocks on this thread.
    pub fn run(
        &self,
        level: Level,
        kernel: &str,
        shape: Shape,
    ) -> Result<Result<(), Box<Fault>>, LoadError> {
        self.run_all(level, kernel, &[shape])
    }

    /// Lowers a kernel, and runs one launch after the other with the same buffers.
    pub fn run_all(
        &self,
        level: Level,
        kernel: &str,
        shapes: &[Shape],
    ) -> Result<Result<(), Box<Fault>>, LoadError> {
        let address = |id: VarId| self.variables.get(id.0 as usize).copied().flatten();
        let env = Env { level, plain: self.settings.plain, address: &address };
        let kernel = Arc::new(lower(&self.module, kernel, &env)?);
        let mut worker = Worker::new();
        for shape in shapes {
            if let Err(fault) = self.run_one(level, &kernel, *shape, &mut worker) {
                return Ok(Err(fault));
            }
        }
        Ok(Ok(()))
    }

    fn run_one(
        &self,
        level: Level,
        kernel: &Arc<Kernel>,
        shape: Shape,
        worker: &mut Worker,
    ) -> Result<(), Box<Fault>> {
        let launch = Launch {
            kernel: Arc::clone(kernel),
            grid: shape.grid,
            block: shape.block,
            shared_bytes: shape.shared,
            params: Arc::from(shape.params),
            memory: Arc::clone(&self.memory),
            number: 1,
            processors: 4,
            settings: Settings { level, ..self.settings },
            stop: AtomicBool::new(false),
        };
        let [x, y, z] = shape.grid;
        let blocks = (0..z).flat_map(|z| (0..y).flat_map(move |y| (0..x).map(move |x| [x, y, z])));
        for block in blocks {
            let mut state = worker.take();
            state.begin(&launch, block)?;
            // A kernel of these tests that does not end is wrong.
            for step in 0.. {
                assert!(step < 1000, "block {block:?} does not end");
                if state.step(&launch, 100_000)? == Progress::Done {
                    break;
                }
            }
            worker.put_back(state);
        }
        Ok(())
    }

    /// As [`Machine::run`], with any failure as text.
    #[expect(clippy::too_many_arguments, reason = "the shape of a launch, spelled at each call")]
    pub fn launch(
        &self,
        level: Level,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        params: &[u8],
    ) -> Result<(), String> {
        let shape = Shape { grid, block, shared, params };
        match self.run(level, kernel, shape) {
            Err(error) => Err(error.to_string()),
            Ok(Err(fault)) => Err(fault.to_string()),
            Ok(Ok(())) => Ok(()),
        }
    }
}
