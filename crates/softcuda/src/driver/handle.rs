//! Handles: numbers that are looked up, never followed.

use std::sync::{Arc, PoisonError, RwLock};

use super::error::{Code, INVALID_HANDLE};

/// What C code holds: kind in bits 56 to 63, generation in 32 to 55, index below. Null is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub(crate) struct Handle(pub(crate) u64);

impl Handle {
    pub(crate) const NULL: Handle = Handle(0);

    pub(crate) fn is_null(self) -> bool {
        self == Self::NULL
    }

    fn new(kind: u8, generation: u32, index: usize) -> Self {
        Self(u64::from(kind) << 56 | u64::from(generation & 0xff_ffff) << 32 | index as u64)
    }

    fn kind(self) -> u8 {
        (self.0 >> 56) as u8
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & 0xff_ffff
    }

    fn index(self) -> usize {
        self.0 as u32 as usize
    }
}

struct Slot<T> {
    generation: u32,
    value: Option<Arc<T>>,
}

/// All objects of one kind.
pub(crate) struct Slab<T> {
    kind: u8,
    slots: RwLock<Vec<Slot<T>>>,
}

/// Why there is no object behind a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Never was a handle of this kind.
    Foreign,
    /// Was one; the object is gone.
    Stale,
}

impl From<Missing> for Code {
    fn from(_: Missing) -> Code {
        INVALID_HANDLE
    }
}

impl<T> Slab<T> {
    pub(crate) fn new(kind: u8) -> Self {
        Self { kind, slots: RwLock::new(Vec::new()) }
    }

    pub(crate) fn insert(&self, value: Arc<T>) -> Handle {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let index = match slots.iter().position(|slot| slot.value.is_none()) {
            Some(index) => index,
            None => {
                slots.push(Slot { generation: 0, value: None });
                slots.len() - 1
            }
        };
        let slot = &mut slots[index];
        slot.generation += 1;
        slot.value = Some(value);
        Handle::new(self.kind, slot.generation, index)
    }

    pub(crate) fn get(&self, handle: Handle) -> Result<Arc<T>, Missing> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.get(handle.index()).filter(|_| handle.kind() == self.kind);
        let slot = slot.ok_or(Missing::Foreign)?;
        if slot.generation & 0xff_ffff != handle.generation() {
            return Err(Missing::Stale);
        }
        slot.value.clone().ok_or(Missing::Stale)
    }

    pub(crate) fn remove(&self, handle: Handle) -> Result<Arc<T>, Missing> {
        let value = self.get(handle)?;
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots[handle.index()].value.take();
        Ok(value)
    }

    /// Removes every object for which `gone` holds, and returns them.
    pub(crate) fn remove_where(&self, gone: impl Fn(&T) -> bool) -> Vec<Arc<T>> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.iter_mut().filter_map(|slot| slot.value.take_if(|value| gone(value))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_and_foreign_handles_are_told_apart() {
        let slab = Slab::new(3);
        let other = Slab::new(4);
        let first = slab.insert(Arc::new("first"));
        let foreign = other.insert(Arc::new("other"));
        assert_eq!(slab.get(first).as_deref(), Ok(&"first"));
        assert_eq!(slab.get(foreign), Err(Missing::Foreign));
        assert_eq!(slab.get(Handle::NULL), Err(Missing::Foreign));
        assert_eq!(slab.get(Handle(0x7fff_1234_5678)), Err(Missing::Foreign));
        assert!(slab.remove(first).is_ok());
        assert_eq!(slab.get(first), Err(Missing::Stale));
        assert_eq!(slab.remove(first), Err(Missing::Stale));
        let second = slab.insert(Arc::new("second"));
        assert_ne!(first, second, "the place is used again, the handle is not");
        assert_eq!(slab.get(first), Err(Missing::Stale));
    }
}
