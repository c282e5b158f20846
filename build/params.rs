//! `kernels/include/params.h` to Rust, by bindgen.

use std::{env, panic::AssertUnwindSafe, path::Path, process::Command};

const MISSING: &str = "libclang was not found (bindgen needs it). Run `make toolchain`, or set \
    LIBCLANG_PATH to the folder that holds libclang.so.";

/// Writes `params.rs` into `out`: structs with layout assertions, constants as `u32`.
pub(crate) fn generate(root: &Path, header: &Path, out: &Path) -> Result<(), String> {
    find_libclang(root);
    let mut builder = bindgen::Builder::default()
        .header(header.display().to_string())
        .clang_args(["-x", "c", "-std=c11"])
        .allowlist_file(".*params\\.h")
        .derive_debug(true)
        .derive_default(false)
        .layout_tests(true)
        .generate_comments(true);
    // The libclang wheel has no headers of its own: take stddef.h and friends from gcc.
    if let Some(include) = gcc_include() {
        builder = builder.clang_args(["-isystem", &include]);
    }
    // bindgen panics when libclang cannot be loaded.
    let generated = std::panic::catch_unwind(AssertUnwindSafe(move || builder.generate()))
        .map_err(|_cause| MISSING.to_owned())?
        .map_err(|error| format!("bindgen on {}: {error}", header.display()))?;
    let path = out.join("params.rs");
    generated
        .write_to_file(&path)
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// The repository's own libclang, unless the environment names one.
fn find_libclang(root: &Path) {
    let own = root.join(".toolchain/clang");
    if env::var_os("LIBCLANG_PATH").is_none() && own.join("libclang.so").is_file() {
        // SAFETY: a build script has one thread at this point.
        #[expect(unsafe_code, reason = "bindgen reads the variable")]
        unsafe {
            env::set_var("LIBCLANG_PATH", own)
        };
    }
}

fn gcc_include() -> Option<String> {
    let output = Command::new("gcc").arg("-print-file-name=include").output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    Path::new(&path).is_dir().then_some(path)
}
