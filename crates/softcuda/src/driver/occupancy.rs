//! Occupancy: how many blocks of a kernel a multiprocessor holds.

use super::error::{Code, INVALID_VALUE};
use super::function::find;
use super::handle::Handle;
use super::launch::LaunchConfig;
use super::state::driver;
use super::{In, Out, Status, entry};
use crate::profile::{MAX_THREADS_PER_BLOCK, SHARED_RESERVED, WARP};

/// `CUoccupancyB2DSize`.
type SharedOfBlock = Option<unsafe extern "C" fn(i32) -> usize>;

/// Blocks of `threads` threads and `dynamic` bytes that fit on one multiprocessor.
fn active_blocks(function: Handle, threads: i32, dynamic: usize) -> Result<u32, Code> {
    let driver = driver()?;
    let function = find(function)?;
    let needs = function.needs(driver)?;
    let threads =
        u32::try_from(threads).ok().filter(|threads| *threads > 0).ok_or(INVALID_VALUE)?;
    let profile = driver.config.profile;
    let shared = dynamic.saturating_add(needs.static_shared as usize);
    if threads > needs.max_threads || shared > profile.shared_per_block_optin as usize {
        return Ok(0);
    }
    Ok(profile.occupancy(threads, needs.registers, shared as u32))
}

/// The block size with the most active threads, the largest of equals.
fn best_block(
    blocks: &Out<i32>,
    threads: &Out<i32>,
    function: Handle,
    shared: impl Fn(i32) -> usize,
    limit: i32,
) -> Status {
    blocks.check()?;
    threads.check()?;
    let driver = driver()?;
    let most = find(function)?.needs(driver)?.max_threads.min(MAX_THREADS_PER_BLOCK) as i32;
    let most = match limit {
        0 => most,
        limit if limit > 0 => most.min(limit),
        _ => return Err(INVALID_VALUE),
    };
    let mut best = (0, 0, 0);
    let whole_warps = (1..=most / WARP as i32).map(|warps| warps * WARP as i32);
    let sizes = whole_warps.chain((most % WARP as i32 != 0).then_some(most));
    for size in sizes {
        let active = active_blocks(function, size, shared(size))? as i32;
        best = best.max((active * size, size, active));
    }
    let (_, size, active) = best;
    threads.set(size)?;
    blocks.set(active * driver.config.profile.processors as i32)
}

fn shared_of(callback: SharedOfBlock, fixed: usize) -> impl Fn(i32) -> usize {
    move |threads| match callback {
        // SAFETY: the C caller promises that the function may be called with a block size.
        Some(callback) => unsafe { callback(threads) },
        None => fixed,
    }
}

entry! {
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: Out<i32>,
        function: Handle,
        threads: i32,
        dynamic: usize,
    ) {
        blocks.check()?;
        blocks.set(active_blocks(function, threads, dynamic)? as i32)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<i32>,
        function: Handle,
        threads: i32,
        dynamic: usize,
        flags: u32,
    ) {
        blocks.check()?;
        if flags > 1 {
            return Err(INVALID_VALUE);
        }
        blocks.set(active_blocks(function, threads, dynamic)? as i32)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        blocks: Out<i32>,
        threads: Out<i32>,
        function: Handle,
        callback: SharedOfBlock,
        dynamic: usize,
        limit: i32,
    ) {
        best_block(&blocks, &threads, function, shared_of(callback, dynamic), limit)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        blocks: Out<i32>,
        threads: Out<i32>,
        function: Handle,
        callback: SharedOfBlock,
        dynamic: usize,
        limit: i32,
        flags: u32,
    ) {
        if flags > 1 {
            return Err(INVALID_VALUE);
        }
        best_block(&blocks, &threads, function, shared_of(callback, dynamic), limit)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(
        bytes: Out<usize>,
        function: Handle,
        blocks: i32,
        threads: i32,
    ) {
        bytes.check()?;
        let driver = driver()?;
        let blocks = u32::try_from(blocks).ok().filter(|blocks| *blocks > 0).ok_or(INVALID_VALUE)?;
        if active_blocks(function, threads, 0)? < blocks {
            return Err(INVALID_VALUE);
        }
        let profile = driver.config.profile;
        let used = find(function)?.needs(driver)?.static_shared + SHARED_RESERVED;
        let share = profile.shared_per_processor / blocks / 128 * 128;
        let most = profile.shared_per_block_optin + SHARED_RESERVED;
        bytes.set(share.min(most).saturating_sub(used) as usize)
    }

    fn cuOccupancyMaxActiveClusters(clusters: Out<i32>, function: Handle, config: In<LaunchConfig>) {
        clusters.check()?;
        let driver = driver()?;
        let (dynamic, threads) = config.get()?.shared_and_threads();
        let blocks = active_blocks(function, threads as i32, dynamic as usize)?;
        // Clusters here have one block.
        clusters.set((blocks * driver.config.profile.processors) as i32)
    }

    fn cuOccupancyMaxPotentialClusterSize(
        size: Out<i32>,
        function: Handle,
        config: In<LaunchConfig>,
    ) {
        size.check()?;
        find(function)?;
        config.get()?;
        size.set(1)
    }
}
