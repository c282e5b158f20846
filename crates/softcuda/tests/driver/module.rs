//! Modules, functions, variables, occupancy.

use std::ffi::{CStr, c_void};
use std::ptr;

use cudarc::driver::sys::{self, CUfunction, CUmodule};
use cudarc::nvrtc::Ptx;

use crate::support::{OwnContext, code, context, ok};

pub(crate) const KERNELS: &str = concat!(include_str!("kernels.ptx"), "\0");
const FATBIN: &[u8] = include_bytes!("../ptx/plain.fatbin");
const ZSTD: &[u8] = include_bytes!("../ptx/zstd.fatbin");

/// The module of `kernels.ptx` in the current context.
pub(crate) fn kernels() -> CUmodule {
    load(KERNELS.as_ptr().cast()).expect("the text is right")
}

fn load(image: *const c_void) -> Result<CUmodule, u32> {
    let mut module = ptr::null_mut();
    match code(unsafe { sys::cuModuleLoadData(&raw mut module, image) }) {
        0 => Ok(module),
        error => Err(error),
    }
}

pub(crate) fn function(module: CUmodule, name: &CStr) -> CUfunction {
    let mut function = ptr::null_mut();
    assert!(ok(unsafe { sys::cuModuleGetFunction(&raw mut function, module, name.as_ptr()) }));
    function
}

fn attribute(function: CUfunction, attribute: sys::CUfunction_attribute) -> i32 {
    let mut value = -7;
    assert!(ok(unsafe { sys::cuFuncGetAttribute(&raw mut value, attribute, function) }));
    value
}

#[test]
fn cudarc_loads_text_and_fatbins() {
    let context = context();
    let module = context.load_module(Ptx::from_src(KERNELS.trim_end_matches('\0'))).unwrap();
    assert!(module.load_function("add").is_ok());
    for image in [FATBIN, ZSTD] {
        let module = context.load_module(Ptx::from_binary(image.to_vec())).unwrap();
        let function = module.load_function("image").unwrap();
        assert_eq!(function.shared_size_bytes().unwrap(), 1200);
        assert!((8..=32).contains(&function.num_regs().unwrap()), "from the machine code");
    }
}

#[test]
fn names_lead_to_kernels_alone() {
    let _context = OwnContext::new();
    let module = kernels();
    let mut found = ptr::null_mut();
    for name in [c"nothing", c"counter", c""] {
        let result = unsafe { sys::cuModuleGetFunction(&raw mut found, module, name.as_ptr()) };
        assert_eq!(code(result), 500, "{name:?}");
    }
    let mut count = 0;
    assert!(ok(unsafe { sys::cuModuleGetFunctionCount(&raw mut count, module) }));
    let mut functions = vec![ptr::null_mut(); count as usize];
    let all = unsafe { sys::cuModuleEnumerateFunctions(functions.as_mut_ptr(), count, module) };
    assert!(ok(all));
    assert!(functions.contains(&function(module, c"add")));
    let mut name = ptr::null();
    assert!(ok(unsafe { sys::cuFuncGetName(&raw mut name, functions[0]) }));
    assert_eq!(unsafe { CStr::from_ptr(name) }, c"empty", "in order of the text");
    let mut module_of = ptr::null_mut();
    assert!(ok(unsafe { sys::cuFuncGetModule(&raw mut module_of, functions[0]) }));
    assert_eq!(module_of, module);
}

#[test]
fn unloaded_modules_take_their_functions_along() {
    let _context = OwnContext::new();
    let module = kernels();
    let empty = function(module, c"empty");
    assert!(ok(unsafe { sys::cuModuleUnload(module) }));
    assert_eq!(code(unsafe { sys::cuModuleUnload(module) }), 400);
    let mut value = 0;
    let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS;
    assert_eq!(code(unsafe { sys::cuFuncGetAttribute(&raw mut value, which, empty) }), 400);
}

#[test]
fn variables_have_addresses_sizes_and_initial_values() {
    let _context = OwnContext::new();
    let module = kernels();
    let global = |name: &CStr| {
        let (mut address, mut bytes) = (0, 0);
        let result = unsafe {
            sys::cuModuleGetGlobal_v2(&raw mut address, &raw mut bytes, module, name.as_ptr())
        };
        (code(result), address, bytes)
    };
    let read = |address, bytes| {
        let mut value = [0_u8; 16];
        let to = value.as_mut_ptr().cast();
        assert!(ok(unsafe { sys::cuMemcpyDtoH_v2(to, address, bytes) }));
        value
    };
    let (result, counter, bytes) = global(c"counter");
    assert_eq!((result, bytes), (0, 4));
    assert_eq!(read(counter, 4)[..4], 7_u32.to_le_bytes());
    let (_, table, bytes) = global(c"table");
    assert_eq!(bytes, 12);
    assert_eq!(read(table, 12)[..12], [3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0]);
    let (_, pointer, _) = global(c"pointer");
    assert_eq!(read(pointer, 8)[..8], counter.to_le_bytes());
    assert_eq!(global(c"nothing").0, 500);
}

#[test]
fn images_that_cannot_run_are_refused() {
    let _context = OwnContext::new();
    assert_eq!(load(ptr::null()), Err(1));
    assert_eq!(load(c"not PTX".as_ptr().cast()), Err(218));
    assert_eq!(load(c".version 8.0\n.target sm_90\n.address_size 64\n".as_ptr().cast()), Err(218));
    assert_eq!(load(c"\x7fELF\x02\x01\x01".as_ptr().cast()), Err(209));
    assert_eq!(load(c".version 99.0\n.target sm_80\n%%%\n".as_ptr().cast()), Err(222));
    let mut broken = FATBIN.to_vec();
    // The first member's header size.
    broken[16 + 4..16 + 8].copy_from_slice(&[0xff; 4]);
    assert_eq!(load(broken.as_ptr().cast()), Err(200));
    let extern_variable =
        c".version 8.0\n.target sm_80\n.address_size 64\n.extern .global .u32 x;\n";
    assert_eq!(load(extern_variable.as_ptr().cast()), Err(218));
    let missing = c"/nowhere/module.ptx";
    let mut module = ptr::null_mut();
    assert_eq!(code(unsafe { sys::cuModuleLoad(&raw mut module, missing.as_ptr()) }), 301);
}

#[test]
fn messages_go_to_the_buffer_of_the_caller() {
    let _context = OwnContext::new();
    let mut buffer = [1_i8; 64];
    let mut options = [
        sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
        sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    let mut values = [buffer.as_mut_ptr().cast::<c_void>(), 64_usize as *mut c_void];
    let mut module = ptr::null_mut();
    let result = unsafe {
        sys::cuModuleLoadDataEx(
            &raw mut module,
            c"not PTX".as_ptr().cast(),
            2,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    assert_eq!(code(result), 218);
    let text = unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_str().unwrap();
    assert!(text.starts_with("softcuda: PTX line 1"), "{text}");
    assert_eq!(values[1] as usize, text.len());
}

#[test]
fn function_attributes_are_read_and_set() {
    let _context = OwnContext::new();
    use sys::CUfunction_attribute as Attribute;
    let module = kernels();
    let add = function(module, c"add");
    assert_eq!(attribute(add, Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 1024);
    assert_eq!(attribute(add, Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES), 0);
    assert_eq!(attribute(add, Attribute::CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES), 12);
    assert_eq!(attribute(add, Attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION), 80);
    assert_eq!(attribute(add, Attribute::CU_FUNC_ATTRIBUTE_BINARY_VERSION), 80);
    let registers = attribute(add, Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS);
    assert!(registers > 0 && registers % 8 == 0, "{registers}");
    let bounded = function(module, c"at_most_64");
    assert_eq!(attribute(bounded, Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 64);
    let dynamic = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert_eq!(attribute(add, dynamic), 49_152);
    let set = |attribute, value| code(unsafe { sys::cuFuncSetAttribute(add, attribute, value) });
    assert_eq!(set(dynamic, 166_912), 0);
    assert_eq!(attribute(add, dynamic), 166_912);
    assert_eq!(set(dynamic, 166_913), 1);
    assert_eq!(set(dynamic, -1), 1);
    assert_eq!(set(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS, 8), 1, "cannot be set");
    let (mut offset, mut size) = (0, 0);
    let info =
        |index, offset, size| code(unsafe { sys::cuFuncGetParamInfo(add, index, offset, size) });
    assert_eq!(info(3, &raw mut offset, &raw mut size), 0);
    assert_eq!((offset, size), (24, 4));
    assert_eq!(info(4, &raw mut offset, &raw mut size), 1);
}

#[test]
fn unknown_instructions_matter_to_their_function_alone() {
    let _context = OwnContext::new();
    let module = kernels();
    assert!(ok(unsafe { sys::cuFuncLoad(function(module, c"add")) }));
    let unknown = function(module, c"unknown_instruction");
    assert_eq!(code(unsafe { sys::cuFuncLoad(unknown) }), 801);
}

#[test]
fn occupancy_follows_the_profile() {
    let _context = OwnContext::new();
    let module = kernels();
    let empty = function(module, c"empty");
    let active = |threads, shared| {
        let mut blocks = -1;
        let result = unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &raw mut blocks,
                empty,
                threads,
                shared,
            )
        };
        (code(result), blocks)
    };
    assert_eq!(active(1024, 0), (0, 2));
    assert_eq!(active(256, 48 << 10), (0, 3));
    assert_eq!(active(256, 200_000), (0, 0));
    assert_eq!(active(0, 0).0, 1);
    let (mut blocks, mut threads) = (0, 0);
    let best = unsafe {
        sys::cuOccupancyMaxPotentialBlockSize(&raw mut blocks, &raw mut threads, empty, None, 0, 0)
    };
    assert!(ok(best));
    assert_eq!((blocks, threads), (216, 1024));
    let mut bytes = 0;
    let dynamic =
        unsafe { sys::cuOccupancyAvailableDynamicSMemPerBlock(&raw mut bytes, empty, 2, 256) };
    assert!(ok(dynamic));
    assert_eq!(bytes, 167_936 / 2 - 1024);
    assert_eq!(active(256, bytes), (0, 2));
}

#[test]
fn libraries_are_modules() {
    let _context = OwnContext::new();
    let mut library = ptr::null_mut();
    let null = ptr::null_mut::<c_void>();
    let loaded = unsafe {
        sys::cuLibraryLoadData(
            &raw mut library,
            KERNELS.as_ptr().cast(),
            null.cast(),
            null.cast(),
            0,
            null.cast(),
            null.cast(),
            0,
        )
    };
    assert!(ok(loaded));
    let mut kernel = ptr::null_mut();
    assert!(ok(unsafe { sys::cuLibraryGetKernel(&raw mut kernel, library, c"add".as_ptr()) }));
    let mut function = ptr::null_mut();
    assert!(ok(unsafe { sys::cuKernelGetFunction(&raw mut function, kernel) }));
    let mut value = 0;
    let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
    assert!(ok(unsafe { sys::cuKernelGetAttribute(&raw mut value, which, kernel, 0) }));
    assert_eq!(value, 1024);
    let other_device = unsafe { sys::cuKernelGetAttribute(&raw mut value, which, kernel, 1) };
    assert_eq!(code(other_device), 101);
    let mut count = 0;
    assert!(ok(unsafe { sys::cuLibraryGetKernelCount(&raw mut count, library) }));
    assert!(count > 5);
    assert!(ok(unsafe { sys::cuLibraryUnload(library) }));
    assert_eq!(code(unsafe { sys::cuLibraryGetKernelCount(&raw mut count, library) }), 400);
}
