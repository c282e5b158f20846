//! Settings of the device, from a program or from `SOFTCUDA_*`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::exec::{CopyMode, Level, Order, Settings};
use crate::profile::Profile;

/// How the device behaves. No setting changes the result of a correct program.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which GPU it says it is.
    pub profile: &'static Profile,
    /// Device memory in bytes; by default what the profile has and the host can give.
    pub memory: Option<u64>,
    /// Threads that compute, the waiting host thread included; by default one for each processor.
    pub threads: Option<usize>,
    /// Number of equal devices. They share one memory.
    pub devices: u32,
    /// Launches report their own faults, instead of the next synchronising call.
    pub blocking: bool,
    /// A launch that takes longer fails with 702; by default there is no limit.
    pub timeout: Option<Duration>,
    /// Kernels that add floats atomically run on one thread, so that their sums are the same each
    /// time.
    pub ordered: bool,
    /// Orders, copies, level.
    pub schedule: Schedule,
    /// Where reports of faults go.
    pub report: ReportSink,
    /// What is logged on standard error.
    pub log: Log,
}

/// Choices of order and code that no correct kernel can notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// SIMD level; by default the best of this processor.
    pub level: Option<Level>,
    /// Without the optimiser: each instruction as it stands in the text.
    pub plain: bool,
    /// Order of blocks.
    pub blocks: Order,
    /// Order of warps in a block.
    pub warps: Order,
    /// When asynchronous copies land.
    pub copies: CopyMode,
}

impl Schedule {
    /// For the executor.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            level: self.level.unwrap_or_else(Level::detect),
            plain: self.plain,
            blocks: self.blocks,
            warps: self.warps,
            copies: self.copies,
        }
    }
}

/// Where reports of faults go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportSink {
    /// Text on standard error.
    Stderr,
    /// Nowhere; [`crate::last_fault`] has them.
    None,
    /// One JSON object a line, appended to a file.
    Json(PathBuf),
}

/// What is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Every driver call that fails, and every call of a function that is not there.
    pub api: bool,
    /// One line for each launch.
    pub launch: bool,
    /// Modules and functions as they are loaded.
    pub jit: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            profile: &crate::profile::A100,
            memory: None,
            threads: None,
            devices: 1,
            blocking: false,
            timeout: None,
            ordered: false,
            schedule: Schedule::default(),
            report: ReportSink::Stderr,
            log: Log::default(),
        }
    }
}

/// A `SOFTCUDA_*` variable that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Its name.
    pub variable: String,
    /// Its value.
    pub value: String,
    /// What it may be.
    pub expected: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { variable, value, expected } = self;
        write!(f, "{variable}={value}: expected {expected}")
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// The default, changed by the `SOFTCUDA_*` variables of this process.
    ///
    /// # Errors
    /// [`ConfigError`] for a value, or a name that begins so, which is not known.
    pub fn from_env() -> Result<Self, ConfigError> {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| name.starts_with(PREFIX))?;
            Some((name, value.to_string_lossy().into_owned()))
        });
        Self::from_variables(variables)
    }

    fn from_variables(
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let mut variables: Vec<_> = variables.collect();
        variables.sort();
        for (name, value) in variables {
            config.set(&name[PREFIX.len()..], &value).map_err(|expected| ConfigError {
                variable: name.clone(),
                value: value.clone(),
                expected,
            })?;
        }
        Ok(config)
    }

    /// Sets one variable; the error says what its value may be.
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "PROFILE" => {
                self.profile = Profile::by_name(value).ok_or_else(|| {
                    let names: Vec<_> = Profile::ALL.iter().map(|profile| profile.name).collect();
                    names.join(", ")
                })?;
            }
            "MEMORY" => self.memory = Some(bytes(value)?),
            "THREADS" => self.threads = Some(number(value, 1, 1024)? as usize),
            "DEVICES" => self.devices = number(value, 1, 64)?,
            "BLOCKING" => self.blocking = number(value, 0, 1)? == 1,
            "TIMEOUT" => {
                self.timeout = Some(Duration::from_secs(number(value, 1, 1_000_000)?.into()));
            }
            "ORDERED" => self.ordered = number(value, 0, 1)? == 1,
            "LEVEL" => self.schedule.level = Some(level(value)?),
            "SCHEDULE" => self.schedule.read(value)?,
            "REPORT" => self.report = report(value)?,
            "LOG" => self.log = log(value)?,
            _ => return Err("a variable of this name is not known".to_owned()),
        }
        Ok(())
    }
}

const PREFIX: &str = "SOFTCUDA_";

impl Schedule {
    /// `blocks=reverse,warps=linear,cpasync=eager,code=plain`
    fn read(&mut self, text: &str) -> Result<(), String> {
        for item in text.split(',') {
            match item.split_once('=') {
                Some(("blocks", value)) => self.blocks = order(value)?,
                Some(("warps", value)) => self.warps = order(value)?,
                Some(("cpasync", "strict")) => self.copies = CopyMode::Strict,
                Some(("cpasync", "eager")) => self.copies = CopyMode::Eager,
                Some(("code", "optimised")) => self.plain = false,
                Some(("code", "plain")) => self.plain = true,
                _ => {
                    let known = "blocks=linear|reverse, warps=linear|reverse, \
                                 cpasync=strict|eager, code=optimised|plain";
                    return Err(format!("a list of {known}"));
                }
            }
        }
        Ok(())
    }
}

fn order(value: &str) -> Result<Order, String> {
    match value {
        "linear" => Ok(Order::Ascending),
        "reverse" => Ok(Order::Descending),
        _ => Err("the order linear or reverse".to_owned()),
    }
}

fn level(value: &str) -> Result<Level, String> {
    let level = match value {
        "base" => Level::Base,
        "avx2" => Level::Avx2,
        "avx512" => Level::Avx512,
        _ => return Err("base, avx2, avx512".to_owned()),
    };
    if level > Level::detect() {
        return Err("a level that this processor has".to_owned());
    }
    Ok(level)
}

fn report(value: &str) -> Result<ReportSink, String> {
    match value {
        "stderr" => Ok(ReportSink::Stderr),
        "none" => Ok(ReportSink::None),
        _ => match value.strip_prefix("json:") {
            Some(path) if !path.is_empty() => Ok(ReportSink::Json(path.into())),
            _ => Err("stderr, none, json:FILE".to_owned()),
        },
    }
}

fn log(value: &str) -> Result<Log, String> {
    let mut log = Log::default();
    for item in value.split(',').filter(|item| !item.is_empty()) {
        match item {
            "api" => log.api = true,
            "launch" => log.launch = true,
            "jit" => log.jit = true,
            _ => return Err("a list of api, launch, jit".to_owned()),
        }
    }
    Ok(log)
}

fn number(value: &str, least: u32, most: u32) -> Result<u32, String> {
    match value.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("a number from {least} to {most}")),
    }
}

/// Bytes, with K, M or G for powers of 1,024.
fn bytes(value: &str) -> Result<u64, String> {
    let (digits, shift) = match value.as_bytes().last() {
        Some(b'K') => (&value[..value.len() - 1], 10),
        Some(b'M') => (&value[..value.len() - 1], 20),
        Some(b'G') => (&value[..value.len() - 1], 30),
        _ => (value, 0),
    };
    // Device addresses have 48 bits; a terabyte is more than any profile has.
    const MOST: u64 = 1 << 40;
    match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)) {
        Some(bytes) if (1 << 20..=MOST).contains(&bytes) => Ok(bytes),
        _ => Err("bytes from 1M to 1024G".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let owned = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::from_variables(owned)
    }

    #[test]
    fn values_are_read() {
        let config = read(&[
            ("SOFTCUDA_PROFILE", "h100"),
            ("SOFTCUDA_MEMORY", "64M"),
            ("SOFTCUDA_THREADS", "3"),
            ("SOFTCUDA_BLOCKING", "1"),
            ("SOFTCUDA_TIMEOUT", "5"),
            ("SOFTCUDA_ORDERED", "1"),
            ("SOFTCUDA_LEVEL", "base"),
            ("SOFTCUDA_SCHEDULE", "blocks=reverse,cpasync=eager,code=plain"),
            ("SOFTCUDA_REPORT", "json:/tmp/report"),
            ("SOFTCUDA_LOG", "launch,api"),
        ])
        .unwrap();
        assert_eq!(config.profile.name, "h100");
        assert_eq!((config.memory, config.threads), (Some(64 << 20), Some(3)));
        assert!(config.blocking && config.ordered);
        assert_eq!(config.timeout, Some(Duration::from_secs(5)));
        assert_eq!(config.schedule.level, Some(Level::Base));
        assert_eq!(config.schedule.blocks, Order::Descending);
        assert_eq!(config.schedule.warps, Order::Ascending);
        assert_eq!(config.schedule.copies, CopyMode::Eager);
        assert!(config.schedule.plain);
        assert_eq!(config.report, ReportSink::Json("/tmp/report".into()));
        assert_eq!(config.log, Log { api: true, launch: true, jit: false });
    }

    #[test]
    fn unknown_values_and_names_are_refused() {
        for (name, value) in [
            ("SOFTCUDA_PROFILE", "v100"),
            ("SOFTCUDA_MEMORY", "12"),
            ("SOFTCUDA_MEMORY", "99999999999G"),
            ("SOFTCUDA_MEMORY", ""),
            ("SOFTCUDA_THREADS", "0"),
            ("SOFTCUDA_BLOCKING", "yes"),
            ("SOFTCUDA_TIMEOUT", "0"),
            ("SOFTCUDA_LEVEL", "sse9"),
            ("SOFTCUDA_SCHEDULE", "blocks"),
            ("SOFTCUDA_SCHEDULE", "blocks=odd"),
            ("SOFTCUDA_SCHEDULE", "code=fast"),
            ("SOFTCUDA_REPORT", "json:"),
            ("SOFTCUDA_LOG", "everything"),
            ("SOFTCUDA_PROFIL", "a100"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert_eq!((error.variable.as_str(), error.value.as_str()), (name, value));
            assert!(!error.expected.is_empty());
        }
    }
}
