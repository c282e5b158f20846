//! What `ptxas -v` says about each entry point: registers, spills, stack, shared memory.

pub(crate) struct Figures {
    pub kernel: String,
    /// "sm_80"
    pub architecture: String,
    pub registers: u32,
    pub stack: u32,
    pub spill_stores: u32,
    pub spill_loads: u32,
    /// Static shared memory in bytes.
    pub shared: u32,
}

/// Reads nvcc's standard error; lines that say something else are passed over.
pub(crate) fn parse(text: &str) -> Vec<Figures> {
    let mut found: Vec<Figures> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let mut quoted = rest.split('\'');
            let kernel = quoted.next().unwrap_or_default().to_owned();
            let architecture = quoted.nth(1).unwrap_or_default().to_owned();
            found.push(Figures {
                kernel,
                architecture,
                registers: 0,
                stack: 0,
                spill_stores: 0,
                spill_loads: 0,
                shared: 0,
            });
        }
        let Some(last) = found.last_mut() else { continue };
        if line.contains("bytes stack frame") {
            last.stack = before(line, "bytes stack frame");
            last.spill_stores = before(line, "bytes spill stores");
            last.spill_loads = before(line, "bytes spill loads");
        } else if line.contains("Used ") && line.contains("registers") {
            last.registers = before(line, "registers");
            last.shared = before(line, "bytes smem");
        }
    }
    found
}

/// The number that stands right before `unit`; 0 if the unit is not there.
fn before(line: &str, unit: &str) -> u32 {
    let number = line.split(unit).next().filter(|head| head.len() < line.len());
    number.and_then(|head| head.split_whitespace().last()?.parse().ok()).unwrap_or(0)
}
