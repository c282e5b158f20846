//! Libraries: modules that are not bound to one context in CUDA. Here each is a module of the
//! context that was current when it was loaded, and its kernels are functions.

use std::ffi::{c_char, c_void};

use super::context::{current, lookup};
use super::error::{Code, INVALID_VALUE};
use super::function::find as find_kernel;
use super::handle::Handle;
use super::module::{Image, JitOptions, Module, load, unload};
use super::state::driver;
use super::{In, Out, Status, Text, entry};

/// The module that a library is.
fn find(library: Handle) -> Result<std::sync::Arc<Module>, Code> {
    let driver = driver()?;
    let module = driver.modules.get(library)?;
    lookup(driver, module.context)?.check()?;
    Ok(module)
}

/// Fails unless `device` is the one of the kernel's context.
fn check_device(kernel: Handle, device: i32) -> Status {
    let context = find_kernel(kernel)?.module.context;
    if lookup(driver()?, context)?.device as i32 == device {
        Ok(())
    } else {
        Err(super::error::INVALID_DEVICE)
    }
}

entry! {
    fn cuLibraryLoadData(
        library: Out<Handle>,
        image: *const c_void,
        jit_options: In<u32>,
        jit_values: *mut *mut c_void,
        jit_count: u32,
        _options: *const u32,
        _values: *const *const c_void,
        _count: u32,
    ) {
        let context = current()?;
        library.check()?;
        let options = JitOptions::read(jit_count, &jit_options, jit_values)?;
        library.set(load(&context, Image::from_pointer(image), &options)?)
    }

    fn cuLibraryLoadFromFile(
        library: Out<Handle>,
        path: Text,
        jit_options: In<u32>,
        jit_values: *mut *mut c_void,
        jit_count: u32,
        _options: *const u32,
        _values: *const *const c_void,
        _count: u32,
    ) {
        let context = current()?;
        library.check()?;
        let options = JitOptions::read(jit_count, &jit_options, jit_values)?;
        library.set(load(&context, Image::from_file(path.get()?), &options)?)
    }

    fn cuLibraryUnload(library: Handle) {
        unload(library)
    }

    fn cuLibraryGetKernel(kernel: Out<Handle>, library: Handle, name: Text) {
        let module = find(library)?;
        kernel.check()?;
        let id = module.kernel(name.get()?)?;
        kernel.set(module.function(driver()?, id))
    }

    fn cuLibraryGetModule(module: Out<Handle>, library: Handle) {
        module.set(find(library)?.handle())
    }

    fn cuLibraryGetGlobal(address: Out<u64>, bytes: Out<usize>, library: Handle, name: Text) {
        let (found, size) = find(library)?.variable(name.get()?)?;
        address.offer(found);
        bytes.offer(size);
        Ok(())
    }

    fn cuLibraryGetKernelCount(count: Out<u32>, library: Handle) {
        count.set(find(library)?.kernels().len() as u32)
    }

    fn cuLibraryEnumerateKernels(kernels: Out<Handle>, count: u32, library: Handle) {
        let module = find(library)?;
        let driver = driver()?;
        let found = module.kernels().into_iter().take(count as usize);
        kernels.set_all(found.map(|id| module.function(driver, id)))
    }

    fn cuKernelGetFunction(function: Out<Handle>, kernel: Handle) {
        find_kernel(kernel)?;
        function.set(kernel)
    }

    fn cuKernelGetLibrary(library: Out<Handle>, kernel: Handle) {
        library.set(find_kernel(kernel)?.module.handle())
    }

    fn cuKernelGetName(name: Out<*const c_char>, kernel: Handle) {
        name.set(find_kernel(kernel)?.name_pointer())
    }

    fn cuKernelGetParamInfo(kernel: Handle, index: usize, offset: Out<usize>, size: Out<usize>) {
        let (start, bytes) = find_kernel(kernel)?.parameter(index)?;
        offset.set(start)?;
        size.offer(bytes);
        Ok(())
    }

    fn cuKernelGetAttribute(value: Out<i32>, attribute: u32, kernel: Handle, device: i32) {
        value.check()?;
        check_device(kernel, device)?;
        value.set(find_kernel(kernel)?.attribute(driver()?, attribute)?)
    }

    fn cuKernelSetAttribute(attribute: u32, value: i32, kernel: Handle, device: i32) {
        check_device(kernel, device)?;
        find_kernel(kernel)?.set_attribute(driver()?, attribute, value)
    }

    fn cuKernelSetCacheConfig(kernel: Handle, config: u32, device: i32) {
        check_device(kernel, device)?;
        if config > 3 { Err(INVALID_VALUE) } else { Ok(()) }
    }
}
