//! What HAProxy says about itself on its socket.

use super::files::Files;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks; nothing when there is no answer.
async fn ask(socket: &Path, question: &str) -> Option<String> {
    let talk = async {
        let mut stream = UnixStream::connect(socket).await.ok()?;
        stream.write_all(format!("{question}\n").as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    };
    tokio::time::timeout(TIMEOUT, talk).await.ok().flatten()
}

/// Process id of who answers there.
pub(super) async fn process(socket: &Path) -> Option<i32> {
    let answer = ask(socket, "show info").await?;
    answer.lines().find_map(|line| line.strip_prefix("Pid: "))?.trim().parse().ok()
}

/// One line of `show stat`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// `port_80`, `pool_<uuid>`.
    pub(super) proxy: String,
    /// `FRONTEND`, `BACKEND`, or a member's uuid.
    pub(super) server: String,
    pub(super) sessions: u64,
    pub(super) current: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) requests: u64,
    /// Responses by the first digit of their code, from 1.
    pub(super) responses: [u64; 5],
    /// `UP`, `DOWN`, `no check`, `OPEN`.
    pub(super) status: String,
}

/// Counters of all frontends, pools and members.
pub(super) async fn counters(files: &Files) -> Vec<Line> {
    ask(&files.socket(), "show stat").await.map(|text| parse(&text)).unwrap_or_default()
}

/// Columns are found by their names: versions add some.
fn parse(text: &str) -> Vec<Line> {
    let mut lines = text.lines();
    let Some(head) = lines.next() else { return Vec::new() };
    let names: Vec<&str> = head.trim_start_matches("# ").split(',').collect();
    let column = |name: &str| names.iter().position(|one| *one == name);
    let read = |line: &str| {
        let parts: Vec<&str> = line.split(',').collect();
        let text =
            |name: &str| column(name).and_then(|at| parts.get(at)).copied().unwrap_or_default();
        let number = |name: &str| text(name).parse().unwrap_or(0);
        Line {
            proxy: text("pxname").to_owned(),
            server: text("svname").to_owned(),
            sessions: number("stot"),
            current: number("scur"),
            bytes_in: number("bin"),
            bytes_out: number("bout"),
            requests: number("req_tot"),
            responses: ["hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx"].map(number),
            status: text("status").to_owned(),
        }
    };
    lines.filter(|line| line.contains(',')).map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name() {
        let text = "# pxname,svname,scur,stot,bin,bout,status,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,req_tot,\n\
                    port_80,FRONTEND,1,7,70,700,OPEN,0,5,0,1,1,7,\n\n";
        let lines = parse(text);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].requests, 7);
        assert_eq!(lines[0].responses, [0, 5, 0, 1, 1]);
        assert_eq!(lines[0].status, "OPEN");
        assert!(parse("").is_empty());
    }
}
