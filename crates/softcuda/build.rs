//! Makes the driver library's shim: a shared object whose 445 entry points jump through a table.
//!
//! `src/driver/api.txt` is the one list. From it come the assembly of the shim and `table.rs`, in
//! the same order, so that the two cannot drift.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/driver/api.txt");
    println!("cargo::rerun-if-env-changed=CC");
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    let out = PathBuf::from(out);
    let list = fs::read_to_string("src/driver/api.txt").map_err(|why| format!("api.txt: {why}"))?;
    let entries: Vec<Entry> =
        list.lines().filter_map(Entry::parse).collect::<Result<_, String>>()?;
    let write = |name: &str, text: String| {
        fs::write(out.join(name), text).map_err(|why| format!("{name}: {why}"))
    };
    write("table.rs", table(&entries))?;
    write("shim.s", assembly(&entries))?;
    link(&out)
}

/// A line of api.txt: name, class, and the module of `src/driver` that implements it.
struct Entry<'a> {
    name: &'a str,
    module: Option<&'a str>,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Result<Self, String>> {
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [name, "full" | "stub", module] => Some(Ok(Self { name, module: Some(module) })),
            [name, "none"] => Some(Ok(Self { name, module: None })),
            _ => Some(Err(format!("api.txt: not an entry: {line}"))),
        }
    }
}

fn table(entries: &[Entry]) -> String {
    let count = entries.len();
    let mut text = format!(
        "/// Names of the entry points, in the order of the shim.\npub(crate) static NAMES: [&CStr; {count}] = [\n"
    );
    for entry in entries {
        writeln!(text, "    c\"{}\",", entry.name).expect("a string takes everything");
    }
    writeln!(text, "];\n\n/// Their functions.\npub(crate) static TABLE: Table<{count}> = Table([")
        .expect("a string takes everything");
    for (index, entry) in entries.iter().enumerate() {
        match entry.module {
            Some(module) => writeln!(text, "    super::{module}::{} as *const c_void,", entry.name),
            None => writeln!(text, "    unsupported::<{index}> as *const c_void,"),
        }
        .expect("a string takes everything");
    }
    text.push_str("]);\n");
    text
}

fn assembly(entries: &[Entry]) -> String {
    let count = entries.len();
    let mut text = String::from(".text\n");
    for (index, Entry { name, .. }) in entries.iter().enumerate() {
        let offset = 8 * index;
        write!(
            text,
            ".globl {name}\n.type {name},@function\n{name}: jmp *softcuda_table+{offset}(%rip)\n.size {name},.-{name}\n"
        )
        .expect("a string takes everything");
    }
    // void softcuda_bind(const void *const *table)
    write!(
        text,
        ".globl softcuda_bind\n.type softcuda_bind,@function\nsoftcuda_bind:\n\
         \tleaq softcuda_table(%rip), %rdx\n\txorl %ecx, %ecx\n\
         1:\tmovq (%rdi,%rcx,8), %rax\n\tmovq %rax, (%rdx,%rcx,8)\n\tincq %rcx\n\tcmpq ${count}, %rcx\n\tjne 1b\n\tret\n\
         .size softcuda_bind,.-softcuda_bind\n\
         .local softcuda_table\n.comm softcuda_table,{bytes},8\n\
         .section .note.GNU-stack,\"\",@progbits\n",
        bytes = 8 * count
    )
    .expect("a string takes everything");
    text
}

fn link(out: &Path) -> Result<(), String> {
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let shown = compiler.to_string_lossy();
    let output = Command::new(&compiler)
        .args(["-shared", "-nostdlib", "-Wl,-soname,libcuda.so", "-Wl,-z,now"])
        .args(["-Wl,-z,noexecstack", "-o"])
        .arg(out.join("libcuda.so"))
        .arg(out.join("shim.s"))
        .output()
        .map_err(|why| format!("the driver shim needs a C compiler; {shown}: {why} (set CC)"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("{shown} cannot link the driver shim: {why}"))
}
