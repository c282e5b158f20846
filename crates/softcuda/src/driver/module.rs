//! Modules: PTX from text or fatbins, its variables in device memory, its functions.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::context::{Context, current, lookup};
use super::error::{
    Code, FILE_NOT_FOUND, INVALID_IMAGE, INVALID_PTX, INVALID_VALUE, NO_BINARY_FOR_GPU, NOT_FOUND,
    OUT_OF_MEMORY,
};
use super::function::Function;
use super::handle::Handle;
use super::state::{Driver, driver};
use super::{In, Out, Status, Text, entry};
use crate::fault::LoadError;
use crate::memory::{FUNCTION_BASE, Memory};
use crate::profile::CONSTANT_BYTES;
use crate::ptx::ast::{self, FuncId, FunctionKind, Symbol, VarId};
use crate::ptx::cubin::{self, Figures};
use crate::ptx::fatbin::{self, ImageKind};
use crate::ptx::types::Space;
use crate::report;

/// `CUDA_ERROR_UNSUPPORTED_PTX_VERSION`.
const UNSUPPORTED_PTX_VERSION: Code = 222;
/// First word of the structure that `fatBinary` of the compiler's stubs points to.
const WRAPPER_MAGIC: u32 = 0x4662_43b1;

/// A loaded module.
pub(super) struct Module {
    pub(super) context: Handle,
    /// Of the module itself.
    handle: OnceLock<Handle>,
    pub(super) ast: Arc<ast::Module>,
    /// What the compiler says of its machine code for this profile.
    figures: BTreeMap<String, Figures>,
    /// Where variables are; by variable, 0 for those that are not in device memory.
    pub(super) addresses: Vec<u64>,
    /// Handles that were given out, by function.
    functions: Mutex<BTreeMap<u32, Handle>>,
}

/// Removes the modules of a context that goes.
pub(super) fn remove_of_context(driver: &Driver, context: Handle) {
    for module in driver.modules.remove_where(|module| module.context == context) {
        module.unload(driver);
    }
}

fn error(code: Code, message: impl Into<String>) -> LoadError {
    LoadError { code, function: String::new(), line: 0, message: message.into() }
}

impl Module {
    fn load(driver: &Driver, context: &Context, image: &Image) -> Result<Handle, LoadError> {
        let arch = driver.config.profile.architecture();
        let text = image.ptx(arch)?;
        let ast = crate::ptx::parse(&text).map_err(|why| LoadError {
            code: if why.newer_version { UNSUPPORTED_PTX_VERSION } else { INVALID_PTX },
            function: String::new(),
            line: why.line,
            message: why.to_string(),
        })?;
        check_target(&ast, arch)?;
        let figures = image.figures(arch)?;
        let addresses = place_variables(&driver.memory, &ast)?;
        let module = Arc::new(Self {
            context: context.handle(),
            handle: OnceLock::new(),
            ast: Arc::new(ast),
            figures,
            addresses,
            functions: Mutex::default(),
        });
        let handle = driver.modules.insert(module.clone());
        Ok(*module.handle.get_or_init(|| handle))
    }

    fn unload(&self, driver: &Driver) {
        for address in self.addresses.iter().filter(|address| **address != 0) {
            driver.memory.free(*address);
        }
        let functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        for handle in functions.values() {
            // Nobody else removes functions.
            drop(driver.functions.remove(*handle));
        }
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle.get().copied().unwrap_or_default()
    }

    /// Registers and static shared memory of the machine code, if the image has it.
    pub(super) fn figures(&self, function: &str) -> Option<Figures> {
        self.figures.get(function).copied()
    }

    /// The handle of a kernel.
    pub(super) fn function(self: &Arc<Self>, driver: &Driver, id: FuncId) -> Handle {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        *functions
            .entry(id.0)
            .or_insert_with(|| driver.functions.insert(Arc::new(Function::new(self.clone(), id))))
    }

    /// Kernels with a body, in order of the text.
    pub(super) fn kernels(&self) -> Vec<FuncId> {
        let is_kernel = |f: &ast::Function| f.kind == FunctionKind::Entry && f.body.is_some();
        let functions = (0_u32..).zip(&self.ast.functions);
        functions.filter(|(_, f)| is_kernel(f)).map(|(index, _)| FuncId(index)).collect()
    }

    pub(super) fn kernel(&self, name: &str) -> Result<FuncId, Code> {
        let id = self.ast.find_function(name).ok_or(NOT_FOUND)?;
        if self.kernels().contains(&id) { Ok(id) } else { Err(NOT_FOUND) }
    }

    /// Address and size of a variable.
    pub(super) fn variable(&self, name: &str) -> Result<(u64, usize), Code> {
        let id = self.ast.find_variable(name).ok_or(NOT_FOUND)?;
        let address = self.addresses[id.0 as usize];
        let size = self.ast.variable(id).map_or(0, |variable| variable.size);
        if address == 0 { Err(NOT_FOUND) } else { Ok((address, size as usize)) }
    }
}

/// `.target sm_90` does not run on an sm_80, `.target sm_90a` on an sm_90 alone.
fn check_target(ast: &ast::Module, arch: u32) -> Result<(), LoadError> {
    let targets = ast.targets.iter().map(|name| ast.name(*name));
    for target in targets.filter_map(|target| target.strip_prefix("sm_")) {
        let digits = target.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let number: u32 = digits.parse().map_err(|_no_number| {
            error(INVALID_PTX, format!(".target sm_{target} is not known"))
        })?;
        let fits = match &target[digits.len()..] {
            "" => number <= arch,
            "f" => number / 10 == arch / 10 && number <= arch,
            _ => number == arch,
        };
        if !fits {
            let message = format!(".target sm_{target} does not run on this sm_{arch} profile");
            return Err(error(INVALID_PTX, message));
        }
    }
    Ok(())
}

/// Allocates and fills the variables of global and constant space.
pub(crate) fn place_variables(memory: &Memory, ast: &ast::Module) -> Result<Vec<u64>, LoadError> {
    let in_memory =
        |variable: &ast::Variable| matches!(variable.space, Space::Global | Space::Const);
    let constants: u64 = ast
        .variables
        .iter()
        .filter(|variable| variable.space == Space::Const)
        .map(|variable| variable.size)
        .fold(0, u64::saturating_add);
    if constants > u64::from(CONSTANT_BYTES) {
        let message = format!("{constants} bytes of constants, {CONSTANT_BYTES} are allowed");
        return Err(error(INVALID_PTX, message));
    }
    let mut addresses = vec![0; ast.variables.len()];
    let placed = ast.variables.iter().zip(&mut addresses).try_for_each(|(variable, address)| {
        if !in_memory(variable) {
            return Ok(());
        }
        let name = ast.name(variable.name);
        if variable.linkage == ast::Linkage::Extern || variable.size == 0 {
            return Err(error(INVALID_PTX, format!("variable {name} is not defined here")));
        }
        let found = memory.allocate(variable.size, &format!("variable {name}"));
        *address = found.ok_or_else(|| error(OUT_OF_MEMORY, format!("no room for {name}")))?;
        Ok(())
    });
    let filled = placed.and_then(|()| {
        ast.variables
            .iter()
            .zip(&addresses)
            .filter(|(variable, _)| in_memory(variable))
            .try_for_each(|(variable, address)| fill(memory, ast, variable, *address, &addresses))
    });
    if let Err(error) = filled {
        for address in addresses.iter().filter(|address| **address != 0) {
            memory.free(*address);
        }
        return Err(error);
    }
    Ok(addresses)
}

/// Writes the initial value of a variable.
fn fill(
    memory: &Memory,
    ast: &ast::Module,
    variable: &ast::Variable,
    address: u64,
    addresses: &[u64],
) -> Result<(), LoadError> {
    let name = ast.name(variable.name);
    let mut bytes = vec![0; variable.size as usize];
    if let Some(init) = &variable.init {
        let bad = || error(INVALID_PTX, format!("the initial value of {name} does not fit"));
        bytes.get_mut(..init.bytes.len()).ok_or_else(bad)?.copy_from_slice(&init.bytes);
        for relocation in &init.relocations {
            let target = target_address(addresses, relocation.target).ok_or_else(|| {
                error(INVALID_PTX, format!("{name} holds an address that has no fixed value"))
            })?;
            let value = target.wrapping_add_signed(relocation.addend) & relocation.mask;
            let value = value >> relocation.mask.trailing_zeros().min(63);
            let (at, width) = (relocation.at as usize, usize::from(relocation.width));
            let place = bytes.get_mut(at..at.saturating_add(width)).ok_or_else(bad)?;
            place.copy_from_slice(value.to_le_bytes().get(..width).ok_or_else(bad)?);
        }
    }
    let place = memory.host_range(address, variable.size);
    let place = place.ok_or_else(|| error(OUT_OF_MEMORY, format!("{name} lost its place")))?;
    // SAFETY: `host_range` says that all bytes of the variable may be accessed.
    unsafe { place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    Ok(())
}

fn target_address(addresses: &[u64], target: Symbol) -> Option<u64> {
    match target {
        Symbol::Var(VarId(index)) => {
            addresses.get(index as usize).copied().filter(|address| *address != 0)
        }
        Symbol::Func(FuncId(index)) => Some(FUNCTION_BASE + u64::from(index)),
        Symbol::Param(_) | Symbol::Return(_) => None,
    }
}

/// The bytes of an image.
pub(super) struct Image(Vec<u8>);

impl Image {
    /// Copies the image that a C caller points to, whose length it does not say.
    pub(super) fn from_pointer(image: *const c_void) -> Result<Self, LoadError> {
        let word = |offset| In(image.cast::<u32>()).at(offset);
        let invalid = |code| error(code, "no image given");
        match word(0).map_err(invalid)? {
            WRAPPER_MAGIC => {
                let inner: u64 = In(image.cast::<u64>()).at(1).map_err(invalid)?;
                if In(inner as *const u32).get().map_err(invalid)? == WRAPPER_MAGIC {
                    return Err(error(INVALID_IMAGE, "the fatbin wrapper holds another wrapper"));
                }
                Self::from_pointer(inner as *const c_void)
            }
            fatbin::MAGIC => {
                let header: [u8; fatbin::HEADER_BYTES] = In(image.cast()).get().map_err(invalid)?;
                let size = fatbin::image_size(&header);
                let size = size.ok_or_else(|| error(INVALID_IMAGE, "not a fatbin header"))?;
                // SAFETY: the C caller promises a whole fatbin, whose header gives its size.
                let bytes = unsafe { std::slice::from_raw_parts(image.cast::<u8>(), size) };
                Ok(Self(bytes.to_vec()))
            }
            _ => {
                let first: [u8; 4] = In(image.cast()).get().map_err(invalid)?;
                if ImageKind::of(&first) == ImageKind::Cubin {
                    return Ok(Self(first.to_vec()));
                }
                // SAFETY: the C caller promises that text ends with NUL.
                let text = unsafe { CStr::from_ptr(image.cast::<c_char>()) };
                Ok(Self(text.to_bytes().to_vec()))
            }
        }
    }

    /// The image in a file.
    pub(super) fn from_file(path: &str) -> Result<Self, LoadError> {
        let bytes = std::fs::read(path);
        bytes.map(Self).map_err(|why| error(FILE_NOT_FOUND, format!("{path}: {why}")))
    }

    fn ptx(&self, arch: u32) -> Result<Vec<u8>, LoadError> {
        const ADVICE: &str =
            "softcuda runs PTX; rebuild with -gencode arch=compute_80,code=compute_80";
        match ImageKind::of(&self.0) {
            ImageKind::Cubin => {
                let message = format!("the image is machine code: {ADVICE}");
                Err(error(NO_BINARY_FOR_GPU, message))
            }
            ImageKind::Fatbin => match fatbin::select_ptx(&self.0, arch) {
                Ok(Some(text)) => Ok(text.into_owned()),
                Ok(None) => {
                    let message = format!("the fatbin has no PTX for sm_{arch} or below: {ADVICE}");
                    Err(error(NO_BINARY_FOR_GPU, message))
                }
                Err(why) => Err(error(INVALID_IMAGE, why.to_string())),
            },
            ImageKind::Ptx => Ok(self.0.clone()),
        }
    }

    fn figures(&self, arch: u32) -> Result<BTreeMap<String, Figures>, LoadError> {
        if ImageKind::of(&self.0) != ImageKind::Fatbin {
            return Ok(BTreeMap::new());
        }
        let cubin = fatbin::select_cubin(&self.0, arch);
        let cubin = cubin.map_err(|why| error(INVALID_IMAGE, why.to_string()))?;
        Ok(cubin.and_then(|cubin| cubin::figures(&cubin)).unwrap_or_default())
    }
}

/// The options of a load that are honoured: buffers for messages.
#[derive(Default)]
pub(super) struct JitOptions {
    info: LogBuffer,
    error: LogBuffer,
}

#[derive(Default)]
struct LogBuffer {
    text: Option<*mut c_char>,
    /// Room, and where the length goes.
    size: Option<(usize, *mut *mut c_void)>,
}

impl LogBuffer {
    fn write(&self, text: &str) -> Status {
        let Some((room, length)) = self.size else { return Ok(()) };
        let Some(place) = self.text.filter(|place| !place.is_null() && room > 0) else {
            return Ok(());
        };
        Out(place).set_text(text, i32::try_from(room).unwrap_or(i32::MAX))?;
        Out(length.cast::<usize>()).set(text.len().min(room - 1))
    }
}

impl JitOptions {
    pub(super) fn read(
        count: u32,
        options: &In<u32>,
        values: *mut *mut c_void,
    ) -> Result<Self, Code> {
        /// Options of the 13.0 header end here.
        const OPTIONS: u32 = 36;
        let mut read = Self::default();
        for index in 0..count as usize {
            let option = options.at(index)?;
            let value = In(values.cast_const()).at(index)?;
            let place = values.wrapping_add(index);
            match option {
                3 => read.info.text = Some(value.cast()),
                4 => read.info.size = Some((value as usize & 0xffff_ffff, place)),
                5 => read.error.text = Some(value.cast()),
                6 => read.error.size = Some((value as usize & 0xffff_ffff, place)),
                OPTIONS.. => return Err(INVALID_VALUE),
                // The rest tunes a compiler that is not here.
                _ => {}
            }
        }
        Ok(read)
    }
}

/// Loads an image into `context`; errors go to the report and to the caller's buffer.
pub(super) fn load(
    context: &Context,
    image: Result<Image, LoadError>,
    options: &JitOptions,
) -> Result<Handle, Code> {
    let driver = driver()?;
    let loaded = image.and_then(|image| Module::load(driver, context, &image));
    match loaded {
        Ok(handle) => {
            if driver.config.log.jit {
                eprintln!("softcuda module {:#x} loaded", handle.0);
            }
            options.info.write("")?;
            options.error.write("")?;
            Ok(handle)
        }
        Err(error) => {
            report::load_error(&driver.config.report, &error);
            options.error.write(&error.to_string())?;
            Err(error.code)
        }
    }
}

/// The module of a handle, in a context that has not failed.
fn find(module: Handle) -> Result<Arc<Module>, Code> {
    let driver = driver()?;
    let module = driver.modules.get(module)?;
    lookup(driver, module.context)?.check()?;
    Ok(module)
}

/// Unloads a module after its work is done.
pub(super) fn unload(module: Handle) -> Status {
    let driver = driver()?;
    let found = find(module)?;
    lookup(driver, found.context)?.wait();
    driver.modules.remove(module)?;
    found.unload(driver);
    Ok(())
}

entry! {
    fn cuModuleLoad(module: Out<Handle>, path: Text) {
        let context = current()?;
        module.check()?;
        let image = Image::from_file(path.get()?);
        module.set(load(&context, image, &JitOptions::default())?)
    }

    fn cuModuleLoadData(module: Out<Handle>, image: *const c_void) {
        let context = current()?;
        module.check()?;
        module.set(load(&context, Image::from_pointer(image), &JitOptions::default())?)
    }

    fn cuModuleLoadDataEx(
        module: Out<Handle>,
        image: *const c_void,
        count: u32,
        options: In<u32>,
        values: *mut *mut c_void,
    ) {
        let context = current()?;
        module.check()?;
        let options = JitOptions::read(count, &options, values)?;
        module.set(load(&context, Image::from_pointer(image), &options)?)
    }

    fn cuModuleLoadFatBinary(module: Out<Handle>, image: *const c_void) {
        let context = current()?;
        module.check()?;
        module.set(load(&context, Image::from_pointer(image), &JitOptions::default())?)
    }

    fn cuModuleUnload(module: Handle) {
        unload(module)
    }

    fn cuModuleGetFunction(function: Out<Handle>, module: Handle, name: Text) {
        let module = find(module)?;
        function.check()?;
        let id = module.kernel(name.get()?)?;
        function.set(module.function(driver()?, id))
    }

    fn cuModuleGetFunctionCount(count: Out<u32>, module: Handle) {
        count.set(find(module)?.kernels().len() as u32)
    }

    fn cuModuleEnumerateFunctions(functions: Out<Handle>, count: u32, module: Handle) {
        let module = find(module)?;
        let driver = driver()?;
        let kernels = module.kernels().into_iter().take(count as usize);
        functions.set_all(kernels.map(|id| module.function(driver, id)))
    }

    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: Handle, name: Text) {
        let module = find(module)?;
        let (found, size) = module.variable(name.get()?)?;
        address.offer(found);
        bytes.offer(size);
        Ok(())
    }

    /// Functions are lowered at their first use: lazy.
    fn cuModuleGetLoadingMode(mode: Out<u32>) {
        driver()?;
        mode.set(2)
    }
}

/// The name of a function as C sees it.
pub(super) fn c_name(ast: &ast::Module, function: &ast::Function) -> CString {
    let name = ast.name(function.name).bytes().filter(|byte| *byte != 0).collect::<Vec<u8>>();
    CString::new(name).unwrap_or_default()
}
