//! `qwen2vl doctor`: which driver, device and kernels would be used, and why.

use clap::Args;
use serde_json::json;

use super::{CliError, DeviceArgs, Output, error::exit, frames::ReaderArgs};
use crate::{
    device::{self, Device},
    media::Limits,
};

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    device: DeviceArgs,
}

/// Opens the device and reports; a device that cannot run is exit status 5.
pub(crate) fn run(arguments: &DoctorArgs, out: &mut Output) -> Result<u8, CliError> {
    let device = Device::open(arguments.device.choice()?)?;
    let located = device.located();
    let memory = device.memory()?;
    let (major, minor) = device.capability();
    let kernels: usize = device::images().map(|(_, _, entries)| entries.len()).sum();
    let machine: Vec<String> =
        device::architectures().iter().map(|name| format!("sm_{name}")).collect();
    let ffmpeg = ReaderArgs::program().version(&Limits::default());
    let (ffmpeg, found) = match ffmpeg {
        Ok(version) => (version, true),
        Err(error) => (error.to_string(), false),
    };
    if out.is_json() {
        out.document(&json!({
            "schema": "qwen2vl.doctor/1",
            "version": env!("CARGO_PKG_VERSION"),
            "device": located.to_string(),
            "reason": located.reason,
            "name": device.name(),
            "compute_capability": format!("{major}.{minor}"),
            "multiprocessors": device.multiprocessors(),
            "memory": { "free": memory.free.0, "total": memory.total.0 },
            "kernels": { "count": kernels, "architectures": machine, "ptx": "compute_80",
                         "nvcc": device::nvcc_release() },
            "ffmpeg": { "found": found, "version": ffmpeg },
            "verdict": "ready",
        }))?;
        return Ok(exit::DONE);
    }
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    out.line(&format!("version   {}", env!("CARGO_PKG_VERSION")))?;
    out.line(&format!(
        "kernels   {kernels}: {}PTX compute_80 (nvcc {})",
        machine.iter().map(|name| format!("{name} ")).collect::<String>(),
        device::nvcc_release()
    ))?;
    out.line(&format!("driver    {}", located.reason))?;
    out.line(&format!(
        "device    {located}: {}, compute capability {major}.{minor}, {} multiprocessors, {} of {} free",
        device.name(),
        device.multiprocessors(),
        gib(memory.free.0),
        gib(memory.total.0)
    ))?;
    let ffmpeg =
        if found { ffmpeg } else { "not found (needed for mp4, mov, webm, mkv, avi)".into() };
    out.line(&format!("ffmpeg    {ffmpeg}"))?;
    out.line("verdict   ready")?;
    Ok(exit::DONE)
}
