//! Server-sent events out of bytes. No I/O.

use std::ops::Range;

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raw {
    pub(crate) name: String,
    pub(crate) id: Option<u64>,
    pub(crate) data: String,
}

/// Collects bytes until an event is complete.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    buffer: Vec<u8>,
    /// Bytes that were searched for the end of an event already.
    searched: usize,
}

impl Parser {
    /// Takes the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole event. Comments and empty events are skipped.
    pub(crate) fn next(&mut self) -> Option<Raw> {
        loop {
            let from = self.searched.saturating_sub(1);
            let Some(at) = self.buffer[from..].windows(2).position(|pair| pair == b"\n\n") else {
                self.searched = self.buffer.len();
                return None;
            };
            // The block keeps its memory, as it may be of many megabytes; what came after it is little.
            let rest = self.buffer.split_off(from + at + 2);
            let block = std::mem::replace(&mut self.buffer, rest);
            self.searched = 0;
            if let Some(raw) = parse(block) {
                return Some(raw);
            }
        }
    }
}

fn parse(block: Vec<u8>) -> Option<Raw> {
    let mut block = match String::from_utf8(block) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    };
    let mut raw = Raw { name: String::new(), id: None, data: String::new() };
    let mut lines_of_data: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    for line in block.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let line = line.trim_end_matches(['\n', '\r']);
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut raw.name),
            "id" => raw.id = value.parse().ok(),
            "data" => {
                let end = start + line.len();
                lines_of_data.push(end - value.len()..end);
            }
            _ => {}
        }
    }
    match lines_of_data.as_slice() {
        [one] => {
            block.truncate(one.end);
            block.drain(..one.start);
            raw.data = block;
        }
        several => {
            let lines: Vec<&str> = several.iter().map(|line| &block[line.clone()]).collect();
            raw.data = lines.join("\n");
        }
    }
    (!raw.data.is_empty()).then_some(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_whole_however_the_bytes_come_in() {
        let stream = b":\n\nevent: create\nid: 7\ndata: {\"a\": 1}\n\nevent: stop\ndata: x\n\nevent: cut\nda";
        for size in 1..stream.len() {
            let mut parser = Parser::default();
            let mut seen = Vec::new();
            for chunk in stream.chunks(size) {
                parser.push(chunk);
                while let Some(raw) = parser.next() {
                    seen.push(raw);
                }
            }
            assert_eq!(seen.len(), 2, "chunks of {size}");
            assert_eq!(
                seen[0],
                Raw { name: "create".into(), id: Some(7), data: "{\"a\": 1}".into() }
            );
            assert_eq!(seen[1].name, "stop");
        }
    }
}
