//! Figures, their goals, and how they are shown.

use serde::Serialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// One row of the budget.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// What it was measured beside; for absolute figures, nothing.
    pub(crate) peer: String,
    pub(crate) goal: f64,
    pub(crate) better: Better,
    pub(crate) holds: bool,
}

/// All rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Vec<Figure>);

impl Figures {
    /// Adds a row.
    pub(crate) fn add(
        &mut self,
        name: &'static str,
        value: f64,
        unit: &'static str,
        peer: impl Into<String>,
        goal: f64,
        better: Better,
    ) {
        let holds = match better {
            Better::Higher => value >= goal,
            Better::Lower => value <= goal,
        };
        let row = Figure { name, value, unit, peer: peer.into(), goal, better, holds };
        let verdict = if holds { "holds" } else { "FALLS SHORT" };
        crate::say(&format!("  {name}: {value:.3} {unit} — {verdict} ({})", row.peer));
        self.0.push(row);
    }

    /// The rows as a table.
    pub(crate) fn table(&self) -> String {
        let mut out = String::from("\n");
        let width = self.0.iter().map(|f| f.name.len()).max().unwrap_or(0);
        let _ = writeln!(
            out,
            "{:width$}  {:>12}  {:6}  {:>12}  {:11}  BESIDE",
            "FIGURE", "VALUE", "UNIT", "GOAL", "VERDICT"
        );
        for f in &self.0 {
            let sign = if f.better == Better::Higher { "≥" } else { "≤" };
            let verdict = if f.holds { "holds" } else { "FALLS SHORT" };
            let _ = writeln!(
                out,
                "{:width$}  {:>12}  {:6}  {:>12}  {verdict:11}  {}",
                f.name,
                number(f.value),
                f.unit,
                format!("{sign} {}", number(f.goal)),
                f.peer,
            );
        }
        let short = self.0.iter().filter(|f| !f.holds).count();
        let _ = writeln!(out, "\n{} figures, {short} fall short.", self.0.len());
        out
    }

    /// Writes a file of the folder.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> std::io::Result<PathBuf> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(name);
        let text = serde_json::to_string_pretty(&self.0).map_err(std::io::Error::other)?;
        std::fs::write(&path, text + "\n")?;
        Ok(path)
    }
}

/// Takes away what an earlier run wrote: a run that stops half-way would pass for that one.
pub(crate) fn forget(folder: &Path, name: &str) -> std::io::Result<()> {
    match std::fs::remove_file(folder.join(name)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn number(value: f64) -> String {
    if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn figures_of_an_earlier_run_are_gone_before_this_one_measures() {
        let folder = tempfile::tempdir().unwrap();
        let name = "summary.json";
        forget(folder.path(), name).unwrap();
        let mut figures = Figures::default();
        figures.add("speed", 0.5, "x", "a peer", 1.0, Better::Higher);
        let path = figures.write(folder.path(), name).unwrap();
        let read = |path: &Path| -> serde_json::Value {
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
        };
        assert_eq!(read(&path)[0]["holds"], false);
        forget(folder.path(), name).unwrap();
        assert!(!path.exists());
    }
}
