//! Host memory that kernels may access: cuMemHostAlloc, cuMemHostRegister, cuMemAllocManaged.

use super::arena::Mapping;

/// How a region came to be, which decides what may free it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinnedKind {
    /// cuMemHostAlloc, cuMemAllocHost.
    Allocated,
    /// cuMemHostRegister: the memory is the caller's.
    Registered,
    /// cuMemAllocManaged.
    Managed,
}

/// What is known of one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinnedRegion {
    /// First host address, also the device address.
    pub start: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Who owns it.
    pub kind: PinnedKind,
    /// The flags it was made with.
    pub flags: u32,
}

impl PinnedRegion {
    fn holds(&self, address: u64, size: u64) -> bool {
        address >= self.start
            && address - self.start < self.bytes
            && size <= self.bytes - (address - self.start)
    }
}

struct Entry {
    region: PinnedRegion,
    /// The memory, where it is ours; given back when the entry goes.
    _mapping: Option<Mapping>,
}

/// The regions in order of address; they never overlap.
#[derive(Default)]
pub(super) struct Pinned {
    entries: Vec<Entry>,
}

impl Pinned {
    pub(super) fn allocate(&mut self, bytes: u64, kind: PinnedKind, flags: u32) -> Option<u64> {
        let length = bytes.checked_next_multiple_of(4096)?;
        let mapping = Mapping::reserve(length as usize).ok()?;
        let start = mapping.base() as u64;
        self.insert(PinnedRegion { start, bytes, kind, flags }, Some(mapping));
        Some(start)
    }

    /// False if the region overlaps one that is there.
    pub(super) fn register(&mut self, start: u64, bytes: u64, flags: u32) -> bool {
        let Some(end) = start.checked_add(bytes) else { return false };
        let overlaps = |entry: &Entry| {
            start < entry.region.start + entry.region.bytes && entry.region.start < end
        };
        if self.entries.iter().any(overlaps) {
            return false;
        }
        let kind = PinnedKind::Registered;
        self.insert(PinnedRegion { start, bytes, kind, flags }, None);
        true
    }

    /// Removes the region that begins at `start` if its kind is `kind`.
    pub(super) fn remove(&mut self, start: u64, kind: PinnedKind) -> bool {
        match self.entries.binary_search_by_key(&start, |entry| entry.region.start) {
            Ok(index) if self.entries[index].region.kind == kind => {
                self.entries.remove(index);
                true
            }
            _ => false,
        }
    }

    /// The region that holds all of `[address, address + size)`.
    pub(super) fn find(&self, address: u64, size: u64) -> Option<PinnedRegion> {
        let index = self.entries.partition_point(|entry| entry.region.start <= address);
        let region = self.entries[..index].last()?.region;
        region.holds(address, size.max(1)).then_some(region)
    }

    /// The region nearest to `address`.
    pub(super) fn nearest(&self, address: u64) -> Option<PinnedRegion> {
        let distance = |region: &PinnedRegion| {
            let end = region.start + region.bytes;
            if address < region.start {
                region.start - address
            } else {
                (address + 1).saturating_sub(end)
            }
        };
        self.entries.iter().map(|entry| entry.region).min_by_key(distance)
    }

    fn insert(&mut self, region: PinnedRegion, mapping: Option<Mapping>) {
        let index = self.entries.partition_point(|entry| entry.region.start < region.start);
        self.entries.insert(index, Entry { region, _mapping: mapping });
    }
}
