//! A pod that asks again and again, without a process for each time.

use super::{ClusterError, KubePod, ProbeOutcome, read_outcomes};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

/// A program in a pod that asks batches of targets. It ends when dropped.
#[derive(Debug)]
pub struct Asker {
    pod: String,
    process: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl KubePod {
    /// Starts an asker in this pod, which is one of the probe image.
    ///
    /// # Errors
    /// No container runs, or the program does not start.
    pub fn asker(&self) -> Result<Asker, ClusterError> {
        let failed = |what: String| ClusterError::answer(&self.name, format!("asker: {what}"));
        let mut command = self.command("/bin/skein-probe")?;
        command.arg("asks").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().map_err(|error| failed(error.to_string()))?;
        let (Some(questions), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(failed("no pipes".into()));
        };
        let answers = BufReader::new(answers);
        Ok(Asker { pod: self.name.clone(), process, questions: Some(questions), answers })
    }
}

impl Asker {
    /// Asks targets, `tcp:10.0.0.1:80`, all at once; how each ended, in their order.
    ///
    /// # Errors
    /// The program or its pod has ended.
    pub fn ask(
        &mut self,
        targets: &[String],
        timeout: Duration,
    ) -> Result<Vec<ProbeOutcome>, ClusterError> {
        let line = format!("{} {}\n", timeout.as_millis().max(1), targets.join(" "));
        let failed = |error: std::io::Error| ClusterError::answer(&self.pod, error.to_string());
        if let Some(questions) = &mut self.questions {
            questions.write_all(line.as_bytes()).map_err(failed)?;
        }
        let mut answer = String::new();
        self.answers.read_line(&mut answer).map_err(failed)?;
        read_outcomes(&answer)
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        // It ends with its input; `nsenter` only waits for it.
        self.questions = None;
        let _ = self.process.wait();
    }
}
