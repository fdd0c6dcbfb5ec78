//! The CNI plugin's process: environment and standard input in, JSON and an exit code out.

use std::io::{Read, Write};
use std::process::ExitCode;

/// Configurations are a few hundred bytes; prevResult adds a few thousand.
const INPUT_LIMIT: u64 = 1 << 20;

fn main() -> ExitCode {
    let mut input = Vec::new();
    let variable = |name: &str| std::env::var_os(name)?.into_string().ok();
    let outcome = std::io::stdin()
        .lock()
        .take(INPUT_LIMIT)
        .read_to_end(&mut input)
        .map_err(|error| skein_cni::Error::io("read the network configuration", &error))
        .and_then(|_| skein_cni::Request::parse(variable, &input))
        .and_then(|request| skein_cni::execute(&request));
    let (text, code) = match outcome {
        Ok(Some(answer)) => (answer.to_string(), ExitCode::SUCCESS),
        Ok(None) => (String::new(), ExitCode::SUCCESS),
        Err(error) => (error.to_json(&input).to_string(), ExitCode::FAILURE),
    };
    // The runtime closing its end early changes nothing about what was done.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    code
}
