//! `softcuda ptx`: what a module holds.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use softcuda::exec::Level;
use softcuda::lower::{Env, list as list_ops, lower};
use softcuda::memory::GLOBAL_BASE;
use softcuda::ptx::ast::{Body, Function, FunctionKind, Module};
use softcuda::ptx::fatbin::{self, ImageKind};
use softcuda::ptx::types::{RegClass, Space};
use softcuda::ptx::{self, cubin};

use crate::Failure;

/// Lists the PTX of a file: text, or each PTX member of a fatbin.
pub(crate) fn list(file: &str, output: &mut impl Write) -> Result<(), Failure> {
    let image = std::fs::read(file).map_err(|e| Failure::load(file, e))?;
    match ImageKind::of(&image) {
        ImageKind::Ptx => module(file, &image, output),
        ImageKind::Cubin => Err(Failure::load(file, "machine code; softcuda runs PTX")),
        ImageKind::Fatbin => {
            figures(file, &image, output)?;
            let texts = fatbin::ptx_texts(&image).map_err(|e| Failure::load(file, e))?;
            if texts.is_empty() {
                return Err(Failure::load(file, "no PTX in this fatbin"));
            }
            texts.iter().try_for_each(|(arch, text)| {
                module(&format!("{file} (compute_{arch})"), text, output)
            })
        }
    }
}

/// Lists the ops of a kernel.
pub(crate) fn dump(file: &str, words: &[&str], output: &mut impl Write) -> Result<(), Failure> {
    let (mut kernel, mut level, mut plain) = (None, Level::detect(), false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "-f" => kernel = words.next().copied(),
            "--level" => level = crate::run::level(words.next().copied().unwrap_or_default())?,
            "--plain" => plain = true,
            other => return Err(Failure::Usage(format!("what is meant by {other}?"))),
        }
    }
    let kernel = kernel.ok_or_else(|| Failure::Usage("-f KERNEL is missing".into()))?;
    let image = std::fs::read(file).map_err(|e| Failure::load(file, e))?;
    let text = match ImageKind::of(&image) {
        ImageKind::Ptx => image,
        ImageKind::Cubin => return Err(Failure::load(file, "machine code; softcuda runs PTX")),
        ImageKind::Fatbin => {
            let mut texts = fatbin::ptx_texts(&image).map_err(|e| Failure::load(file, e))?;
            texts.pop().ok_or_else(|| Failure::load(file, "no PTX in this fatbin"))?.1
        }
    };
    let module = Arc::new(ptx::parse(&text).map_err(|e| Failure::load(file, e))?);
    // Addresses do not matter here.
    let env = Env { level, plain, address: &|_| Some(GLOBAL_BASE) };
    let text = list_ops(&module, kernel, &env).map_err(|e| Failure::load(file, e))?;
    Ok(output.write_all(text.as_bytes())?)
}

/// Registers and shared memory of the machine code beside the PTX.
fn figures(file: &str, image: &[u8], output: &mut impl Write) -> Result<(), Failure> {
    let members = fatbin::members(image).map_err(|e| Failure::load(file, e))?;
    for member in members.iter().filter(|m| m.kind == fatbin::MemberKind::Cubin) {
        let data = member.data().map_err(|e| Failure::load(file, e))?;
        for (name, figures) in cubin::figures(&data).unwrap_or_default() {
            writeln!(
                output,
                "sm_{}  {name}: {} registers, {} bytes of static shared memory, {} bytes of code",
                member.arch, figures.registers, figures.static_shared, figures.code_bytes
            )?;
        }
    }
    Ok(())
}

fn module(title: &str, text: &[u8], output: &mut impl Write) -> Result<(), Failure> {
    let module = Arc::new(ptx::parse(text).map_err(|e| Failure::load(title, e))?);
    let targets: Vec<_> = module.targets.iter().map(|t| module.name(*t)).collect();
    let (major, minor) = module.version;
    writeln!(output, "{title}: PTX {major}.{minor}, target {}", targets.join(" "))?;
    for variable in module.variables.iter().filter(|v| v.owner.is_none()) {
        let (space, name) = (variable.space.name(), module.name(variable.name));
        writeln!(output, "  .{space} {name}: {} bytes", variable.size)?;
    }
    let mut failed = 0;
    for one in &module.functions {
        failed += u32::from(function(&module, one, output)?);
    }
    match failed {
        0 => Ok(()),
        n => Err(Failure::load(title, format!("{n} functions do not parse"))),
    }
}

/// Lists a function; true if it does not parse.
fn function(
    module: &Arc<Module>,
    one: &Function,
    output: &mut impl Write,
) -> Result<bool, Failure> {
    let kind = if one.kind == FunctionKind::Entry { "kernel" } else { "function" };
    let name = module.name(one.name);
    match &one.body {
        None => writeln!(output, "  {kind} {name}: declared")?,
        Some(Err(error)) => writeln!(output, "  {kind} {name}: {error}")?,
        Some(Ok(body)) => {
            let [pred, b16, b32, b64, b128] = registers(body);
            let bytes = |space| -> u64 {
                let own = body.variables.iter().filter_map(|v| module.variable(*v));
                own.filter(|v| v.space == space).map(|v| v.size).sum()
            };
            writeln!(
                output,
                "  {kind} {name}: {} bytes of parameters, {} instructions, registers {pred} pred \
                 {b16} b16 {b32} b32 {b64} b64 {b128} b128, shared {} local {}",
                one.param_bytes(),
                body.insts.len(),
                bytes(Space::Shared),
                bytes(Space::Local),
            )?;
            for (instruction, count) in histogram(module, body) {
                writeln!(output, "    {count:6} {instruction}")?;
            }
            if one.kind == FunctionKind::Entry {
                // Addresses do not matter here, only whether every instruction is known.
                let env = Env { level: Level::Base, plain: false, address: &|_| Some(GLOBAL_BASE) };
                match lower(module, name, &env) {
                    Ok(kernel) => writeln!(output, "    runs: {} ops", kernel.ops.len())?,
                    Err(error) => writeln!(output, "    does not run: {error}")?,
                }
            }
        }
    }
    Ok(matches!(one.body, Some(Err(_))))
}

/// Registers by class: predicates, 16, 32, 64, 128 bits.
fn registers(body: &Body) -> [usize; 5] {
    [RegClass::Pred, RegClass::B16, RegClass::B32, RegClass::B64, RegClass::B128]
        .map(|class| body.regs.iter().filter(|r| r.ty.reg_class() == class).count())
}

/// How often each instruction stands in a body, the most frequent first.
fn histogram(module: &Module, body: &Body) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for inst in &body.insts {
        let mut text = module.name(inst.opcode).to_owned();
        for modifier in &inst.modifiers {
            text.push('.');
            text.push_str(module.name(*modifier));
        }
        *counts.entry(text).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}
