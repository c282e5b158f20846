//! The embedded images and the kernels loaded from them.

use std::sync::{Arc, PoisonError};

use cudarc::{
    driver::{CudaFunction, CudaModule, sys::CUfunction_attribute as Attribute},
    nvrtc::Ptx,
};

use super::{Device, DeviceError, Figures, driver};

/// The image of one `.cu` file.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) stem: &'static str,
    pub(super) fatbin: &'static [u8],
    pub(super) entries: &'static [&'static str],
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// `CUDA_ERROR_NO_BINARY_FOR_GPU`.
const NO_BINARY: u32 = 209;

/// A loaded entry point.
#[derive(Clone, Debug)]
pub(super) struct Kernel(pub(super) Arc<CudaFunction>);

impl Device {
    /// The loaded entry point, from the cache or from its image.
    pub(super) fn kernel(&self, name: &'static str) -> Result<Kernel, DeviceError> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = kernels.get(name) {
            return Ok(kernel.clone());
        }
        let image = IMAGES.iter().find(|image| image.entries.contains(&name));
        let image = image.ok_or_else(|| DeviceError::NoKernel(name.to_owned()))?;
        let function =
            self.module(image)?.load_function(name).map_err(driver("cuModuleGetFunction"))?;
        self.allow_all_shared_memory(&function)?;
        let kernel = Kernel(Arc::new(function));
        kernels.insert(name, kernel.clone());
        Ok(kernel)
    }

    /// Above 48 KiB of dynamic shared memory a launch fails unless the function was allowed it.
    fn allow_all_shared_memory(&self, function: &CudaFunction) -> Result<(), DeviceError> {
        let call = "cuFuncGetAttribute";
        let used = function.shared_size_bytes().map_err(driver(call))?;
        let rest = self.shared_limit.saturating_sub(used.unsigned_abs());
        let rest = i32::try_from(rest).unwrap_or(i32::MAX);
        let limit = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(limit, rest).map_err(driver("cuFuncSetAttribute"))
    }

    fn module(&self, image: &Image) -> Result<Arc<CudaModule>, DeviceError> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(image.stem) {
            return Ok(module.clone());
        }
        let loaded = self.context.load_module(Ptx::from_binary(image.fatbin.to_vec()));
        let module = loaded.map_err(|error| {
            let (major, minor) = self.capability();
            if error.0 as u32 == NO_BINARY {
                let have = ARCHITECTURES.iter().map(|name| format!("sm_{name}, "));
                return DeviceError::NoImage(
                    major,
                    minor,
                    have.collect::<String>() + "PTX compute_80",
                );
            }
            driver("cuModuleLoadData")(error)
        })?;
        modules.insert(image.stem, module.clone());
        Ok(module)
    }
}
