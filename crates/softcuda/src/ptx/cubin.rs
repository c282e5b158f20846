//! Machine code files: only what their ELF headers say about a kernel's resources.

use std::collections::BTreeMap;

use super::fatbin::{u16_at, u32_at, u64_at};

/// `.nv.info` attribute: symbol and registers a thread.
const ATTRIBUTE_REGISTERS: u8 = 0x2f;
/// Shared memory that sm_90 and up reserve and count in `.nv.shared.K`.
const RESERVED_SHARED: u64 = 1024;
/// More sections are not looked at.
const MAX_SECTIONS: u16 = 20_000;

/// What the compiler gave a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of static shared memory.
    pub static_shared: u64,
    /// Bytes of machine code.
    pub code_bytes: u64,
}

struct Section<'a> {
    name: &'a str,
    data: &'a [u8],
    size: u64,
    info: u32,
}

/// The kernels and device functions of a cubin by name; `None` if it is not a 64-bit
/// little-endian ELF file whose section table can be read.
#[must_use]
pub fn figures(image: &[u8]) -> Option<BTreeMap<String, Figures>> {
    let sections = sections(image)?;
    let reserved = sections.iter().any(|s| s.name.starts_with(".nv.shared.reserved"));
    let mut kernels: BTreeMap<String, Figures> = BTreeMap::new();
    for section in &sections {
        if let Some(name) = section.name.strip_prefix(".text.") {
            let figures = kernels.entry(name.to_owned()).or_default();
            figures.code_bytes = section.size;
            // The top byte up to sm_89; newer files leave it zero and use the attribute below.
            figures.registers = figures.registers.max(section.info >> 24);
        } else if let Some(name) = section.name.strip_prefix(".nv.shared.")
            && !name.starts_with("reserved")
        {
            let fixed = if reserved { RESERVED_SHARED } else { 0 };
            let figures = kernels.entry(name.to_owned()).or_default();
            figures.static_shared = section.size.saturating_sub(fixed);
        }
    }
    for (name, registers) in attribute_registers(&sections) {
        if let Some(figures) = kernels.get_mut(name) {
            figures.registers = registers;
        }
    }
    Some(kernels)
}

fn sections(image: &[u8]) -> Option<Vec<Section<'_>>> {
    if image.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = usize::try_from(u64_at(image, 40)?).ok()?;
    let entry = usize::from(u16_at(image, 58)?);
    let count = u16_at(image, 60)?.min(MAX_SECTIONS);
    let names = usize::from(u16_at(image, 62)?);
    if entry < 64 {
        return None;
    }
    let header = |index: usize| image.get(table.checked_add(index.checked_mul(entry)?)?..);
    let data = |header: &[u8]| {
        let start = usize::try_from(u64_at(header, 24)?).ok()?;
        let size = usize::try_from(u64_at(header, 32)?).ok()?;
        image.get(start..start.checked_add(size)?)
    };
    let names = data(header(names)?)?;
    let mut sections = Vec::new();
    for index in 0..usize::from(count) {
        let header = header(index)?;
        sections.push(Section {
            name: string(names, u32_at(header, 0)? as usize).unwrap_or_default(),
            data: data(header).unwrap_or_default(),
            size: u64_at(header, 32)?,
            info: u32_at(header, 44)?,
        });
    }
    Some(sections)
}

/// The name that starts at an offset; at most 4,096 bytes.
fn string(table: &[u8], at: usize) -> Option<&str> {
    let rest = table.get(at..)?;
    let end = rest.iter().take(4096).position(|b| *b == 0)?;
    std::str::from_utf8(rest.get(..end)?).ok()
}

/// Registers by symbol name, from `.nv.info`.
fn attribute_registers<'a>(sections: &[Section<'a>]) -> Vec<(&'a str, u32)> {
    let find = |name: &str| sections.iter().find(|s| s.name == name).map(|s| s.data);
    let (Some(info), Some(symbols), Some(names)) =
        (find(".nv.info"), find(".symtab"), find(".strtab"))
    else {
        return Vec::new();
    };
    let symbol = |index: u32| {
        let at = (index as usize).checked_mul(24)?;
        string(names, u32_at(symbols, at)? as usize)
    };
    let mut found = Vec::new();
    let mut at = 0usize;
    // An entry: format, attribute, then a 16-bit value, or for format 4 a size and that many bytes.
    while let (Some(format), Some(value)) = (info.get(at), u16_at(info, at.saturating_add(2))) {
        let attribute = info.get(at.saturating_add(1)).copied();
        at = at.saturating_add(4);
        if *format != 4 {
            continue;
        }
        if attribute == Some(ATTRIBUTE_REGISTERS)
            && let (Some(index), Some(registers)) =
                (u32_at(info, at), u32_at(info, at.saturating_add(4)))
            && let Some(name) = symbol(index)
        {
            found.push((name, registers));
        }
        at = at.saturating_add(usize::from(value));
    }
    found
}
