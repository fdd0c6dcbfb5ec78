//! Standard output: colours when a person looks, plain text otherwise, no panic when a pipe closes.

use crate::error::Error;
use clap::ValueEnum;
use serde_json::Value;
use std::io::{self, IsTerminal, Write};

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for people
    #[default]
    Table,
    /// The table with more columns
    Wide,
    /// JSON, as the API gives it
    Json,
    /// YAML, which `skein apply -f` takes back
    Yaml,
    /// TYPE/NAME, one a line, for scripts
    Name,
}

/// The meaning of a piece of text; becomes a colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    #[default]
    Plain,
    Strong,
    Dim,
    Good,
    Warn,
    Bad,
}

/// Standard output and what it can show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    colour: bool,
}

impl Screen {
    /// Colours on a terminal unless `--no-color` or the NO_COLOR variable says otherwise.
    pub(crate) fn new(no_color: bool) -> Screen {
        let wanted = !no_color && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Screen { colour: wanted && io::stdout().is_terminal() }
    }

    /// A screen without colours, for tests.
    #[cfg(test)]
    pub(crate) fn plain() -> Screen {
        Screen { colour: false }
    }

    /// `text` in the colour of its meaning.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Strong => "1",
            Tone::Dim => "2",
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Writes text as it is.
    pub(crate) fn write(self, text: &str) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => Error::Closed,
            _ => Error::Output(e),
        })
    }

    /// Writes a line.
    pub(crate) fn line(self, text: &str) -> Result<(), Error> {
        self.write(&format!("{text}\n"))
    }

    /// Writes a value as JSON.
    pub(crate) fn json(self, value: &Value) -> Result<(), Error> {
        self.line(&format!("{value:#}"))
    }

    /// Writes values as YAML documents.
    pub(crate) fn yaml(self, documents: &[Value]) -> Result<(), Error> {
        let mut text = String::new();
        for (at, document) in documents.iter().enumerate() {
            if at > 0 {
                text.push_str("---\n");
            }
            text.push_str(&yaml(document)?);
        }
        self.write(&text)
    }
}

/// A value as YAML, ending in a newline.
pub(crate) fn yaml(value: &Value) -> Result<String, Error> {
    let mut text = serde_saphyr::to_string(value)
        .map_err(|e| Error::Answer { action: "print as YAML".into(), reason: e.to_string() })?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
