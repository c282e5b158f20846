//! What the driver holds: settings, memory, and every object behind a handle.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::context::{Context, Primary};
use super::error::{Code, NOT_INITIALIZED, OPERATING_SYSTEM};
use super::event::Event;
use super::function::Function;
use super::handle::{Handle, Slab};
use super::module::Module;
use super::pool::MemoryPool;
use super::stream::Stream;
use crate::config::{Config, Log};
use crate::exec::grid::Pool;
use crate::memory::Memory;

/// Settings for the driver that `cuInit` starts.
static CONFIG: Mutex<Option<Config>> = Mutex::new(None);
static DRIVER: OnceLock<Driver> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

pub(crate) struct Driver {
    pub(crate) config: Config,
    pub(crate) memory: Arc<Memory>,
    pub(super) pool: Pool,
    pub(super) contexts: Slab<Context>,
    pub(super) modules: Slab<Module>,
    pub(super) functions: Slab<Function>,
    pub(super) streams: Slab<Stream>,
    pub(super) events: Slab<Event>,
    pub(super) pools: Slab<MemoryPool>,
    pub(super) devices: Vec<Mutex<Primary>>,
    owners: Mutex<BTreeMap<u64, Owner>>,
    pub(super) next_id: AtomicU64,
    pub(super) next_launch: AtomicU64,
}

/// Whose an allocation is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    /// The context that made it and takes it along when it goes.
    pub(super) context: Handle,
    /// The pool it is from; null for none.
    pub(super) pool: Handle,
    /// Its size.
    pub(super) bytes: u64,
    /// Number of the allocation in the order of the process.
    pub(super) number: u64,
}

impl Driver {
    /// Whose allocations are; key: first address.
    pub(super) fn owners(&self) -> MutexGuard<'_, BTreeMap<u64, Owner>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Settings for the `cuInit` to come; without them it reads the environment.
pub(crate) fn configure(config: &Config) {
    *CONFIG.lock().unwrap_or_else(PoisonError::into_inner) = Some(config.clone());
}

/// The running driver.
pub(crate) fn driver() -> Result<&'static Driver, Code> {
    DRIVER.get().ok_or(NOT_INITIALIZED)
}

pub(super) fn log() -> Log {
    DRIVER.get().map_or(Log::default(), |driver| driver.config.log)
}

/// Starts the driver, once.
pub(super) fn start() -> Result<&'static Driver, Code> {
    let _one = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(driver) = DRIVER.get() {
        return Ok(driver);
    }
    let configured = CONFIG.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let config = match configured {
        Some(config) => config,
        None => Config::from_env().map_err(|error| {
            eprintln!("softcuda: {error}");
            super::error::INVALID_VALUE
        })?,
    };
    let memory = match config.memory {
        Some(bytes) => Memory::new(bytes),
        None => Memory::for_profile(config.profile.memory_bytes),
    };
    let memory = memory.map_err(|error| {
        eprintln!("softcuda: device memory cannot be reserved: {error}");
        OPERATING_SYSTEM
    })?;
    let threads = config.threads.unwrap_or_else(|| {
        // Counts what the control group leaves of the processors.
        std::thread::available_parallelism().map_or(1, NonZero::get)
    });
    let pool = Pool::new(threads).map_err(|error| {
        eprintln!("softcuda: {threads} threads cannot be started: {error}");
        OPERATING_SYSTEM
    })?;
    let pools = Slab::new(6);
    let primaries = (0..config.devices).map(|device| {
        let pool = pools.insert(Arc::new(MemoryPool::new(device, true)));
        Mutex::new(Primary::new(pool))
    });
    let devices = primaries.collect();
    let driver = Driver {
        config,
        memory: Arc::new(memory),
        pool,
        contexts: Slab::new(1),
        modules: Slab::new(2),
        functions: Slab::new(3),
        streams: Slab::new(4),
        events: Slab::new(5),
        pools,
        devices,
        owners: Mutex::default(),
        next_id: AtomicU64::new(1),
        next_launch: AtomicU64::new(1),
    };
    Ok(DRIVER.get_or_init(|| driver))
}
