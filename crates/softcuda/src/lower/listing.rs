//! The ops of a kernel as text.

use std::fmt::Write as _;
use std::sync::Arc;

use super::emit::{Emit, Slot, VOp};
use super::{Code, Env, Prepared, prepare};
use crate::fault::LoadError;
use crate::ptx::ast::Module;

/// Lists the ops of a kernel, before registers are given out: the preamble, then the blocks in the
/// order of their layout. Values are `v`, with the part of wide ones, predicates `p`, constants
/// their bits.
///
/// # Errors
/// As [`super::lower`].
pub fn list(module: &Arc<Module>, name: &str, env: &Env) -> Result<String, LoadError> {
    let Prepared { cx, code, preamble, sites, .. } = prepare(module, name, env, env.plain)?;
    let mut out = String::new();
    if !preamble.is_empty() {
        out.push_str("preamble\n");
        ops(&mut out, &cx, &preamble, &|site| sites.get(site).map_or(0, |s| s.line));
    }
    for (at, block) in code.iter().enumerate() {
        let Code { ops: list, next } = block;
        let next: Vec<String> = next.iter().map(ToString::to_string).collect();
        // Writing to a string does not fail.
        let _ = writeln!(out, "block {at}, then {}", next.join(" or "));
        ops(&mut out, &cx, list, &|site| sites.get(site).map_or(0, |s| s.line));
    }
    Ok(out)
}

fn ops(out: &mut String, cx: &Emit, list: &[VOp], line: &dyn Fn(usize) -> u32) {
    for op in list {
        let _ = write!(out, "{:6}  {}", line(op.site as usize), short(op));
        for slot in &op.slots {
            let _ = match slot {
                Slot::None => Ok(()),
                Slot::Raw(n) => write!(out, " #{n}"),
                Slot::Use(v) => match cx.constants.iter().find(|(_, c)| c.id == v.id) {
                    Some(((bits, _), _)) => write!(out, " {:#x}", bits >> (32 * v.part)),
                    None => write!(out, " v{}.{}", v.id, v.part),
                },
                Slot::Def(v) => write!(out, " =v{}.{}", v.id, v.part),
                Slot::UseMask(m) => write!(out, " p{}", m.0),
                Slot::DefMask(m) => write!(out, " =p{}", m.0),
            };
        }
        if op.imm != 0 {
            let _ = write!(out, " imm {:#x}", op.imm);
        }
        out.push_str(if op.guarded { " (guarded)\n" } else { "\n" });
    }
}

/// The name of an op's body without paths.
fn short(op: &VOp) -> String {
    let mut text = String::new();
    for part in op.name.split_inclusive(['<', '>', ',', ' ']) {
        text.push_str(part.rsplit("::").next().unwrap_or(part));
    }
    text
}
