//! Which driver library this process uses: the system's, or the software device.
//!
//! cudarc opens the driver library once, at its first call, and panics when there is none. So the
//! choice is made before that call: a driver that works is left for cudarc to find; without one
//! `softcuda` is installed into the process, where cudarc finds it by its library name.

use std::{
    fmt,
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use libloading::{Library, Symbol};

use super::DeviceError;
use crate::settings;

const DRIVER: &str = "libcuda.so.1";
const NO_DEVICE: u32 = 100;
/// What the stub library of a CUDA toolkit returns.
const STUB_LIBRARY: u32 = 34;
/// CUDA 12.4: the oldest driver whose functions suffice.
const OLDEST_DRIVER: i32 = 12_040;

/// The device that a caller asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device; the software device if the machine has no driver or no device.
    #[default]
    Auto,
    /// A CUDA device by its number, or an error.
    Cuda(usize),
    /// The software device, also beside a working driver.
    Software,
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::UnknownChoice(text.to_owned());
        match text {
            "auto" => Ok(Self::Auto),
            "cuda" => Ok(Self::Cuda(0)),
            "software" | "soft" => Ok(Self::Software),
            _ => {
                let number = text.strip_prefix("cuda:").ok_or_else(unknown)?;
                number.parse().map(Self::Cuda).map_err(|_not_a_number| unknown())
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => out.write_str("auto"),
            Self::Cuda(ordinal) => write!(out, "cuda:{ordinal}"),
            Self::Software => out.write_str("software"),
        }
    }
}

/// The driver library in use and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Whether it is the software device.
    pub software: bool,
    /// Number of the device.
    pub ordinal: usize,
    /// One sentence: why this one.
    pub reason: String,
}

impl fmt::Display for Located {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.software { out.write_str("software") } else { write!(out, "cuda:{}", self.ordinal) }
    }
}

/// The library is chosen once a process.
static CHOSEN: Mutex<Option<Located>> = Mutex::new(None);

/// Makes the choice, or confirms the one made before.
pub(super) fn locate(choice: DeviceChoice) -> Result<Located, DeviceError> {
    let mut chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(located) = chosen.as_ref() {
        return confirm(located, choice);
    }
    let located = match choice {
        DeviceChoice::Software => install("asked for".to_owned())?,
        DeviceChoice::Cuda(ordinal) => match system_driver()? {
            Found::Devices(count) if ordinal < count => real(ordinal, count),
            Found::Devices(count) => return Err(DeviceError::NoDevice { ordinal, count }),
            Found::Nothing(why) => return Err(DeviceError::NoDriver(why)),
        },
        DeviceChoice::Auto => match system_driver()? {
            Found::Devices(count) => real(0, count),
            Found::Nothing(why) => install(why)?,
        },
    };
    *chosen = Some(located.clone());
    Ok(located)
}

/// The software device's report of a failed kernel, if it is in use and `code` is such a failure.
pub(super) fn software_report(code: u32) -> Option<String> {
    /// No module or instruction that it can run; faults of kernels.
    const KERNEL_FAILURES: [std::ops::RangeInclusive<u32>; 4] =
        [209..=209, 218..=222, 700..=719, 801..=801];
    if !KERNEL_FAILURES.iter().any(|codes| codes.contains(&code)) {
        return None;
    }
    let chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
    let software = chosen.as_ref().is_some_and(|located| located.software);
    software.then(softcuda::last_report).flatten()
}

fn confirm(located: &Located, choice: DeviceChoice) -> Result<Located, DeviceError> {
    match (choice, located.software) {
        (DeviceChoice::Auto, _) | (DeviceChoice::Software, true) => Ok(located.clone()),
        (DeviceChoice::Cuda(ordinal), false) => Ok(Located { ordinal, ..located.clone() }),
        (DeviceChoice::Cuda(_), true) | (DeviceChoice::Software, false) => {
            let (have, wanted) = (located.to_string(), choice.to_string());
            Err(DeviceError::AlreadyChosen { have, wanted })
        }
    }
}

fn real(ordinal: usize, count: usize) -> Located {
    let reason = format!("the NVIDIA driver reports {count} device(s)");
    Located { software: false, ordinal, reason }
}

fn install(why: String) -> Result<Located, DeviceError> {
    let mut config = match softcuda::Config::from_env() {
        Ok(config) => config,
        Err(software) => {
            return Err(DeviceError::NoSoftware { driver: why, software: software.to_string() });
        }
    };
    // A report is part of the error (`DeviceError::Driver`): not twice.
    if settings::text("SOFTCUDA_REPORT").is_none() {
        config.report = softcuda::ReportSink::None;
    }
    match softcuda::install(&config) {
        Ok(_installed) => Ok(Located { software: true, ordinal: 0, reason: why }),
        Err(error) => Err(DeviceError::NoSoftware { driver: why, software: error.to_string() }),
    }
}

enum Found {
    /// A driver that works, and its number of devices, at least 1.
    Devices(usize),
    /// No driver or no device, and the sentence that says so.
    Nothing(String),
}

/// Asks the system's driver library without cudarc.
fn system_driver() -> Result<Found, DeviceError> {
    // SAFETY: the driver library's initialisers are those of a CUDA driver.
    let library = match unsafe { Library::new(DRIVER) } {
        Ok(library) => library,
        Err(_not_loadable) => return Ok(Found::Nothing(format!("{DRIVER} not found"))),
    };
    // SAFETY: `CUresult cuInit(unsigned)` since the first driver.
    let init = unsafe { library.get::<unsafe extern "C" fn(u32) -> u32>(b"cuInit\0") };
    let init = symbol(init, "cuInit")?;
    // SAFETY: the flags must be 0.
    match unsafe { init(0) } {
        0 => {}
        NO_DEVICE => return Ok(Found::Nothing("the driver reports no device".to_owned())),
        STUB_LIBRARY => {
            return Ok(Found::Nothing(format!("{DRIVER} is a toolkit's stub, not a driver")));
        }
        code => return Err(DeviceError::BrokenDriver { call: "cuInit", code }),
    }
    let version = ask(&library, b"cuDriverGetVersion\0", "cuDriverGetVersion")?;
    let count = ask(&library, b"cuDeviceGetCount\0", "cuDeviceGetCount")?;
    let count = usize::try_from(count).unwrap_or(0);
    if count == 0 {
        return Ok(Found::Nothing("the driver reports no device".to_owned()));
    }
    if version < OLDEST_DRIVER {
        let version = version.unsigned_abs();
        return Err(DeviceError::OldDriver(version / 1000, version % 1000 / 10));
    }
    // Stays loaded: cudarc opens it by the same name.
    std::mem::forget(library);
    Ok(Found::Devices(count))
}

/// Calls one of the functions that write one `int`.
fn ask(library: &Library, name: &[u8], call: &'static str) -> Result<i32, DeviceError> {
    // SAFETY: both functions asked for are `CUresult f(int*)`.
    let function = unsafe { library.get::<unsafe extern "C" fn(*mut i32) -> u32>(name) };
    let function = symbol(function, call)?;
    let mut value = 0;
    // SAFETY: the pointer is that of a live i32.
    match unsafe { function(&raw mut value) } {
        0 => Ok(value),
        code => Err(DeviceError::BrokenDriver { call, code }),
    }
}

fn symbol<'a, T>(
    found: Result<Symbol<'a, T>, libloading::Error>,
    call: &'static str,
) -> Result<Symbol<'a, T>, DeviceError> {
    found.map_err(|_missing| DeviceError::NoDriver(format!("{DRIVER} has no {call}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_are_read_and_written() {
        for (text, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cuda:3", DeviceChoice::Cuda(3)),
            ("software", DeviceChoice::Software),
        ] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap(), choice);
            assert_eq!(choice.to_string(), text);
        }
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
    }

    #[test]
    fn a_name_of_no_device_is_refused() {
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "Software"] {
            let error = text.parse::<DeviceChoice>().unwrap_err();
            assert!(matches!(error, DeviceError::UnknownChoice(found) if found == text));
        }
    }
}
