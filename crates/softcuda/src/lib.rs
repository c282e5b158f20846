//! A software CUDA device: the driver API and a PTX executor on the CPU.

mod config;
pub mod direct;
mod driver;
pub mod exec;
pub mod fault;
mod install;
pub mod lower;
pub mod memory;
pub mod profile;
pub mod ptx;
mod report;

pub use config::{Config, ConfigError, Log, ReportSink, Schedule};
pub use exec::grid::cancel;
pub use fault::Fault;
pub use install::{Attempt, InstallError, Installed, Method, install};
pub use report::{LaunchRecord, last_fault, last_report, launches, scheduled};

/// The examples of the README compile and run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
