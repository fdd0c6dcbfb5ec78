//! One table in, three renderings out.

use serde::Deserialize;
use std::collections::BTreeSet;
use std::fmt::Write as _;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reason {
    number: u32,
    name: String,
    what: String,
    #[serde(rename = "do")]
    action: String,
    #[serde(default)]
    retired: bool,
}

#[derive(Deserialize)]
struct Table {
    reason: Vec<Reason>,
}

pub(crate) fn read(text: &str) -> Result<Vec<Reason>, String> {
    let table: Table = toml::from_str(text).map_err(|e| format!("drop_reasons.toml: {e}"))?;
    let mut names = BTreeSet::new();
    // Gaps are numbers that work in progress has taken.
    let mut last = 0;
    for reason in &table.reason {
        if reason.number <= last {
            return Err(format!("drop_reasons.toml: {} must be above {last}", reason.name));
        }
        last = reason.number;
        if !names.insert(&reason.name) {
            return Err(format!("drop_reasons.toml: {} appears twice", reason.name));
        }
    }
    Ok(table.reason)
}

fn camel(name: &str) -> String {
    name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

pub(crate) fn c_header(table: &[Reason]) -> String {
    let mut text =
        String::from("/* Generated from drop_reasons.toml. */\n#pragma once\nenum drop_reason {\n");
    for r in table.iter().filter(|r| !r.retired) {
        let _ = writeln!(text, "\tDROP_{} = {}, /* {} */", r.name.to_uppercase(), r.number, r.what);
    }
    let _ =
        writeln!(text, "\tDROP_REASONS = {},\n}};", table.last().map_or(1, |last| last.number + 1));
    text
}

pub(crate) fn rust_enum(table: &[Reason]) -> String {
    let live = || table.iter().filter(|r| !r.retired);
    let mut text = String::from(
        "/// Why a packet was dropped. Generated from `vrouter/bpf/drop_reasons.toml`.\n\
         #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]\n#[repr(u32)]\n#[non_exhaustive]\n\
         pub enum DropReason {\n",
    );
    for r in live() {
        let _ = writeln!(text, "    /// {}\n    {} = {},", r.what, camel(&r.name), r.number);
    }
    text += "}\n\nimpl DropReason {\n    /// Every reason, by number.\n    pub const ALL: &'static [Self] = &[\n";
    for r in live() {
        let _ = writeln!(text, "        Self::{},", camel(&r.name));
    }
    text += "    ];\n\n    /// The reason with this number.\n    #[must_use]\n    pub fn from_number(number: u32) -> Option<Self> {\n        match number {\n";
    for r in live() {
        let _ = writeln!(text, "            {} => Some(Self::{}),", r.number, camel(&r.name));
    }
    text += "            _ => None,\n        }\n    }\n";
    for (function, doc, field) in [
        ("name", "Its name in metrics and on screens.", 0),
        ("what", "What happened.", 1),
        ("action", "What a person can do.", 2),
    ] {
        let _ = writeln!(
            text,
            "\n    /// {doc}\n    #[must_use]\n    pub fn {function}(self) -> &'static str {{\n        match self {{"
        );
        for r in live() {
            let value = [&r.name, &r.what, &r.action][field];
            let _ = writeln!(text, "            Self::{} => {value:?},", camel(&r.name));
        }
        text += "        }\n    }\n";
    }
    text += "}\n";
    text
}

pub(crate) fn markdown(table: &[Reason]) -> String {
    let mut text = String::from(
        "# Why packets are dropped\n\n\
         Every packet the vRouter drops is counted under one of these reasons, per node and per port: `skein vrouter\n\
         drops`, and the label `reason` of the metric `skein_vrouter_drops_total`. Generated from\n\
         `vrouter/bpf/drop_reasons.toml`; numbers are never reused.\n\n\
         | # | Reason | What happened | What to do |\n|---|---|---|---|\n",
    );
    for r in table {
        let note = if r.retired { " (no longer used)" } else { "" };
        let _ = writeln!(text, "| {} | `{}`{note} | {} | {} |", r.number, r.name, r.what, r.action);
    }
    text
}
