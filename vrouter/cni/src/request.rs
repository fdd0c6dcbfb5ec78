//! A whole call, parsed: pure, so that it can be fuzzed.

use crate::reply::SUPPORTED_VERSIONS;
use crate::{Attachment, Code, Error, NetworkConfig};

/// A call of the plugin.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// The configuration on standard input.
    pub config: NetworkConfig,
}

/// What a call asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect a container.
    Add(Attachment),
    /// Disconnect it.
    Del(Attachment),
    /// Is it still connected as ADD left it?
    Check(Attachment),
    /// Would ADD work now?
    Status,
    /// Which versions are supported?
    Version,
    /// Free all but these.
    Gc,
}

impl Request {
    /// Reads a call from its environment variables and standard input.
    ///
    /// # Errors
    /// The CNI error to answer with.
    pub fn parse(variable: impl Fn(&str) -> Option<String>, input: &[u8]) -> Result<Self, Error> {
        let name = variable("CNI_COMMAND").unwrap_or_default();
        let config = NetworkConfig::parse(input)?;
        // VERSION is how a runtime finds out: it must work with any version in the input.
        if name != "VERSION" {
            check_version(&config.cni_version, &name)?;
        }
        let command = match name.as_str() {
            "ADD" => {
                let attachment = Attachment::parse(variable, true)?;
                config.check_for_add(&attachment)?;
                Command::Add(attachment)
            }
            "DEL" => Command::Del(Attachment::parse(variable, false)?),
            "CHECK" => Command::Check(Attachment::parse(variable, true)?),
            "STATUS" => Command::Status,
            "VERSION" => Command::Version,
            "GC" => Command::Gc,
            other => {
                return Err(Error::new(
                    Code::InvalidEnvironment,
                    format!("environment variable CNI_COMMAND: `{other}` is no command"),
                    "use ADD, DEL, CHECK, GC, STATUS or VERSION",
                ));
            }
        };
        Ok(Self { command, config })
    }

    /// Reads a recorded call: the first line holds `NAME=value` pairs with tabs between, the rest is
    /// standard input. This is the form of the fuzzing corpus.
    ///
    /// # Errors
    /// As [`Request::parse`].
    pub fn parse_recorded(recorded: &[u8]) -> Result<Self, Error> {
        let end = recorded.iter().position(|byte| *byte == b'\n').unwrap_or(recorded.len());
        let environment = String::from_utf8_lossy(&recorded[..end]);
        let variable = |name: &str| {
            let mut pairs = environment.split('\t').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        Self::parse(variable, recorded.get(end + 1..).unwrap_or_default())
    }
}

fn check_version(version: &str, command: &str) -> Result<(), Error> {
    let supported = SUPPORTED_VERSIONS.contains(&version);
    // STATUS and GC came with 1.1.0.
    let known_there = !matches!(command, "STATUS" | "GC") || version == "1.1.0";
    if supported && known_there {
        return Ok(());
    }
    let message = if supported {
        format!("{command} does not exist in CNI {version}")
    } else {
        format!("CNI version `{version}` is not supported")
    };
    Err(Error::new(
        Code::IncompatibleVersion,
        message,
        format!("set cniVersion to one of {}", SUPPORTED_VERSIONS.join(", ")),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_bound_to_versions() {
        let run = |command: &str, version: &str| {
            let input = format!(r#"{{"cniVersion":"{version}","name":"n"}}"#);
            Request::parse(|name| (name == "CNI_COMMAND").then(|| command.into()), input.as_bytes())
        };
        assert_eq!(run("STATUS", "1.1.0").unwrap().command, Command::Status);
        assert_eq!(run("STATUS", "1.0.0").unwrap_err().code, Code::IncompatibleVersion);
        assert_eq!(run("STATUS", "9.0.0").unwrap_err().code, Code::IncompatibleVersion);
        assert_eq!(run("VERSION", "9.0.0").unwrap().command, Command::Version);
        assert_eq!(run("NOPE", "1.0.0").unwrap_err().code, Code::InvalidEnvironment);
    }
}
