//! Kernels of the PTX corpus lower, or name what is not supported.

use softcuda::direct::Device;
use softcuda::exec::Level;

use crate::support::settings;

#[test]
fn an_unknown_instruction_is_an_error_that_names_it() {
    let source = ".version 8.7\n.target sm_80\n.address_size 64\n\
        .visible .entry good() { ret; }\n\
        .visible .entry k() { .reg .b32 %r<3>;\n mov.u32 %r1, 1;\n frob.u32 %r2, %r1;\n ret; }";
    let device = Device::new(16 << 20, settings(Level::Base)).expect("16 MiB can be reserved");
    let module = device.load_ptx(source).expect("it parses");
    assert!(module.kernel("good").is_ok(), "other functions of the module do not matter");
    let error = module.kernel("k").expect_err("frob is no instruction");
    assert_eq!((error.code, error.line, error.function.as_str()), (801, 7, "k"));
    assert!(error.message.contains("frob.u32 %r2, %r1;"), "{error}");
    assert_eq!(module.kernel("absent").expect_err("no such kernel").code, 500);
}

#[test]
fn an_unknown_modifier_is_an_error() {
    let source = ".version 8.7\n.target sm_80\n.address_size 64\n\
        .visible .entry k() { .reg .b32 %r<3>;\n add.frob.u32 %r1, %r2, 1;\n ret; }";
    let device = Device::new(16 << 20, settings(Level::Base)).expect("16 MiB can be reserved");
    let module = device.load_ptx(source).expect("it parses");
    let error = module.kernel("k").expect_err("frob is no modifier");
    assert!(error.message.contains("add.frob.u32"), "{error}");
    assert!(error.message.contains(".frob"), "{error}");
}
