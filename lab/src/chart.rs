//! Renders the Helm chart, so that the plain manifest is the same thing and neither needs Helm to be tested.
//!
//! The chart keeps to a part of Helm's language: values, `quote`, `toYaml ... | nindent N`, `.Files.Get`, and lines
//! that are `{{- if VALUE }}`, `{{- else }}` and `{{- end }}`. Whatever else stands in a template is an error here.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Templates in the order in which their objects must come.
const ORDER: [&str; 6] = [
    "rights.yaml",
    "kubernetes.yaml",
    "controller.yaml",
    "agent.yaml",
    "kube-manager.yaml",
    "loadbalancer.yaml",
];

/// Why a chart is not rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A template or the values hold something that is not understood.
    #[error("{path}, line {line}: {reason}")]
    Template {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

fn read(path: &Path) -> Result<String, ChartError> {
    fs::read_to_string(path).map_err(|source| ChartError::File { path: path.to_owned(), source })
}

/// The values of a chart, as its `values.yaml` has them.
///
/// # Errors
/// The file cannot be read or is no YAML.
pub fn values(chart: &Path) -> Result<Value, ChartError> {
    let path = chart.join("values.yaml");
    let wrong = |reason: String| ChartError::Template { path: path.clone(), line: 1, reason };
    serde_saphyr::from_str(&read(&path)?).map_err(|error| wrong(error.to_string()))
}

/// Definitions and objects of a chart, one YAML stream.
///
/// # Errors
/// A template is missing, or holds what this does not know.
pub fn render(chart: &Path, values: &Value) -> Result<String, ChartError> {
    let mut parts = Vec::new();
    let definitions = chart.join("crds");
    let file = |source| ChartError::File { path: definitions.clone(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(&definitions).map_err(file)? {
        names.push(entry.map_err(file)?.path());
    }
    names.sort();
    for path in names {
        parts.push(read(&path)?);
    }
    for name in ORDER {
        let path = chart.join("templates").join(name);
        parts.push(template(chart, &path, values)?);
    }
    parts.retain(|part| !part.trim().is_empty());
    let parts: Vec<&str> = parts.iter().map(|part| part.trim()).collect();
    Ok(format!("{}\n", parts.join("\n---\n")))
}

fn template(chart: &Path, path: &Path, values: &Value) -> Result<String, ChartError> {
    let mut out = String::new();
    // For each open condition: whether its lines are taken.
    let mut open: Vec<bool> = Vec::new();
    for (at, line) in read(path)?.lines().enumerate() {
        let wrong =
            |reason: String| ChartError::Template { path: path.to_owned(), line: at + 1, reason };
        if let Some(action) = line.trim().strip_prefix("{{-") {
            let action = action.strip_suffix("}}").ok_or_else(|| wrong("no }}".into()))?.trim();
            match (action.strip_prefix("if "), action) {
                (Some(name), _) => open.push(is_true(&value(values, name.trim()).map_err(wrong)?)),
                (None, "else") => {
                    let last = open.last_mut().ok_or_else(|| wrong("else without if".into()))?;
                    *last = !*last;
                }
                (None, "end") => {
                    open.pop().ok_or_else(|| wrong("end without if".into()))?;
                }
                (None, other) => return Err(wrong(format!("{other:?} is not known here"))),
            }
            continue;
        }
        if open.iter().all(|taken| *taken) {
            out.push_str(&expand(chart, line, values).map_err(wrong)?);
            out.push('\n');
        }
    }
    if open.is_empty() {
        return Ok(out);
    }
    let line = out.lines().count();
    Err(ChartError::Template { path: path.to_owned(), line, reason: "an if has no end".into() })
}

/// A line with its actions carried out.
fn expand(chart: &Path, line: &str, values: &Value) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}").ok_or("no }}")?;
        out.push_str(before);
        let text = evaluate(chart, action.trim(), values)?;
        if text.starts_with('\n') {
            // A line before a block has no blanks at its end.
            out.truncate(out.trim_end().len());
        }
        out.push_str(&text);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn evaluate(chart: &Path, action: &str, values: &Value) -> Result<String, String> {
    if let Some(name) = action.strip_prefix(".Files.Get ") {
        return read(&chart.join(name.trim().trim_matches('"'))).map_err(|e| e.to_string());
    }
    let mut steps = action.split('|').map(str::trim);
    let first = steps.next().unwrap_or_default();
    let (found, block) = match first.strip_prefix("toYaml ") {
        Some(name) => (value(values, name.trim())?, true),
        None => (value(values, first)?, false),
    };
    let rest: Vec<&str> = steps.collect();
    match (block, rest.as_slice()) {
        (false, []) => scalar(&found),
        (false, ["quote"]) => scalar(&found).map(|text| Value::from(text).to_string()),
        (true, [indent]) => {
            let depth = indent.strip_prefix("nindent ").and_then(|n| n.trim().parse().ok());
            let depth: usize = depth.ok_or_else(|| format!("{indent:?} is not known here"))?;
            let mut text = String::new();
            yaml(&found, depth, &mut text);
            Ok(text)
        }
        _ => Err(format!("{action:?} is not known here")),
    }
}

fn value(values: &Value, name: &str) -> Result<Value, String> {
    let path = name.strip_prefix(".Values.").ok_or_else(|| format!("{name:?} is no value"))?;
    let mut at = values;
    for part in path.split('.') {
        at = at.get(part).ok_or_else(|| format!("values.yaml has no {path}"))?;
    }
    Ok(at.clone())
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is) => *is,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn scalar(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        other => Err(format!("{other} is not one value: use toYaml")),
    }
}

/// Lists and maps as blocks, each line on a new one.
fn yaml(value: &Value, depth: usize, out: &mut String) {
    let pad = " ".repeat(depth);
    let mut entry = |start: String, inner: &Value| {
        out.push_str(&format!("\n{pad}{start}"));
        match inner {
            Value::Object(map) if !map.is_empty() => yaml(inner, depth + 2, out),
            Value::Array(list) if !list.is_empty() => yaml(inner, depth + 2, out),
            plain => out.push_str(&format!(" {}", written(plain))),
        }
    };
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, inner)| entry(format!("{key}:"), inner));
        }
        Value::Array(list) => list.iter().for_each(|inner| entry("-".to_owned(), inner)),
        plain => out.push_str(&format!("\n{pad}{}", written(plain))),
    }
}

/// A text that needs no quotes has none.
fn written(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
            let starts = text.starts_with(|c: char| c.is_ascii_alphabetic());
            let word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
            if starts && text.chars().all(plain) && !word.contains(&text.to_lowercase().as_str()) {
                text.clone()
            } else {
                value.to_string()
            }
        }
        other => other.to_string(),
    }
}
