//! `skein why`: what becomes of a connection, and who decides it.

mod report;

pub(crate) use report::author;

use crate::cli::{Global, Output};
use crate::error::Error;
use crate::http::Endpoint;
use crate::screen::{Format, Screen, yaml};
use clap::Args;
use report::{is, passes, render};

/// Arguments of `skein why`.
#[derive(Args, Debug)]
#[command(after_help = "\
The controller answers from what it tells the nodes, without sending a packet: which service and
members, whether there is a route, and which rule decides at each end. The two nodes say what their
kernels have in force, and where that differs it is told.

Examples:
  skein why default-domain:shop:web-1 default-domain:shop:db-1:5432
  skein why 7d1c...e2 10.1.2.3:53/udp
  skein why default-domain:shop:web-1 default-domain:shop:db-1/icmp

Exit code: 0 it passes; 1 it does not, or a node has something else in force.")]
pub(crate) struct Arguments {
    /// Port or machine that opens the connection: name or uuid
    from: String,
    /// Who is asked, as NAME:PORT[/PROTOCOL]: port, machine or address [default protocol: tcp]
    to: String,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Error> {
    let controller = global.controller()?;
    let target = Target::parse(&arguments.to)?;
    let titles = (arguments.from.clone(), arguments.to.clone());
    let question = Question { from: arguments.from.clone(), to: target.name.clone(), target };
    ask(&controller, global.screen(), arguments.output.format, &question, titles).await
}

/// Who is asked, on what port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// A name or an address.
    pub(crate) name: String,
    /// The port, or its name; none for ICMP.
    pub(crate) port: Option<String>,
    /// In small letters.
    pub(crate) protocol: String,
}

/// A question to the controller.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) target: Target,
}

impl Target {
    /// Reads `NAME:PORT[/PROTOCOL]`, `[ADDRESS]:PORT[/PROTOCOL]` or `NAME/icmp`.
    pub(crate) fn parse(text: &str) -> Result<Target, Error> {
        let wrong = |why: &str| {
            Error::usage(
                format!("{text:?}: {why}"),
                "write it as NAME:PORT, NAME:PORT/udp, NAME/icmp or [IPv6]:PORT",
            )
        };
        let known = ["tcp", "udp", "sctp", "icmp", "icmpv6"];
        let (rest, protocol) = match text.rsplit_once('/') {
            // A namespace may be called tcp: then a port follows the name, not a protocol.
            Some((rest, last)) if known.contains(&last.to_ascii_lowercase().as_str()) => {
                (rest, last.to_ascii_lowercase())
            }
            _ => (text, "tcp".to_owned()),
        };
        if protocol.starts_with("icmp") {
            let name = rest.trim_start_matches('[').trim_end_matches(']').to_owned();
            return Ok(Target { name, port: None, protocol });
        }
        let Some((name, port)) = rest.rsplit_once(':') else { return Err(wrong("it has no port")) };
        let number = port.parse::<u16>();
        let named = !port.is_empty() && port.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if !named || number.is_ok_and(|port| port == 0) {
            return Err(wrong("its port is none"));
        }
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        if name.is_empty() {
            return Err(wrong("it has no name"));
        }
        Ok(Target { name, port: Some(port.to_owned()), protocol })
    }
}

/// Asks, prints, and says by the exit code whether the connection passes.
pub(crate) async fn ask(
    controller: &Endpoint,
    screen: Screen,
    format: Format,
    question: &Question,
    titles: (String, String),
) -> Result<(), Error> {
    let mut query = vec![
        ("from", question.from.clone()),
        ("to", question.to.clone()),
        ("protocol", question.target.protocol.clone()),
    ];
    if let Some(port) = &question.target.port {
        query.push(("port", port.clone()));
    }
    let answer = controller.get("/v1/why", &query).await?;
    match format {
        Format::Json => screen.json(&answer)?,
        Format::Yaml => screen.write(&yaml(&answer)?)?,
        Format::Table | Format::Wide | Format::Name => {
            screen.write(&render(screen, &answer, &titles, format == Format::Wide))?;
        }
    }
    if passes(&answer) && !is(&answer, "differs") { Ok(()) } else { Err(Error::Degraded) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_many_forms() {
        let target = |name: &str, port: Option<&str>, protocol: &str| Target {
            name: name.into(),
            port: port.map(str::to_owned),
            protocol: protocol.into(),
        };
        for (text, expected) in [
            ("web:80", target("web", Some("80"), "tcp")),
            ("shop/web:http/UDP", target("shop/web", Some("http"), "udp")),
            ("tcp/web:80", target("tcp/web", Some("80"), "tcp")),
            ("web/icmp", target("web", None, "icmp")),
            ("[fd00::1]:53/udp", target("fd00::1", Some("53"), "udp")),
            ("d:p:web:80", target("d:p:web", Some("80"), "tcp")),
            ("10.0.0.1:80", target("10.0.0.1", Some("80"), "tcp")),
        ] {
            assert_eq!(Target::parse(text).unwrap(), expected, "{text}");
        }
        for text in ["web", "web:", "web:0", ":80", "web:80:", "web/tcp"] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }
}
