//! Runs under several schedules of the software device: the order of blocks and of warps, and the
//! moment when copies land, change no bit. On a GPU the schedule is nobody's choice; there the
//! comparison is that of several runs.

use softcuda::exec::{CopyMode, Order};
use softcuda::{Schedule, scheduled};

/// What `body` gives, which must be the same under each of these schedules.
#[track_caller]
pub fn in_every_order<T: PartialEq + std::fmt::Debug>(label: &str, body: impl Fn() -> T) -> T {
    let straight = Schedule::default();
    let first = scheduled(straight, &body);
    let others = [
        Schedule { blocks: Order::Descending, ..straight },
        Schedule { warps: Order::Descending, ..straight },
        Schedule { blocks: Order::Descending, warps: Order::Descending, ..straight },
        Schedule { copies: CopyMode::Eager, ..straight },
    ];
    for schedule in others {
        let again = scheduled(schedule, &body);
        assert!(again == first, "{label}: other results under {schedule:?}");
    }
    first
}
