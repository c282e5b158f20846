//! Launches: checks, parameters, and the way to the pool.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::context::current;
use super::error::{
    COOPERATIVE_LAUNCH_TOO_LARGE, Code, INVALID_HANDLE, INVALID_VALUE, LAUNCH_OUT_OF_RESOURCES,
    NOT_SUPPORTED,
};
use super::function::{Function, find};
use super::handle::Handle;
use super::state::{Driver, driver};
use super::stream::Queue;
use super::{In, Status, entry};
use crate::exec::Launch;
use crate::exec::grid::Limits;
use crate::profile::{MAX_BLOCK, MAX_GRID, MAX_THREADS_PER_BLOCK, REGISTER_UNIT, REGISTERS, WARP};
use crate::ptx::ast;
use crate::report::{self, LaunchRecord};

/// Bytes of parameters that a kernel may have.
const MOST_PARAMETERS: usize = 32_764;

/// Whether all blocks must be in progress at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Plain,
    Cooperative,
}

/// A launch as a program asks for it.
#[derive(Clone, Copy)]
struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
}

impl Shape {
    fn threads(&self) -> u64 {
        self.block.iter().map(|threads| u64::from(*threads)).product()
    }

    fn blocks(&self) -> u64 {
        self.grid.iter().map(|blocks| u64::from(*blocks)).product()
    }

    /// Limits of any launch on any device.
    fn check(&self) -> Status {
        let within = |values: [u32; 3], most: [u32; 3]| {
            values.iter().zip(most).all(|(value, most)| (1..=most).contains(value))
        };
        let fits = within(self.grid, MAX_GRID)
            && within(self.block, MAX_BLOCK)
            && self.threads() <= u64::from(MAX_THREADS_PER_BLOCK);
        if fits { Ok(()) } else { Err(INVALID_VALUE) }
    }

    /// What the kernel's own directives ask for.
    fn check_directives(&self, function: &ast::Function) -> Status {
        let most = function
            .perf
            .max_threads
            .map(|most| most.iter().map(|threads| u64::from(*threads)).product::<u64>());
        let required = function.perf.required_threads;
        if most.is_some_and(|most| self.threads() > most)
            || required.is_some_and(|required| required != self.block)
        {
            return Err(INVALID_VALUE);
        }
        Ok(())
    }
}

/// Checks a launch, copies its parameters and runs it in the order of its stream.
fn launch(
    function: Handle,
    stream: Handle,
    shape: Shape,
    mode: Mode,
    parameters: &Parameters,
) -> Status {
    let driver = driver()?;
    let queue = Queue::of(stream)?;
    let function = find(function)?;
    if function.module.context != queue.context.handle() {
        return Err(INVALID_HANDLE);
    }
    shape.check()?;
    shape.check_directives(function.ast()?)?;
    let parameters = parameters.copy(function.ast()?)?;
    let schedule = report::thread_schedule().unwrap_or(driver.config.schedule);
    let settings = schedule.settings();
    let kernel = function.code(driver, (settings.level, settings.plain))?;
    let resident = check_resources(driver, &function, shape, mode)?;
    let number = driver.next_launch.fetch_add(1, Ordering::Relaxed);
    report::launch(driver.config.log.launch, || LaunchRecord {
        number,
        kernel: function.name(),
        grid: shape.grid,
        block: shape.block,
        shared_bytes: shape.shared_bytes,
    });
    let launch = Arc::new(Launch {
        kernel,
        grid: shape.grid,
        block: shape.block,
        shared_bytes: shape.shared_bytes,
        params: parameters.into(),
        memory: driver.memory.clone(),
        number,
        processors: driver.config.profile.processors,
        settings,
        stop: AtomicBool::new(false),
    });
    let limits = Limits {
        resident,
        alone: driver.config.ordered && function.has_float_atomics(),
        timeout: driver.config.timeout,
    };
    let failed = queue.run(|| {
        // A launch that was queued behind one that failed does not run.
        queue.context.check()?;
        driver.pool.run(launch, limits).map_err(|fault| {
            let code = fault.code;
            report::fault(&driver.config.report, number, *fault);
            queue.context.fail(code);
            code
        })
    });
    // As on a device, the call that queued it succeeds and a later one reports the failure.
    if driver.config.blocking { failed } else { Ok(()) }
}

/// Registers and shared memory; returns how many blocks the device holds at once.
fn check_resources(
    driver: &Driver,
    function: &Function,
    shape: Shape,
    mode: Mode,
) -> Result<usize, Code> {
    let needs = function.needs(driver)?;
    let threads = shape.threads() as u32;
    let for_warp = (needs.registers * WARP).next_multiple_of(REGISTER_UNIT);
    if for_warp * threads.div_ceil(WARP) > REGISTERS {
        return Err(LAUNCH_OUT_OF_RESOURCES);
    }
    let shared = u64::from(needs.static_shared) + u64::from(shape.shared_bytes);
    let profile = driver.config.profile;
    if shape.shared_bytes > function.dynamic_limit(needs.static_shared)
        || shared > u64::from(profile.shared_per_block_optin)
    {
        return Err(INVALID_VALUE);
    }
    let occupancy = profile.occupancy(threads, needs.registers, shared as u32);
    let resident = u64::from(occupancy) * u64::from(profile.processors);
    if mode == Mode::Cooperative && shape.blocks() > resident {
        return Err(COOPERATIVE_LAUNCH_TOO_LARGE);
    }
    Ok(resident as usize)
}

/// Where the values of the parameters are.
struct Parameters {
    /// One pointer for each parameter.
    each: In<*const u8>,
    /// Pairs of a key and a value: all parameters in one buffer.
    extra: In<*const c_void>,
}

impl Parameters {
    fn copy(&self, function: &ast::Function) -> Result<Vec<u8>, Code> {
        let bytes = function.param_bytes() as usize;
        if bytes > MOST_PARAMETERS {
            return Err(INVALID_VALUE);
        }
        match (self.each.0.is_null(), self.extra.0.is_null()) {
            (false, false) => Err(INVALID_VALUE),
            (true, true) if bytes == 0 => Ok(Vec::new()),
            (true, true) => Err(INVALID_VALUE),
            (false, true) => self.copy_each(function, bytes),
            (true, false) => self.copy_buffer(bytes),
        }
    }

    fn copy_each(&self, function: &ast::Function, bytes: usize) -> Result<Vec<u8>, Code> {
        let mut buffer = vec![0; bytes];
        for (index, parameter) in function.params.iter().enumerate() {
            let from = self.each.at(index)?;
            if from.is_null() {
                return Err(INVALID_VALUE);
            }
            let start = parameter.offset as usize;
            let place = &mut buffer[start..start + parameter.size as usize];
            // SAFETY: the C caller promises that each pointer leads to a value of the parameter's
            // size.
            unsafe { from.copy_to_nonoverlapping(place.as_mut_ptr(), place.len()) };
        }
        Ok(buffer)
    }

    fn copy_buffer(&self, bytes: usize) -> Result<Vec<u8>, Code> {
        const END: usize = 0;
        const BUFFER_POINTER: usize = 1;
        const BUFFER_SIZE: usize = 2;
        let mut pointer = None;
        let mut size = None;
        for pair in 0.. {
            match self.extra.at(2 * pair)? as usize {
                END => break,
                BUFFER_POINTER => pointer = Some(self.extra.at(2 * pair + 1)?.cast::<u8>()),
                BUFFER_SIZE => size = Some(In(self.extra.at(2 * pair + 1)?.cast::<usize>()).get()?),
                _ => return Err(INVALID_VALUE),
            }
        }
        let pointer = pointer.filter(|pointer| !pointer.is_null()).ok_or(INVALID_VALUE)?;
        if size.ok_or(INVALID_VALUE)? < bytes {
            return Err(INVALID_VALUE);
        }
        let mut buffer = vec![0; bytes];
        // SAFETY: the C caller promises a buffer of the size that it gave, which is large enough.
        unsafe { pointer.copy_to_nonoverlapping(buffer.as_mut_ptr(), bytes) };
        Ok(buffer)
    }
}

/// `CUlaunchConfig`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    stream: Handle,
    attributes: *const LaunchAttribute,
    count: u32,
}

/// `CUlaunchAttribute`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct LaunchAttribute {
    id: u32,
    padding: u32,
    value: [u32; 16],
}

impl LaunchConfig {
    pub(super) fn shared_and_threads(&self) -> (u32, u32) {
        (self.shared_bytes, self.block.iter().product())
    }

    /// The mode that the attributes ask for.
    fn mode(&self) -> Result<Mode, Code> {
        let mut mode = Mode::Plain;
        for index in 0..self.count as usize {
            let LaunchAttribute { id, value, .. } = In(self.attributes).at(index)?;
            match id {
                // Ignored; access windows of the cache, synchronisation policy, cluster policy,
                // stream serialisation, priority, memory domains, shared memory carveout: no effect
                // on results.
                0 | 1 | 3 | 5 | 6 | 8 | 9 | 10 | 14 => {}
                2 => mode = if value[0] == 0 { Mode::Plain } else { Mode::Cooperative },
                // Clusters of one block are blocks.
                4 | 11 if value[..3] == [1, 1, 1] => {}
                _ => return Err(NOT_SUPPORTED),
            }
        }
        Ok(mode)
    }
}

entry! {
    fn cuLaunchKernel(
        function: Handle,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared_bytes: u32,
        stream: Handle,
        each: In<*const u8>,
        extra: In<*const c_void>,
    ) {
        let grid = [grid_x, grid_y, grid_z];
        let block = [block_x, block_y, block_z];
        let shape = Shape { grid, block, shared_bytes };
        launch(function, stream, shape, Mode::Plain, &Parameters { each, extra })
    }

    fn cuLaunchCooperativeKernel(
        function: Handle,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared_bytes: u32,
        stream: Handle,
        each: In<*const u8>,
    ) {
        let grid = [grid_x, grid_y, grid_z];
        let block = [block_x, block_y, block_z];
        let shape = Shape { grid, block, shared_bytes };
        let parameters = Parameters { each, extra: In(std::ptr::null()) };
        launch(function, stream, shape, Mode::Cooperative, &parameters)
    }

    fn cuLaunchKernelEx(
        config: In<LaunchConfig>,
        function: Handle,
        each: In<*const u8>,
        extra: In<*const c_void>,
    ) {
        current()?;
        let config = config.get()?;
        let LaunchConfig { grid, block, shared_bytes, stream, .. } = config;
        let shape = Shape { grid, block, shared_bytes };
        launch(function, stream, shape, config.mode()?, &Parameters { each, extra })
    }
}
