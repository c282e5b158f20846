//! What the device tells the outside besides result codes: faults, load errors, launches.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use serde_json::json;

use crate::config::{ReportSink, Schedule};
use crate::fault::{Fault, LoadError};

static LAST_FAULT: Mutex<Option<Fault>> = Mutex::new(None);
static LAST_REPORT: Mutex<Option<String>> = Mutex::new(None);

/// The last fault of a kernel in this process.
#[must_use]
pub fn last_fault() -> Option<Fault> {
    LAST_FAULT.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The text of the last report of this process: of a fault, or of a module or function that cannot
/// be loaded.
#[must_use]
pub fn last_report() -> Option<String> {
    LAST_REPORT.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Keeps a fault for [`last_fault`] and reports it.
pub(crate) fn fault(sink: &ReportSink, number: u64, fault: Fault) {
    emit(sink, format!("{fault}\n  launch {number}"), || {
        let Fault { code, kernel, ptx_line, ptx_text, block, grid, warp, lanes, thread, .. } =
            &fault;
        let source = fault.loc.as_ref().map(ToString::to_string);
        json!({
            "event": "fault", "code": code, "kind": format!("{:?}", fault.kind), "kernel": kernel,
            "source": source, "ptx_line": ptx_line, "ptx_text": ptx_text, "block": block, "grid": grid,
            "warp": warp, "lanes": lanes, "thread": thread, "detail": fault.detail, "launch": number,
        })
    });
    *LAST_FAULT.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
}

/// Reports a module or function that cannot be loaded.
pub(crate) fn load_error(sink: &ReportSink, error: &LoadError) {
    emit(sink, error.to_string(), || {
        let LoadError { code, function, line, message } = error;
        json!({
            "event": "load_error", "code": code, "function": function, "line": line, "message": message,
        })
    });
}

fn emit(sink: &ReportSink, text: String, json: impl FnOnce() -> serde_json::Value) {
    match sink {
        ReportSink::None => {}
        ReportSink::Stderr => eprintln!("{text}"),
        ReportSink::Json(path) => {
            let line = format!("{}\n", json());
            let file = OpenOptions::new().append(true).create(true).open(path);
            if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
                eprintln!("softcuda: {}: {error}\n{text}", path.display());
            }
        }
    }
    *LAST_REPORT.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
}

/// A launch that was queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchRecord {
    /// In order of launches of the process, from 1.
    pub number: u64,
    /// The kernel's symbol.
    pub kernel: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared_bytes: u32,
}

/// The line of `SOFTCUDA_LOG=launch`.
impl fmt::Display for LaunchRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, kernel, grid: [gx, gy, gz], block: [bx, by, bz], shared_bytes } = self;
        write!(
            f,
            "softcuda launch {number} {kernel} grid ({gx},{gy},{gz}) block ({bx},{by},{bz}) shared {shared_bytes}"
        )
    }
}

thread_local! {
    static SCHEDULE: Cell<Option<Schedule>> = const { Cell::new(None) };
    static RECORDS: RefCell<Option<Vec<LaunchRecord>>> = const { RefCell::new(None) };
}

/// Launches that this thread makes inside `body` use `schedule`.
pub fn scheduled<R>(schedule: Schedule, body: impl FnOnce() -> R) -> R {
    struct Restore(Option<Schedule>);
    impl Drop for Restore {
        fn drop(&mut self) {
            SCHEDULE.set(self.0);
        }
    }
    let _restore = Restore(SCHEDULE.replace(Some(schedule)));
    body()
}

/// The schedule of [`scheduled`] on this thread.
pub(crate) fn thread_schedule() -> Option<Schedule> {
    SCHEDULE.get()
}

/// Runs `body` and returns the launches that this thread made inside. Not to be nested.
pub fn launches<R>(body: impl FnOnce() -> R) -> (R, Vec<LaunchRecord>) {
    RECORDS.set(Some(Vec::new()));
    let result = body();
    (result, RECORDS.take().unwrap_or_default())
}

/// Notes a launch for [`launches`] and the log.
pub(crate) fn launch(log: bool, record: impl FnOnce() -> LaunchRecord) {
    RECORDS.with_borrow_mut(|records| {
        if !log && records.is_none() {
            return;
        }
        let record = record();
        if log {
            eprintln!("{record}");
        }
        if let Some(records) = records {
            records.push(record);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> LaunchRecord {
        LaunchRecord {
            number: 3,
            kernel: "gemm_bf16".to_owned(),
            grid: [24, 1, 1],
            block: [256, 1, 1],
            shared_bytes: 49_152,
        }
    }

    #[test]
    fn line_of_a_launch_is_stable() {
        let line = "softcuda launch 3 gemm_bf16 grid (24,1,1) block (256,1,1) shared 49152";
        assert_eq!(record().to_string(), line);
    }

    #[test]
    fn launches_are_recorded_inside_alone() {
        launch(false, record);
        let ((), records) = launches(|| launch(false, record));
        assert_eq!(records, [record()]);
        launch(false, record);
        let ((), records) = launches(|| ());
        assert_eq!(records, []);
    }

    #[test]
    fn schedule_is_restored_after_a_panic() {
        let schedule = Schedule { blocks: crate::exec::Order::Descending, ..Schedule::default() };
        let panicked = std::panic::catch_unwind(|| {
            scheduled(schedule, || {
                assert_eq!(thread_schedule(), Some(schedule));
                panic!("inside");
            })
        });
        assert!(panicked.is_err());
        assert_eq!(thread_schedule(), None);
    }

    #[test]
    fn faults_are_appended_as_json() {
        let path = std::env::temp_dir().join(format!("softcuda-report-{}", std::process::id()));
        let sink = ReportSink::Json(path.clone());
        for number in 1..3 {
            fault(&sink, number, Fault::host(crate::fault::FaultKind::Trap, "why"));
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[1]["code"].as_u64(), lines[1]["launch"].as_u64()), (Some(719), Some(2)));
        assert_eq!(last_fault().map(|fault| fault.detail), Some("why".to_owned()));
    }
}
