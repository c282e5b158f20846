//! `softcuda run`: one launch of one kernel on arguments from the command line.

use std::io::Write;

use softcuda::direct::{DevPtr, Device};
use softcuda::exec::{Level, Settings};
use softcuda::profile::{MAX_BLOCK, MAX_GRID, MAX_THREADS_PER_BLOCK, Profile};
use softcuda::ptx::fatbin::{self, ImageKind};

use crate::Failure;

/// Device memory of the run, in bytes; reserved, not used.
const MEMORY: u64 = 16 << 30;

/// What the command line asks for.
struct Request<'a> {
    file: &'a str,
    kernel: &'a str,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    level: Level,
    profile: &'static Profile,
    arguments: Vec<Argument>,
    outputs: Vec<usize>,
}

/// An element type.
#[derive(Clone, Copy, PartialEq)]
enum Type {
    Unsigned(u32),
    Signed(u32),
    F32,
    F64,
    Bf16,
}

/// One `--arg`.
enum Argument {
    Value(Vec<u8>),
    Buffer { ty: Type, count: usize, bytes: Vec<u8> },
}

/// Runs the command; `words` are those after `run`.
pub(crate) fn run(words: &[&str], output: &mut impl Write) -> Result<(), Failure> {
    let request = Request::parse(words)?;
    let source = source(request.file, request.profile)?;
    let settings = Settings { level: request.level, ..Settings::default() };
    let load = |e: &dyn std::fmt::Display| Failure::load(request.file, e);
    let device = Device::new(MEMORY, settings).map_err(|e| load(&e))?;
    let module = device.load_ptx(&source).map_err(|e| load(&e))?;
    let kernel = module.kernel(request.kernel).map_err(|e| load(&e))?;
    if request.block.iter().product::<u32>() > kernel.max_threads {
        let most = kernel.max_threads;
        return Err(Failure::Usage(format!("the kernel takes blocks of at most {most} threads")));
    }
    let fault = |e: Box<softcuda::fault::Fault>| Failure::Fault(e.to_string());

    let mut params = Vec::new();
    let mut buffers: Vec<Option<DevPtr>> = Vec::new();
    for argument in &request.arguments {
        let (bytes, address) = match argument {
            Argument::Value(bytes) => (bytes.clone(), None),
            Argument::Buffer { bytes, .. } => {
                let address = device.alloc(bytes.len()).map_err(fault)?;
                device.write(address, bytes).map_err(fault)?;
                (address.to_le_bytes().to_vec(), Some(address))
            }
        };
        // As C lays out a structure: each value at a multiple of its own size.
        params.resize(params.len().next_multiple_of(bytes.len()), 0);
        params.extend(bytes);
        buffers.push(address);
    }
    let size = kernel.params_size as usize;
    if params.len() > size || params.len().next_multiple_of(8) < size {
        return Err(Failure::Usage(format!(
            "the kernel takes {size} bytes of parameters, the arguments have {}",
            params.len()
        )));
    }
    params.resize(size, 0);
    device.launch(&kernel, request.grid, request.block, request.shared, &params).map_err(fault)?;
    for index in request.outputs {
        let (Some(Argument::Buffer { ty, count, bytes }), Some(Some(address))) =
            (request.arguments.get(index), buffers.get(index))
        else {
            return Err(Failure::Usage(format!("argument {index} is not a buffer")));
        };
        let mut result = vec![0; bytes.len()];
        device.read(*address, &mut result).map_err(fault)?;
        print(index, *ty, *count, &result, output)?;
    }
    Ok(())
}

/// The PTX text of a file.
fn source(file: &str, profile: &Profile) -> Result<String, Failure> {
    let load = |e: &dyn std::fmt::Display| Failure::load(file, e);
    let image = std::fs::read(file).map_err(|e| load(&e))?;
    let text = match ImageKind::of(&image) {
        ImageKind::Ptx => image,
        ImageKind::Cubin => return Err(load(&"machine code; softcuda runs PTX")),
        ImageKind::Fatbin => {
            let (major, minor) = profile.capability;
            let found = fatbin::select_ptx(&image, 10 * major + minor).map_err(|e| load(&e))?;
            found.ok_or_else(|| load(&"no PTX for this profile in the fatbin"))?.into_owned()
        }
    };
    String::from_utf8(text).map_err(|e| load(&e))
}

impl<'a> Request<'a> {
    fn parse(words: &[&'a str]) -> Result<Self, Failure> {
        let usage = |why: String| Failure::Usage(why);
        let mut words = words.iter().copied();
        let file = words.next().ok_or_else(|| usage("run: a file is missing".into()))?;
        let mut request = Request {
            file,
            kernel: "",
            grid: [1; 3],
            block: [1; 3],
            shared: 0,
            level: Level::detect(),
            profile: &softcuda::profile::A100,
            arguments: Vec::new(),
            outputs: Vec::new(),
        };
        while let Some(option) = words.next() {
            let value =
                words.next().ok_or_else(|| usage(format!("{option}: a value is missing")))?;
            let bad = || usage(format!("{option} {value}: not understood"));
            match option {
                "-f" => request.kernel = value,
                "--grid" => request.grid = triple(value, MAX_GRID).ok_or_else(bad)?,
                "--block" => {
                    let block = triple(value, MAX_BLOCK).ok_or_else(bad)?;
                    if block.iter().product::<u32>() > MAX_THREADS_PER_BLOCK {
                        return Err(bad());
                    }
                    request.block = block;
                }
                "--shared" => {
                    let shared = value.parse().ok();
                    let most = request.profile.shared_per_block_optin;
                    request.shared = shared.filter(|s| *s <= most).ok_or_else(bad)?;
                }
                "--profile" => request.profile = Profile::by_name(value).ok_or_else(bad)?,
                "--level" => request.level = level(value)?,
                "--arg" => request.arguments.push(argument(value).ok_or_else(bad)?),
                "--out" => request.outputs.push(value.parse().ok().ok_or_else(bad)?),
                _ => return Err(usage(format!("unknown option {option}"))),
            }
        }
        if request.kernel.is_empty() {
            return Err(usage("run: -f KERNEL is missing".into()));
        }
        Ok(request)
    }
}

/// `8`, `8,4` or `8,4,2`, each at least 1 and at most `most`.
fn triple(text: &str, most: [u32; 3]) -> Option<[u32; 3]> {
    let mut values = [1; 3];
    for (i, part) in text.split(',').enumerate() {
        let value: u32 = part.parse().ok()?;
        if value == 0 || value > *most.get(i)? {
            return None;
        }
        *values.get_mut(i)? = value;
    }
    Some(values)
}

/// `u32:5`, `buf:f32:1024`, `buf:f32:1024:iota`, `buf:f32:1024:1.5`.
fn argument(text: &str) -> Option<Argument> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        ["buf", ty, count] => buffer(ty, count, "0"),
        ["buf", ty, count, fill] => buffer(ty, count, fill),
        [ty, value] => Type::parse(ty)?.bytes(value).map(Argument::Value),
        _ => None,
    }
}

fn buffer(ty: &str, count: &str, fill: &str) -> Option<Argument> {
    let ty = Type::parse(ty)?;
    let count: usize = count.parse().ok().filter(|n| (1..=1 << 30).contains(n))?;
    let mut bytes = Vec::new();
    match fill {
        "iota" => {
            for i in 0..count {
                bytes.extend(ty.bytes(&i.to_string())?);
            }
        }
        value => bytes = ty.bytes(value)?.repeat(count),
    }
    Some(Argument::Buffer { ty, count, bytes })
}

impl Type {
    fn parse(name: &str) -> Option<Type> {
        Some(match name {
            "u8" => Type::Unsigned(8),
            "u16" => Type::Unsigned(16),
            "u32" => Type::Unsigned(32),
            "u64" => Type::Unsigned(64),
            "s8" => Type::Signed(8),
            "s16" => Type::Signed(16),
            "s32" => Type::Signed(32),
            "s64" => Type::Signed(64),
            "f32" => Type::F32,
            "f64" => Type::F64,
            "bf16" => Type::Bf16,
            _ => return None,
        })
    }

    fn width(self) -> usize {
        match self {
            Type::Unsigned(bits) | Type::Signed(bits) => bits as usize / 8,
            Type::F32 => 4,
            Type::F64 => 8,
            Type::Bf16 => 2,
        }
    }

    /// A number as bytes. Integers must fit; indices of `iota` wrap in narrow types.
    fn bytes(self, text: &str) -> Option<Vec<u8>> {
        let bits = match self {
            Type::Unsigned(bits) => {
                let value: u64 = text.parse().ok()?;
                if bits < 64 && value >> bits != 0 {
                    return None;
                }
                value
            }
            Type::Signed(bits) => {
                let value: i64 = text.parse().ok()?;
                let limit = 1i64.checked_shl(bits - 1).unwrap_or(0);
                if bits < 64 && !(-limit..limit).contains(&value) {
                    return None;
                }
                value.cast_unsigned()
            }
            Type::F32 => text.parse::<f32>().ok()?.to_bits().into(),
            Type::F64 => text.parse::<f64>().ok()?.to_bits(),
            Type::Bf16 => bf16(text.parse().ok()?).into(),
        };
        Some(bits.to_le_bytes()[..self.width()].to_vec())
    }

    fn show(self, bytes: &[u8]) -> String {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(word);
        match self {
            Type::Unsigned(_) => bits.to_string(),
            Type::Signed(width) => {
                let unused = 64 - width;
                ((bits << unused).cast_signed() >> unused).to_string()
            }
            Type::F32 => f32::from_bits(bits as u32).to_string(),
            Type::F64 => f64::from_bits(bits).to_string(),
            Type::Bf16 => f32::from_bits((bits as u32) << 16).to_string(),
        }
    }
}

/// The nearest bf16, ties to even.
fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return 0x7fff;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

fn print(
    index: usize,
    ty: Type,
    count: usize,
    bytes: &[u8],
    output: &mut impl Write,
) -> Result<(), Failure> {
    writeln!(output, "argument {index}, {count} elements:")?;
    let values: Vec<String> = bytes.chunks_exact(ty.width()).map(|b| ty.show(b)).collect();
    for (row, line) in values.chunks(8).enumerate() {
        writeln!(output, "{:8}: {}", 8 * row, line.join(" "))?;
    }
    Ok(())
}
/// A level by its name.
pub(crate) fn level(value: &str) -> Result<Level, Failure> {
    let level = match value {
        "base" => Level::Base,
        "avx2" => Level::Avx2,
        "avx512" => Level::Avx512,
        _ => return Err(Failure::Usage(format!("there is no level {value}"))),
    };
    if level > Level::detect() {
        return Err(Failure::Usage(format!("this processor has no {value}")));
    }
    Ok(level)
}
