//! Finds nvcc, compiles each kernel file into one fatbin, and keeps the images in a cache that all
//! cargo profiles share: a build script runs once for each profile, nvcc once for each content.

use std::{
    collections::hash_map::DefaultHasher,
    env, fs,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
};

use crate::ptxas::{self, Figures};

/// Machine code that a release embeds; PTX of compute_80 comes with it.
const ARCHITECTURES: &[&str] = &["80", "86", "89", "90a", "120"];
/// The oldest release that knows every feature in use.
const OLDEST: (u32, u32) = (12, 4);
const FLAGS: &[&str] = &[
    "-std=c++17",
    "-O3",
    // Rule N7 of the numeric contract: an FMA stands in the source or nowhere.
    "-fmad=false",
    "-prec-div=true",
    "-prec-sqrt=true",
    "-ftz=false",
    // PTX stays readable by any tool, whatever the toolkit's default is.
    "--no-compress",
    "-lineinfo",
    "--fatbin",
    "--ptxas-options=-v",
];
const MISSING: &str = "no nvcc (CUDA 12.4 or newer) found in QWEN2VL_CUDA_HOME, CUDA_HOME, PATH or \
    .toolchain/cuda. Run `make toolchain` to fetch the pinned compiler into this folder.";

pub(crate) struct Compiler {
    program: PathBuf,
    /// "13.0.88"
    pub release: String,
    pub architectures: Vec<String>,
}

pub(crate) struct Image {
    pub stem: String,
    pub fatbin: PathBuf,
    pub entries: Vec<String>,
    pub figures: Vec<Figures>,
}

impl Compiler {
    /// The first nvcc that is new enough, and the architectures to build for.
    pub(crate) fn find(root: &Path) -> Result<Self, String> {
        let mut folders: Vec<PathBuf> = ["QWEN2VL_CUDA_HOME", "CUDA_HOME"]
            .iter()
            .filter_map(env::var_os)
            .map(|home| PathBuf::from(home).join("bin"))
            .collect();
        folders.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
        folders.push(root.join(".toolchain/cuda/bin"));
        for program in folders.into_iter().map(|folder| folder.join("nvcc")) {
            if !program.is_file() {
                continue;
            }
            let release = release(&program)?;
            if parse_release(&release).is_some_and(|found| found >= OLDEST) {
                let architectures = architectures(&program)?;
                return Ok(Self { program, release, architectures });
            }
            println!("cargo::warning={} is {release}, older than 12.4", program.display());
        }
        Err(MISSING.into())
    }

    /// Compiles every `.cu` of `kernels`, as many at once as the machine has cores.
    pub(crate) fn compile_all(&self, kernels: &Path, out: &Path) -> Result<Vec<Image>, String> {
        let mut sources = files(kernels, "cu")?;
        sources.sort();
        let shared = self.fingerprint(&kernels.join("include"))?;
        let cache = cache_folder(out);
        fs::create_dir_all(&cache)
            .map_err(|error| format!("cannot create {}: {error}", cache.display()))?;
        let next = Mutex::new(sources.iter());
        let results = Mutex::new(Vec::new());
        let workers = thread::available_parallelism().map_or(1, |n| n.get()).min(sources.len());
        thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    loop {
                        let Some(source) = next.lock().ok().and_then(|mut iter| iter.next()) else {
                            return;
                        };
                        let image = self.compile(source, shared, &cache);
                        if let Ok(mut results) = results.lock() {
                            results.push(image);
                        }
                    }
                });
            }
        });
        let results = results.into_inner().map_err(|error| error.to_string())?;
        let mut images = results.into_iter().collect::<Result<Vec<_>, _>>()?;
        images.sort_by(|a, b| a.stem.cmp(&b.stem));
        Ok(images)
    }

    fn compile(&self, source: &Path, shared: u64, cache: &Path) -> Result<Image, String> {
        let stem = source.file_stem().and_then(|stem| stem.to_str()).unwrap_or("kernel").to_owned();
        let mut hash = DefaultHasher::new();
        shared.hash(&mut hash);
        read(source)?.hash(&mut hash);
        let key = format!("{stem}-{:016x}", hash.finish());
        let fatbin = cache.join(format!("{key}.fatbin"));
        let log = cache.join(format!("{key}.log"));
        if !fatbin.is_file() || !log.is_file() {
            self.run(source, &fatbin, &log)?;
        }
        let bytes = read(&fatbin)?;
        let text = String::from_utf8_lossy(&read(&log)?).into_owned();
        let entries = entry_points(&bytes);
        if entries.is_empty() {
            return Err(format!("{} has no entry point", source.display()));
        }
        Ok(Image { stem, fatbin, entries, figures: ptxas::parse(&text) })
    }

    /// One nvcc process; both files are renamed into place, so that a killed build leaves no half.
    fn run(&self, source: &Path, fatbin: &Path, log: &Path) -> Result<(), String> {
        let half = fatbin.with_extension(format!("{}.tmp", std::process::id()));
        let mut command = Command::new(&self.program);
        command.args(FLAGS).arg("-I").arg(source.with_file_name("include"));
        command.args(["-gencode", "arch=compute_80,code=compute_80"]);
        for name in &self.architectures {
            command.args(["-gencode", &format!("arch=compute_{name},code=sm_{name}")]);
        }
        if env::var_os("CARGO_FEATURE_DEVICE_CHECK").is_some() {
            command.arg("-DQWEN2VL_DEVICE_CHECK");
        }
        command.arg("-o").arg(&half).arg(source);
        let output = command
            .output()
            .map_err(|error| format!("cannot start {}: {error}", self.program.display()))?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            return Err(format!("nvcc failed on {}:\n{text}", source.display()));
        }
        let moved = fs::write(log, text).and_then(|()| fs::rename(&half, fatbin));
        moved.map_err(|error| format!("cannot write {}: {error}", fatbin.display()))
    }

    /// What every image depends on: headers, flags, architectures, compiler.
    fn fingerprint(&self, include: &Path) -> Result<u64, String> {
        let mut hash = DefaultHasher::new();
        (FLAGS, &self.release, &self.architectures).hash(&mut hash);
        env::var_os("CARGO_FEATURE_DEVICE_CHECK").is_some().hash(&mut hash);
        let mut headers = files(include, "cuh")?;
        headers.extend(files(include, "h")?);
        headers.sort();
        for header in headers {
            (header.file_name(), read(&header)?).hash(&mut hash);
        }
        Ok(hash.finish())
    }
}

/// `target/kernel-images`, above the profile's folder; `OUT_DIR` if the layout is another.
fn cache_folder(out: &Path) -> PathBuf {
    let target = out
        .ancestors()
        .find(|folder| folder.file_name().is_some_and(|name| name == "build"))
        .and_then(|build| build.parent())
        .and_then(Path::parent);
    target.unwrap_or(out).join("kernel-images")
}

fn release(program: &Path) -> Result<String, String> {
    let text = output(program, "--version")?;
    let found = text.split(", V").nth(1).and_then(|rest| rest.split_whitespace().next());
    found.map(str::to_owned).ok_or_else(|| format!("{}: unknown version", program.display()))
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

/// The wanted architectures that this nvcc knows.
fn architectures(program: &Path) -> Result<Vec<String>, String> {
    if env::var_os("CARGO_FEATURE_PTX_ONLY").is_some() {
        return Ok(Vec::new());
    }
    let wanted: Vec<String> = match env::var("QWEN2VL_CUDA_ARCHS") {
        Ok(list) => list.split([',', ' ']).filter(|name| !name.is_empty()).map(clean).collect(),
        Err(env::VarError::NotPresent) => ARCHITECTURES.iter().map(|name| (*name).into()).collect(),
        Err(error) => return Err(format!("QWEN2VL_CUDA_ARCHS: {error}")),
    };
    let known = output(program, "--list-gpu-code")?;
    // The list has plain numbers; `90a` is `sm_90` with the features of that one chip.
    let knows = |name: &String| {
        let plain = format!("sm_{}", name.trim_end_matches(|c: char| c.is_ascii_lowercase()));
        known.split_whitespace().any(|code| code == plain)
    };
    let (kept, left): (Vec<_>, Vec<_>) = wanted.into_iter().partition(knows);
    if !left.is_empty() {
        println!("cargo::warning=this nvcc does not know sm_{}: left out", left.join(", sm_"));
    }
    Ok(kept)
}

fn clean(name: &str) -> String {
    name.trim_start_matches("sm_").to_owned()
}

/// Names after `.entry` in the PTX member, which `--no-compress` leaves readable.
fn entry_points(fatbin: &[u8]) -> Vec<String> {
    const MARK: &[u8] = b".entry ";
    let mut names = Vec::new();
    for at in 0..fatbin.len().saturating_sub(MARK.len()) {
        if fatbin[at..].starts_with(MARK) {
            let rest = &fatbin[at + MARK.len()..];
            let name = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_');
            let name: String = name.map(|b| char::from(*b)).collect();
            if !name.is_empty() && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

fn output(program: &Path, argument: &str) -> Result<String, String> {
    let output = Command::new(program)
        .arg(argument)
        .output()
        .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder)
        .map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    Ok(entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}
