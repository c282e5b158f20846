//! Functions: attributes, parameters, lowered code.

use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::context::lookup;
use super::error::{Code, INVALID_VALUE};
use super::handle::Handle;
use super::module::{Module, c_name};
use super::state::{Driver, driver};
use super::{Out, Status, entry};
use crate::exec::{Kernel, Level};
use crate::lower::{Env, lower};
use crate::profile::{MAX_THREADS_PER_BLOCK, REGISTERS, SHARED_DEFAULT, WARP};
use crate::ptx::ast::{self, FuncId, VarId};
use crate::report;

/// Registers that a thread can have.
const MAX_REGISTERS: u32 = 255;

/// A kernel of a module.
pub(super) struct Function {
    pub(super) module: Arc<Module>,
    id: FuncId,
    name: CString,
    settings: Mutex<Settings>,
    /// Lowered code, by level and whether it is plain.
    code: Mutex<HashMap<(Level, bool), Arc<Kernel>>>,
}

/// Attributes that a program may set.
#[derive(Clone, Copy)]
struct Settings {
    max_dynamic_shared: u32,
    carveout: i32,
    non_portable_cluster: i32,
    cluster_policy: i32,
}

/// What occupancy needs to know.
#[derive(Clone, Copy)]
pub(super) struct Needs {
    pub(super) registers: u32,
    pub(super) static_shared: u32,
    pub(super) max_threads: u32,
}

impl Function {
    pub(super) fn new(module: Arc<Module>, id: FuncId) -> Self {
        let name = module.ast.function(id).map(|function| c_name(&module.ast, function));
        let settings = Settings {
            max_dynamic_shared: SHARED_DEFAULT,
            carveout: -1,
            non_portable_cluster: 0,
            cluster_policy: 0,
        };
        Self {
            module,
            id,
            name: name.unwrap_or_default(),
            settings: Mutex::new(settings),
            code: Mutex::default(),
        }
    }

    pub(super) fn ast(&self) -> Result<&ast::Function, Code> {
        self.module.ast.function(self.id).ok_or(super::error::INVALID_HANDLE)
    }

    pub(super) fn name(&self) -> String {
        self.name.to_string_lossy().into_owned()
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The code for a level, lowered at its first use.
    pub(super) fn code(
        &self,
        driver: &Driver,
        (level, plain): (Level, bool),
    ) -> Result<Arc<Kernel>, Code> {
        let mut code = self.code.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = code.get(&(level, plain)) {
            return Ok(kernel.clone());
        }
        let name = self.name();
        let address = |VarId(index): VarId| {
            let address = self.module.addresses.get(index as usize).copied();
            address.filter(|address| *address != 0)
        };
        let env = Env { level, plain, address: &address };
        let lowered = lower(&self.module.ast, &name, &env).map_err(|error| {
            report::load_error(&driver.config.report, &error);
            error.code
        })?;
        if driver.config.log.jit {
            let (ops, registers) = (lowered.ops.len(), lowered.regs);
            eprintln!("softcuda function {name} {level:?}: {ops} ops, {registers} registers");
        }
        let kernel = Arc::new(lowered);
        code.insert((level, plain), kernel.clone());
        Ok(kernel)
    }

    /// Whether sums of floats depend on the order of blocks.
    pub(super) fn has_float_atomics(&self) -> bool {
        has_float_atomics(&self.module.ast)
    }

    /// Code of some level, for questions that do not depend on it.
    fn any_code(&self, driver: &Driver) -> Result<Arc<Kernel>, Code> {
        let code = self.code.lock().unwrap_or_else(PoisonError::into_inner);
        let found = code.values().next().cloned();
        drop(code);
        let settings = driver.config.schedule.settings();
        found.map_or_else(|| self.code(driver, (settings.level, settings.plain)), Ok)
    }

    pub(super) fn needs(&self, driver: &Driver) -> Result<Needs, Code> {
        let kernel = self.any_code(driver)?;
        let figures = self.module.figures(&self.name());
        let registers = match figures {
            Some(figures) if figures.registers > 0 => figures.registers,
            // Optimised code keeps what holds for a launch in registers: more than a GPU would.
            _ => {
                let plain = self.code(driver, (kernel.level, true))?;
                guessed_registers(plain.regs, &self.ast()?.perf)
            }
        };
        Ok(Needs {
            registers: registers.min(MAX_REGISTERS),
            static_shared: kernel.shared_size,
            max_threads: kernel.max_threads.min(MAX_THREADS_PER_BLOCK),
        })
    }

    /// Dynamic shared memory that a launch may ask for.
    pub(super) fn dynamic_limit(&self, static_shared: u32) -> u32 {
        let opted = self.settings().max_dynamic_shared;
        // Without opting in, static and dynamic together have the default limit.
        if opted > SHARED_DEFAULT {
            opted
        } else {
            opted.min(SHARED_DEFAULT.saturating_sub(static_shared))
        }
    }

    pub(super) fn attribute(&self, driver: &Driver, attribute: u32) -> Result<i32, Code> {
        let settings = *self.settings();
        let cluster = || self.ast().map(|function| function.perf.required_cluster);
        let value = match attribute {
            0 => {
                let needs = self.needs(driver)?;
                // What the registers of a block allow, in whole warps.
                let warps = REGISTERS / (needs.registers * WARP).next_multiple_of(256);
                needs.max_threads.min(warps * 32)
            }
            1 => self.needs(driver)?.static_shared,
            2 => {
                let constants = self.module.ast.variables.iter();
                let constants = constants.filter(|v| v.space == crate::ptx::types::Space::Const);
                constants.map(|variable| variable.size as u32).sum()
            }
            3 => self.any_code(driver)?.local_size,
            4 => self.needs(driver)?.registers,
            5 => {
                let (major, minor) = self.module.ast.version;
                major * 10 + minor
            }
            6 => driver.config.profile.architecture(),
            7 => 0,
            8 => settings.max_dynamic_shared,
            9 => return Ok(settings.carveout),
            10 => u32::from(cluster()?.is_some()),
            11..=13 => cluster()?.map_or(0, |cluster| cluster[attribute as usize - 11]),
            14 => return Ok(settings.non_portable_cluster),
            15 => return Ok(settings.cluster_policy),
            _ => return Err(INVALID_VALUE),
        };
        Ok(value as i32)
    }

    pub(super) fn set_attribute(&self, driver: &Driver, attribute: u32, value: i32) -> Status {
        match attribute {
            8 => {
                let most = driver.config.profile.shared_per_block_optin;
                let most = most.saturating_sub(self.needs(driver)?.static_shared);
                let value = u32::try_from(value).ok().filter(|value| *value <= most);
                self.settings().max_dynamic_shared = value.ok_or(INVALID_VALUE)?;
            }
            9 if (-1..=100).contains(&value) => self.settings().carveout = value,
            14 if matches!(value, 0 | 1) => self.settings().non_portable_cluster = value,
            15 if (0..=2).contains(&value) => self.settings().cluster_policy = value,
            _ => return Err(INVALID_VALUE),
        }
        Ok(())
    }

    pub(super) fn parameter(&self, index: usize) -> Result<(usize, usize), Code> {
        let parameter = self.ast()?.params.get(index).ok_or(INVALID_VALUE)?;
        Ok((parameter.offset as usize, parameter.size as usize))
    }

    pub(super) fn name_pointer(&self) -> *const c_char {
        self.name.as_ptr()
    }
}

/// Registers of a thread where no machine code names them: those of the lowered code, but no more
/// than the block that the kernel declares leaves each thread, as a compiler would see to.
fn guessed_registers(lowered: u32, perf: &ast::Perf) -> u32 {
    let guess = lowered.saturating_add(8).next_multiple_of(8);
    let Some(shape) = perf.required_threads.or(perf.max_threads) else { return guess };
    let threads = shape.iter().fold(1_u32, |product, extent| product.saturating_mul(*extent));
    let threads = threads.clamp(1, MAX_THREADS_PER_BLOCK).next_multiple_of(WARP);
    guess.min((REGISTERS / threads) & !7)
}

/// Whether a function of the module has an atomic operation on floats.
fn has_float_atomics(ast: &ast::Module) -> bool {
    const FLOATS: [&str; 6] = ["f16", "f16x2", "bf16", "bf16x2", "f32", "f64"];
    let bodies = ast.functions.iter().filter_map(|function| function.body.as_ref()?.as_ref().ok());
    let mut instructions = bodies.flat_map(|body| &body.insts);
    instructions.any(|instruction| {
        matches!(ast.name(instruction.opcode), "atom" | "red")
            && instruction.modifiers.iter().any(|word| FLOATS.contains(&ast.name(*word)))
    })
}

/// The function of a handle, in a context that has not failed. A kernel of a library is one too.
pub(super) fn find(function: Handle) -> Result<Arc<Function>, Code> {
    let driver = driver()?;
    let function = driver.functions.get(function)?;
    lookup(driver, function.module.context)?.check()?;
    Ok(function)
}

entry! {
    fn cuFuncGetAttribute(value: Out<i32>, attribute: u32, function: Handle) {
        value.check()?;
        value.set(find(function)?.attribute(driver()?, attribute)?)
    }

    fn cuFuncSetAttribute(function: Handle, attribute: u32, value: i32) {
        find(function)?.set_attribute(driver()?, attribute, value)
    }

    fn cuFuncGetModule(module: Out<Handle>, function: Handle) {
        module.set(find(function)?.module.handle())
    }

    /// The text lives as long as the function.
    fn cuFuncGetName(name: Out<*const c_char>, function: Handle) {
        name.set(find(function)?.name_pointer())
    }

    fn cuFuncGetParamInfo(function: Handle, index: usize, offset: Out<usize>, size: Out<usize>) {
        let (start, bytes) = find(function)?.parameter(index)?;
        offset.set(start)?;
        size.offer(bytes);
        Ok(())
    }

    fn cuFuncIsLoaded(state: Out<u32>, function: Handle) {
        let function = find(function)?;
        let lowered = !function.code.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        state.set(u32::from(lowered))
    }

    fn cuFuncLoad(function: Handle) {
        find(function)?.any_code(driver()?).map(|_| ())
    }

    fn cuFuncSetCacheConfig(function: Handle, config: u32) {
        find(function)?;
        if config > 3 { Err(INVALID_VALUE) } else { Ok(()) }
    }

    fn cuFuncSetSharedMemConfig(function: Handle, config: u32) {
        find(function)?;
        if config > 2 { Err(INVALID_VALUE) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_of_registers_lets_the_declared_block_run() {
        let declared = |max_threads, required_threads| ast::Perf {
            max_threads,
            required_threads,
            ..ast::Perf::default()
        };
        assert_eq!(guessed_registers(100, &declared(None, None)), 112);
        assert_eq!(guessed_registers(100, &declared(Some([1024, 1, 1]), None)), 64);
        assert_eq!(guessed_registers(100, &declared(None, Some([32, 16, 1]))), 112);
        assert_eq!(guessed_registers(10, &declared(Some([1024, 1, 1]), None)), 24);
        for threads in 1..=MAX_THREADS_PER_BLOCK {
            let guess = guessed_registers(400, &declared(Some([threads, 1, 1]), None));
            let registers = guess.min(MAX_REGISTERS);
            let for_warp = (registers * WARP).next_multiple_of(256);
            assert!(threads.div_ceil(WARP) * for_warp <= REGISTERS, "{threads}: {registers}");
        }
    }

    #[test]
    fn atomics_on_floats_are_seen() {
        let module = |instruction: &str| {
            let text = format!(
                ".version 8.0\n.target sm_80\n.address_size 64\n.entry k()\n{{\n.reg .b32 %r<2>;\n\
                 .reg .f32 %f<2>;\n.reg .b64 %rd<2>;\n{instruction}\nret;\n}}\n"
            );
            crate::ptx::parse(text.as_bytes()).expect("the text is right")
        };
        assert!(has_float_atomics(&module("red.global.add.f32 [%rd1], %f1;")));
        assert!(has_float_atomics(&module("atom.shared.add.f32 %f0, [%rd1], %f1;")));
        assert!(!has_float_atomics(&module("atom.global.add.u32 %r0, [%rd1], %r1;")));
        assert!(!has_float_atomics(&module("add.f32 %f0, %f1, %f1;")));
    }
}
