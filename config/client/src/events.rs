//! Server-sent events out of bytes. No I/O.

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
            let block: Vec<u8> = self.buffer.drain(..from + at + 2).collect();
            self.searched = 0;
            if let Some(raw) = parse(&String::from_utf8_lossy(&block)) {
                return Some(raw);
            }
        }
    }
}

fn parse(block: &str) -> Option<Raw> {
    let mut raw = Raw { name: String::new(), id: None, data: String::new() };
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut raw.name),
            "id" => raw.id = value.parse().ok(),
            "data" => {
                if !raw.data.is_empty() {
                    raw.data.push('\n');
                }
                raw.data.push_str(value);
            }
            _ => {}
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
