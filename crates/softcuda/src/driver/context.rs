//! Contexts: the primary one of each device, and those that a program creates.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use super::error::{
    CONTEXT_IS_DESTROYED, Code, INVALID_CONTEXT, INVALID_DEVICE, INVALID_VALUE, NOT_SUPPORTED,
    UNSUPPORTED_LIMIT,
};
use super::handle::{Handle, Missing};
use super::state::{Driver, driver};
use super::stream::Stream;
use super::{In, Out, Status, VERSION, entry};

/// Flags that a context may have; the rest is refused.
const FLAGS: u32 = 0xff;
const LIMITS: usize = 10;
/// `CU_LIMIT_SHMEM_SIZE` and behind are for special hardware.
const SETTABLE_LIMITS: usize = 7;

/// A context.
pub(crate) struct Context {
    pub(super) id: u64,
    pub(super) device: u32,
    flags: AtomicU32,
    primary: bool,
    handle: OnceLock<Handle>,
    /// The result of the launch that failed; 0 while none did. It never goes away.
    failure: AtomicU32,
    destroyed: AtomicBool,
    /// Read while a command runs, written to wait for all of them.
    pub(super) work: RwLock<()>,
    /// Written by commands of the legacy stream, read by those of streams that it joins with.
    pub(super) joins: RwLock<()>,
    limits: Mutex<[usize; LIMITS]>,
    cache_config: AtomicU32,
    shared_config: AtomicU32,
    pub(super) legacy: Arc<Stream>,
    pub(super) per_thread: Arc<Stream>,
}

/// The primary context of a device.
pub(super) struct Primary {
    context: Handle,
    retained: u32,
    flags: u32,
    pub(super) default_pool: Handle,
    pub(super) pool: Handle,
}

impl Primary {
    pub(super) fn new(pool: Handle) -> Self {
        Self { context: Handle::NULL, retained: 0, flags: 0, default_pool: pool, pool }
    }
}

thread_local! {
    /// The contexts of this thread, the current one last.
    static CURRENT: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

fn current_handle() -> Handle {
    CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or_default())
}

/// The context behind a handle.
pub(super) fn lookup(driver: &Driver, handle: Handle) -> Result<Arc<Context>, Code> {
    driver.contexts.get(handle).map_err(|missing| match missing {
        Missing::Foreign => INVALID_CONTEXT,
        Missing::Stale => CONTEXT_IS_DESTROYED,
    })
}

/// The current context, whether a launch in it has failed or not.
pub(super) fn current_even_failed() -> Result<Arc<Context>, Code> {
    lookup(driver()?, current_handle())
}

/// The current context; the failed launch's code if one failed.
pub(super) fn current() -> Result<Arc<Context>, Code> {
    let context = current_even_failed()?;
    context.check()?;
    Ok(context)
}

impl Context {
    fn create(driver: &Driver, device: u32, flags: u32, primary: bool) -> (Handle, Arc<Self>) {
        let mut limits = [0; LIMITS];
        // Stack of a thread, printf buffer, heap: the defaults of a real device.
        limits[..3].copy_from_slice(&[1024, 1 << 20, 8 << 20]);
        limits[5] = 64;
        let context = Arc::new(Self {
            id: driver.next_id.fetch_add(1, Ordering::Relaxed),
            device,
            flags: AtomicU32::new(flags),
            primary,
            handle: OnceLock::new(),
            failure: AtomicU32::new(0),
            destroyed: AtomicBool::new(false),
            work: RwLock::default(),
            joins: RwLock::default(),
            limits: Mutex::new(limits),
            cache_config: AtomicU32::new(0),
            shared_config: AtomicU32::new(0),
            legacy: Arc::new(Stream::legacy(driver)),
            per_thread: Arc::new(Stream::per_thread(driver)),
        });
        let handle = driver.contexts.insert(context.clone());
        let handle = *context.handle.get_or_init(|| handle);
        (handle, context)
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle.get().copied().unwrap_or_default()
    }

    pub(super) fn check(&self) -> Status {
        if self.destroyed.load(Ordering::Acquire) {
            return Err(CONTEXT_IS_DESTROYED);
        }
        match self.failure.load(Ordering::Acquire) {
            0 => Ok(()),
            code => Err(code),
        }
    }

    /// A launch failed with `code`: every later call of this context says so.
    pub(crate) fn fail(&self, code: Code) {
        // The first failure stays.
        let _earlier = self.failure.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Waits until every command has run.
    pub(super) fn wait(&self) {
        drop(self.work.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn limit(&self, limit: usize) -> usize {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)[limit]
    }

    /// Waits for its work, then takes along whatever belongs to it.
    fn destroy(&self, driver: &Driver) {
        self.wait();
        self.destroyed.store(true, Ordering::Release);
        let handle = self.handle();
        let owned = |context: Handle| context == handle;
        driver.streams.remove_where(|stream| stream.context == handle);
        driver.events.remove_where(|event| event.context == handle);
        super::module::remove_of_context(driver, handle);
        let mut owners = driver.owners();
        let addresses: Vec<u64> =
            owners.iter().filter(|(_, owner)| owned(owner.context)).map(|(key, _)| *key).collect();
        for address in addresses {
            owners.remove(&address);
            super::mem::release(driver, address);
        }
    }
}

fn check_device(driver: &Driver, device: i32) -> Result<u32, Code> {
    u32::try_from(device)
        .ok()
        .filter(|device| *device < driver.config.devices)
        .ok_or(INVALID_DEVICE)
}

/// The primary context's state of a device.
pub(super) fn primary(driver: &Driver, device: i32) -> Result<&Mutex<Primary>, Code> {
    Ok(&driver.devices[check_device(driver, device)? as usize])
}

fn with_primary<R>(
    device: i32,
    body: impl FnOnce(&'static Driver, &mut Primary) -> Result<R, Code>,
) -> Result<R, Code> {
    let driver = driver()?;
    let mut primary = primary(driver, device)?.lock().unwrap_or_else(PoisonError::into_inner);
    body(driver, &mut primary)
}

fn destroy_primary(driver: &Driver, primary: &mut Primary) {
    if let Ok(context) = driver.contexts.remove(primary.context) {
        context.destroy(driver);
    }
    primary.context = Handle::NULL;
}

entry! {
    fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: i32) {
        context.check()?;
        with_primary(device, |driver, primary| {
            if primary.context.is_null() {
                primary.context = Context::create(driver, device as u32, primary.flags, true).0;
            }
            primary.retained += 1;
            context.set(primary.context)
        })
    }

    fn cuDevicePrimaryCtxRelease_v2(device: i32) {
        with_primary(device, |driver, primary| {
            if primary.retained == 0 {
                return Err(INVALID_CONTEXT);
            }
            primary.retained -= 1;
            if primary.retained == 0 {
                destroy_primary(driver, primary);
            }
            Ok(())
        })
    }

    fn cuDevicePrimaryCtxReset_v2(device: i32) {
        with_primary(device, |driver, primary| {
            let retained = primary.retained;
            destroy_primary(driver, primary);
            // Who has retained it keeps a count, and gets a fresh context by retaining again.
            primary.retained = retained;
            Ok(())
        })
    }

    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) {
        flags.check()?;
        active.check()?;
        with_primary(device, |_, primary| {
            flags.set(primary.flags)?;
            active.set(i32::from(!primary.context.is_null()))
        })
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) {
        with_primary(device, |driver, primary| {
            if flags & !FLAGS != 0 {
                return Err(INVALID_VALUE);
            }
            primary.flags = flags;
            if let Ok(context) = driver.contexts.get(primary.context) {
                context.flags.store(flags, Ordering::Relaxed);
            }
            Ok(())
        })
    }

    fn cuCtxCreate_v4(context: Out<Handle>, parameters: In<u8>, flags: u32, device: i32) {
        let driver = driver()?;
        context.check()?;
        let device = check_device(driver, device)?;
        if flags & !FLAGS != 0 {
            return Err(INVALID_VALUE);
        }
        if !parameters.0.is_null() {
            // Execution affinity and graphics: neither is here.
            return Err(NOT_SUPPORTED);
        }
        let (handle, _) = Context::create(driver, device, flags, false);
        CURRENT.with_borrow_mut(|stack| stack.push(handle));
        context.set(handle)
    }

    fn cuCtxDestroy_v2(context: Handle) {
        let driver = driver()?;
        let found = lookup(driver, context)?;
        if found.primary {
            return Err(INVALID_CONTEXT);
        }
        driver.contexts.remove(context)?;
        found.destroy(driver);
        CURRENT.with_borrow_mut(|stack| {
            if stack.last() == Some(&context) {
                stack.pop();
            }
        });
        Ok(())
    }

    fn cuCtxSetCurrent(context: Handle) {
        let driver = driver()?;
        if !context.is_null() {
            lookup(driver, context)?;
        }
        CURRENT.with_borrow_mut(|stack| {
            stack.pop();
            if !context.is_null() {
                stack.push(context);
            }
        });
        Ok(())
    }

    fn cuCtxGetCurrent(context: Out<Handle>) {
        driver()?;
        context.set(current_handle())
    }

    fn cuCtxPushCurrent_v2(context: Handle) {
        lookup(driver()?, context)?;
        CURRENT.with_borrow_mut(|stack| stack.push(context));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: Out<Handle>) {
        driver()?;
        let popped = CURRENT.with_borrow_mut(Vec::pop).ok_or(INVALID_CONTEXT)?;
        context.offer(popped);
        Ok(())
    }

    fn cuCtxGetDevice(device: Out<i32>) {
        device.set(current_even_failed()?.device as i32)
    }

    fn cuCtxGetDevice_v2(device: Out<i32>, context: Handle) {
        device.set(or_current(context)?.device as i32)
    }

    fn cuCtxSynchronize() {
        let context = current()?;
        context.wait();
        context.check()
    }

    fn cuCtxSynchronize_v2(context: Handle) {
        let context = or_current(context)?;
        context.check()?;
        context.wait();
        context.check()
    }

    fn cuCtxGetApiVersion(context: Handle, version: Out<u32>) {
        or_current(context)?;
        version.set(VERSION as u32)
    }

    fn cuCtxGetFlags(flags: Out<u32>) {
        flags.set(current()?.flags.load(Ordering::Relaxed))
    }

    fn cuCtxSetFlags(flags: u32) {
        let context = current()?;
        if flags & !FLAGS != 0 {
            return Err(INVALID_VALUE);
        }
        context.flags.store(flags, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxGetId(context: Handle, id: Out<u64>) {
        id.set(or_current(context)?.id)
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: u32) {
        let context = current()?;
        value.check()?;
        if limit as usize >= LIMITS {
            return Err(INVALID_VALUE);
        }
        value.set(context.limit(limit as usize))
    }

    fn cuCtxSetLimit(limit: u32, value: usize) {
        let context = current()?;
        match limit as usize {
            limit if limit < SETTABLE_LIMITS => {
                context.limits.lock().unwrap_or_else(PoisonError::into_inner)[limit] = value;
                Ok(())
            }
            limit if limit < LIMITS => Err(UNSUPPORTED_LIMIT),
            _ => Err(INVALID_VALUE),
        }
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        current()?;
        least.offer(super::stream::LEAST_PRIORITY);
        greatest.offer(super::stream::GREATEST_PRIORITY);
        Ok(())
    }

    fn cuCtxGetCacheConfig(config: Out<u32>) {
        config.set(current()?.cache_config.load(Ordering::Relaxed))
    }

    fn cuCtxSetCacheConfig(config: u32) {
        let context = current()?;
        if config > 3 {
            return Err(INVALID_VALUE);
        }
        context.cache_config.store(config, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxGetSharedMemConfig(config: Out<u32>) {
        config.set(current()?.shared_config.load(Ordering::Relaxed))
    }

    fn cuCtxSetSharedMemConfig(config: u32) {
        let context = current()?;
        if config > 2 {
            return Err(INVALID_VALUE);
        }
        context.shared_config.store(config, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxResetPersistingL2Cache() {
        current().map(|_| ())
    }

    /// There is no peer: a device cannot be one of itself.
    fn cuCtxEnablePeerAccess(peer: Handle, flags: u32) {
        current()?;
        lookup(driver()?, peer)?;
        Err(if flags == 0 { INVALID_DEVICE } else { INVALID_VALUE })
    }
}

/// The context of a handle, or the current one for null.
fn or_current(context: Handle) -> Result<Arc<Context>, Code> {
    if context.is_null() { current_even_failed() } else { lookup(driver()?, context) }
}

/// Numbers of objects, in order of creation.
pub(super) fn next_id(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed)
}
