//! iperf3 between two pods or hosts, read as numbers.

use crate::{LabError, Pod, Process, command::require};
use serde::Deserialize;
use std::process::Command;
use std::time::Duration;

/// One throughput measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throughput {
    /// Received by the far end, bits per second.
    pub bits_per_second: f64,
    /// Bytes the receiver got.
    pub bytes: u64,
}

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Iperf {
    /// How long, in whole seconds.
    pub seconds: u32,
    /// Parallel TCP connections.
    pub streams: u32,
    /// Server port.
    pub port: u16,
}

impl Default for Iperf {
    fn default() -> Self {
        Self { seconds: 3, streams: 1, port: 5201 }
    }
}

#[derive(Deserialize)]
struct Report {
    error: Option<String>,
    end: Option<End>,
}

#[derive(Deserialize)]
struct End {
    sum_received: Option<Sum>,
}

#[derive(Deserialize)]
struct Sum {
    bits_per_second: f64,
    bytes: u64,
}

impl Iperf {
    /// Starts a server that serves any number of measurements.
    ///
    /// # Errors
    /// iperf3 is missing.
    pub fn server(&self, pod: &Pod) -> Result<Process, LabError> {
        require("iperf3", "iperf3")?;
        let mut command = Command::new("iperf3");
        command.args(["-s", "--forceflush", "-p", &self.port.to_string()]);
        pod.spawn(&format!("iperf3-{}", self.port), &mut command)
    }

    /// The client's command line, for callers that watch a running transfer.
    #[must_use]
    pub fn client_command(&self, address: &str) -> Command {
        let mut command = Command::new("iperf3");
        command.args(["-J", "-c", address, "-p", &self.port.to_string()]);
        command.args(["-t", &self.seconds.to_string(), "-P", &self.streams.to_string()]);
        // One congestion control for all that is compared, whatever the machine's default: pacing ones (BBR)
        // measure a small machine's timers, and every path comes out alike.
        command.args(["-C", "cubic"]);
        // Long writes: of a short one (128 KiB) two super-packets go out and a rest, and whether the rest is one segment or two,
        // which is the MTU's doing, weighs more than the path.
        command.args(["-l", "1M"]);
        // The first second is slow start; it says nothing about the path.
        command.args(["-O", "1"]);
        command
    }

    /// Measures from `client` to `server_address`, where [`Iperf::server`] runs.
    ///
    /// # Errors
    /// iperf3 failed, or its report could not be read.
    pub fn measure(&self, client: &Pod, server_address: &str) -> Result<Throughput, LabError> {
        let mut last = String::new();
        // The server may not listen yet.
        for _ in 0..40 {
            let ran = client.run(&mut self.client_command(server_address))?;
            match Self::parse(&ran.stdout) {
                Ok(throughput) => return Ok(throughput),
                Err(error) => last = error.to_string(),
            }
            if !last.contains("refused") && !last.contains("busy") {
                break;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        Err(LabError::Output { what: "iperf3".into(), reason: last })
    }

    /// Reads the JSON report of a client.
    ///
    /// # Errors
    /// The report is no JSON, or says that the measurement failed.
    pub fn parse(report: &str) -> Result<Throughput, LabError> {
        let wrong = |reason: String| LabError::Output { what: "iperf3".into(), reason };
        let report: Report = serde_json::from_str(report).map_err(|e| wrong(e.to_string()))?;
        if let Some(error) = report.error {
            return Err(wrong(error));
        }
        let end = report.end.ok_or_else(|| wrong("no `end` in the report".into()))?;
        let received = end.sum_received.ok_or_else(|| wrong("no `end.sum_received`".into()))?;
        Ok(Throughput { bits_per_second: received.bits_per_second, bytes: received.bytes })
    }
}
