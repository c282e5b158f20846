//! Each kernel has its places, its header and no spills.

use qwen2vl::device;

use crate::source::{files_ending, is_name, text, words};

/// Parts of the comment that opens a kernel.
const HEADER: [&str; 5] = ["What", "Shapes", "Mapping", "Numerics", "Floor"];
/// (kernel, place, why it has none of its own).
const SHARED: [(&str, &str, &str); 6] = [
    ("attn_f32", "src/reference/attn_f32.rs", "the oracles of the three attention kernels"),
    ("attn_f32", "kernels/include/params.h", "takes what the three attention kernels take"),
    ("gemm_f32", "src/reference/gemm_f32.rs", "computes what gemm does"),
    ("gemm_f32", "kernels/include/params.h", "takes what gemm takes"),
    ("gemv", "src/reference/gemv.rs", "computes what gemm does, so gemm's oracle is its own"),
    ("gemv", "kernels/include/params.h", "takes what gemm takes"),
];

fn kernels() -> Vec<String> {
    let files = files_ending("kernels", &[".cu"]);
    let stem = |file: &String| file.rsplit('/').next().unwrap().replace(".cu", "");
    files.iter().map(stem).collect()
}

fn is_shared(kernel: &str, place: &str) -> bool {
    SHARED.iter().any(|(name, at, _)| *name == kernel && *at == place)
}

#[test]
fn a_kernel_has_five_places() {
    let (benches, rows) = (text("benches/kernels.rs"), text("kernels/README.md"));
    let params = text("kernels/include/params.h");
    let mut missing = Vec::new();
    for kernel in kernels() {
        for folder in ["src/ops", "src/reference", "tests/kernels"] {
            let place = format!("{folder}/{kernel}.rs");
            if text(&place).is_empty() && !is_shared(&kernel, &place) {
                missing.push(format!("{kernel}: {place}"));
            }
        }
        if !rows.contains(&format!("`{kernel}.cu`")) {
            missing.push(format!("{kernel}: a row in kernels/README.md"));
        }
        if words(&benches, &kernel).next().is_none() {
            missing.push(format!("{kernel}: a row in benches/kernels.rs"));
        }
        let op = text(&format!("src/ops/{kernel}.rs"));
        let mut structs = op.split(|c| !is_name(c)).filter(|word| word.ends_with("Params"));
        let place = "kernels/include/params.h";
        if !structs.any(|name| params.contains(&format!("}} {name};")))
            && !is_shared(&kernel, place)
        {
            missing.push(format!("{kernel}: a struct in {place}"));
        }
    }
    assert!(!kernels().is_empty() && missing.is_empty(), "missing:\n{}", missing.join("\n"));
}

#[test]
fn a_kernel_opens_with_the_five_parts() {
    for kernel in kernels() {
        let text = text(&format!("kernels/{kernel}.cu"));
        let header: Vec<_> = text.lines().take_while(|line| line.starts_with("//")).collect();
        let mut parts = header.iter().filter_map(|line| {
            let first = line.strip_prefix("// ")?.split(' ').next()?;
            HEADER.contains(&first).then_some(first)
        });
        let found: Vec<_> = parts.by_ref().collect();
        assert_eq!(found, HEADER, "kernels/{kernel}.cu");
    }
}

/// Held for the pinned compiler; another one allots registers in its own way.
#[test]
fn no_kernel_spills() {
    let pinned = text("tools/toolchain/requirements.txt")
        .lines()
        .filter_map(|line| line.strip_prefix("nvidia-cuda-nvcc=="))
        .filter_map(|rest| rest.split(' ').next().map(str::to_owned))
        .next()
        .expect("requirements.txt pins nvcc");
    let spills: Vec<String> = device::figures()
        .iter()
        .filter(|figures| figures.spill_stores > 0 || figures.spill_loads > 0)
        .map(|f| {
            let (stores, loads) = (f.spill_stores, f.spill_loads);
            format!("{} on {}: {stores} bytes out, {loads} in", f.kernel, f.architecture)
        })
        .collect();
    println!("{} figures of nvcc {}", device::figures().len(), device::nvcc_release());
    if !device::architectures().is_empty() {
        assert!(!device::figures().is_empty(), "machine code without figures");
    }
    if device::nvcc_release().starts_with(&pinned) {
        assert!(spills.is_empty(), "spills:\n{}", spills.join("\n"));
    } else {
        println!("not the pinned {pinned}; spills:\n{}", spills.join("\n"));
    }
}
