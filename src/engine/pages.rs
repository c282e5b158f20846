//! The pool of key/value pages and who holds them.
//!
//! Pages of a request are reserved whole when it is admitted, lowest free page first, and come back
//! together when it ends: an answer never runs out of memory half-way.

use std::collections::BTreeSet;

use super::EngineError;
use crate::units::{PageId, Pages};

/// Free pages of the pool, lowest first.
#[derive(Debug)]
pub(crate) struct PagePool {
    free: BTreeSet<PageId>,
    total: Pages,
}

impl PagePool {
    /// A pool of pages `0..total`, all free.
    pub(crate) fn new(total: u32) -> Self {
        let free: BTreeSet<PageId> = (0..total).map(PageId).collect();
        let total = Pages(free.len());
        Self { free, total }
    }

    /// Pages nobody holds.
    pub(crate) fn free(&self) -> Pages {
        Pages(self.free.len())
    }

    /// All pages.
    pub(crate) fn total(&self) -> Pages {
        self.total
    }

    /// Takes `wanted` pages, lowest first.
    ///
    /// # Errors
    /// [`EngineError::PagesExhausted`]; the pool then keeps what it had.
    pub(crate) fn take(&mut self, wanted: Pages) -> Result<Vec<PageId>, EngineError> {
        if wanted.0 > self.free.len() {
            return Err(EngineError::PagesExhausted { wanted, free: self.free() });
        }
        let taken: Vec<PageId> = self.free.iter().copied().take(wanted.0).collect();
        for page in &taken {
            self.free.remove(page);
        }
        Ok(taken)
    }

    /// Takes back what [`PagePool::take`] gave.
    pub(crate) fn give_back(&mut self, pages: Vec<PageId>) {
        for page in pages {
            let fresh = self.free.insert(page);
            assert!(fresh && self.free.len() <= self.total.0, "page {page:?} was given back twice");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_lowest_first_and_come_back() {
        let mut pool = PagePool::new(4);
        let first = pool.take(Pages(2)).unwrap();
        assert_eq!(first, [PageId(0), PageId(1)]);
        let second = pool.take(Pages(1)).unwrap();
        pool.give_back(first);
        assert_eq!(pool.take(Pages(3)).unwrap(), [PageId(0), PageId(1), PageId(3)]);
        assert_eq!(second, [PageId(2)]);
        assert_eq!((pool.free(), pool.total()), (Pages(0), Pages(4)));
    }

    #[test]
    fn a_pool_that_is_too_small_keeps_what_it_has() {
        let mut pool = PagePool::new(2);
        let error = pool.take(Pages(3)).unwrap_err();
        assert!(matches!(error, EngineError::PagesExhausted { wanted: Pages(3), free: Pages(2) }));
        assert_eq!(pool.free(), Pages(2));
    }

    #[test]
    #[should_panic(expected = "given back twice")]
    fn a_page_given_back_twice_is_a_bug() {
        let mut pool = PagePool::new(2);
        let pages = pool.take(Pages(1)).unwrap();
        pool.give_back(pages.clone());
        pool.give_back(pages);
    }
}
