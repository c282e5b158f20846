//! A software CUDA device: the driver API and a PTX executor on the CPU.

mod config;
mod driver;
pub mod exec;
pub mod fault;
mod install;
pub mod lower;
pub mod memory;
pub mod profile;
pub mod ptx;

pub use config::{Config, ConfigError, Log, ReportSink, Schedule};
pub use install::{Attempt, InstallError, Installed, Method, install};
