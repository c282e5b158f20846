//! Windows of the tower of Qwen2.5-VL (docs/spec.md, section 16.2): which rows stand together.
//!
//! Each frame of merged patches is cut into windows from its top left corner; those at the right and
//! bottom edge are smaller. Rows go window by window, so that the rows of a window, and those of a
//! frame, are neighbours:
//!
//! ```text
//! merged grid 5 x 6, windows of 4 x 4      order of its 30 rows
//!   0  1  2  3 |  4  5                       0 1 2 3 6 7 8 9 12 13 14 15 18 19 20 21
//!   6  7  8  9 | 10 11                       4 5 10 11 16 17 22 23
//!  12 13 14 15 | 16 17                       24 25 26 27
//!  18 19 20 21 | 22 23                       28 29
//!  ------------+------
//!  24 25 26 27 | 28 29
//! ```

use super::positions::PositionError;
use crate::units::GridThw;

/// The order in which the blocks of a tower see merged rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowOrder {
    /// The merged row at each place.
    pub rows: Vec<i32>,
    /// The place of each merged row.
    pub places: Vec<i32>,
    /// First place of each window, then the number of rows.
    pub starts: Vec<i32>,
}

impl WindowOrder {
    /// For windows of `window` x `window` merged rows; `merge` divides the sides of `grids`.
    ///
    /// # Errors
    /// [`PositionError::TooLong`] for more rows than 31 bits count.
    pub fn new(grids: &[GridThw], merge: usize, window: usize) -> Result<Self, PositionError> {
        let mut order = Self { starts: vec![0], ..Self::default() };
        let mut first = 0usize;
        for grid in grids {
            let (h, w) = (grid.h / merge, grid.w / merge);
            for _frame in 0..grid.t {
                for top in (0..h).step_by(window) {
                    for left in (0..w).step_by(window) {
                        for row in top..h.min(top.saturating_add(window)) {
                            let columns = left..w.min(left.saturating_add(window));
                            for column in columns {
                                order.rows.push(narrow(first + row * w + column)?);
                            }
                        }
                        order.starts.push(narrow(order.rows.len())?);
                    }
                }
                first += h * w;
            }
        }
        order.places = vec![0; order.rows.len()];
        for (place, row) in (0..).zip(&order.rows) {
            if let Some(slot) = usize::try_from(*row).ok().and_then(|row| order.places.get_mut(row))
            {
                *slot = place;
            }
        }
        Ok(order)
    }

    /// First patch row of each window, then the number of patch rows, for `patches` of them in a
    /// merged row.
    ///
    /// # Errors
    /// [`PositionError::TooLong`].
    pub fn patch_starts(&self, patches: usize) -> Result<Vec<i32>, PositionError> {
        let patches = narrow(patches)?;
        let len = self.rows.len();
        let scaled = self.starts.iter().map(|start| start.checked_mul(patches));
        scaled.collect::<Option<_>>().ok_or(PositionError::TooLong { len })
    }

    /// `values`, of which each merged row has `patches`, in this order.
    pub fn apply<T: Copy>(&self, values: &[T], patches: usize) -> Vec<T> {
        let of = |row: &i32| {
            let start = usize::try_from(*row).unwrap_or(usize::MAX).saturating_mul(patches);
            values.get(start..start.saturating_add(patches)).unwrap_or_default()
        };
        self.rows.iter().flat_map(of).copied().collect()
    }
}

fn narrow(count: usize) -> Result<i32, PositionError> {
    i32::try_from(count).map_err(|_too_large| PositionError::TooLong { len: count })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/spec.md, section 16.2.
    #[test]
    fn the_reference_tables_are_met() {
        let order = |t, h, w| WindowOrder::new(&[GridThw { t, h, w }], 2, 4).unwrap();
        let small = order(1, 4, 6);
        assert_eq!(small.rows, (0..6).collect::<Vec<_>>());
        assert_eq!(small.patch_starts(4).unwrap(), [0, 24]);
        let whole = order(1, 8, 8);
        assert_eq!(whole.rows, (0..16).collect::<Vec<_>>());
        assert_eq!(whole.patch_starts(4).unwrap(), [0, 64]);
        let frames = order(2, 10, 12);
        let first = [
            0, 1, 2, 3, 6, 7, 8, 9, 12, 13, 14, 15, 18, 19, 20, 21, 4, 5, 10, 11, 16, 17, 22, 23,
            24, 25, 26, 27, 28, 29,
        ];
        assert_eq!(frames.rows[..30], first);
        assert_eq!(frames.rows[30..], first.map(|row| row + 30));
        let starts = [0, 64, 96, 112, 120, 184, 216, 232, 240];
        assert_eq!(frames.patch_starts(4).unwrap(), starts);
    }

    #[test]
    fn places_undo_the_order() {
        let grids = [GridThw { t: 1, h: 6, w: 14 }, GridThw { t: 3, h: 2, w: 10 }];
        let order = WindowOrder::new(&grids, 2, 2).unwrap();
        let values: Vec<usize> = (0..4 * order.rows.len()).collect();
        let moved = order.apply(&values, 4);
        for (row, place) in order.places.iter().enumerate() {
            let place = usize::try_from(*place).unwrap();
            assert_eq!(moved[4 * place..4 * place + 4], values[4 * row..4 * row + 4]);
        }
    }
}
