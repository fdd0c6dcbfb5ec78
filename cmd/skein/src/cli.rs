//! The grammar of the command line. Also the source of docs/cli.md and of shell completion.

use crate::commands;
use crate::error::{EXIT_CODES, Error};
use crate::http::Endpoint;
use crate::scope::Scope;
use crate::screen::{Format, Screen};
use clap::{Args, Parser, Subcommand};
use skein_client::Tls;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  skein status                                     is everything well?
  skein create project shop
  skein create network front --project shop --subnet 10.1.1.0/24 --subnet fd00:1::/64
  skein create policy web --project shop --rule 'pass tcp from front to back port 80'
  skein attach network front policy web --project shop
  skein get networks -o wide
  skein apply -f shop.yaml
  skein vrouter flows --node 192.168.0.11
  skein explain policy.network_policy_entries      how is this field written?
";

/// Operate a Skein network: objects by type and name, nodes, and what is wrong.
///
/// A TYPE is a name of the data model in full (virtual-network), plural or short (vn, network);
/// `skein types` lists them. A NAME is the last element of an object's name, which --domain and
/// --project complete, or the full name with colons, or a uuid.
#[derive(Debug, Parser)]
#[command(name = "skein", version, max_term_width = 100, after_help = format!("{EXAMPLES}\n{EXIT_CODES}"))]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where the config API is; of several controllers, all addresses with commas in between
    /// [default: http://127.0.0.1:8082]
    #[arg(long, global = true, env = "SKEIN_API", value_name = "URL", hide_env_values = true)]
    pub(crate) api: Option<String>,
    /// Certificates of the authority that vouches for an https:// API (PEM) [default: those the
    /// machine trusts]
    #[arg(long, global = true, env = "SKEIN_CA", value_name = "FILE", hide_env_values = true)]
    pub(crate) ca: Option<PathBuf>,
    /// Certificate to show the config API (PEM), with --key
    #[arg(long, global = true, env = "SKEIN_CERT", value_name = "FILE", hide_env_values = true)]
    pub(crate) cert: Option<PathBuf>,
    /// Private key of --cert (PEM)
    #[arg(long, global = true, env = "SKEIN_KEY", value_name = "FILE", hide_env_values = true)]
    pub(crate) key: Option<PathBuf>,
    /// Name in the config API's certificate, if not the one in its address
    #[arg(long, global = true, env = "SKEIN_SERVER_NAME", value_name = "NAME")]
    #[arg(hide_env_values = true)]
    pub(crate) server_name: Option<String>,
    /// Where the controller's status page is; of several controllers, all addresses with commas in
    /// between [default: http://127.0.0.1:8083]
    #[arg(
        long,
        global = true,
        env = "SKEIN_CONTROLLER",
        value_name = "URL",
        hide_env_values = true
    )]
    pub(crate) controller: Option<String>,
    /// Where a node's agent is
    #[arg(long, global = true, env = "SKEIN_NODE", value_name = "ADDR")]
    #[arg(default_value = "http://127.0.0.1:8085", hide_env_values = true)]
    pub(crate) node: String,
    /// Domain that completes short names
    #[arg(long, global = true, env = "SKEIN_DOMAIN", value_name = "NAME")]
    #[arg(default_value = "default-domain", hide_env_values = true)]
    pub(crate) domain: String,
    /// Project that completes short names, and whose objects `get` lists [default for names:
    /// default-project; for lists: every project]
    #[arg(long, short = 'p', global = true, env = "SKEIN_PROJECT", value_name = "NAME")]
    #[arg(hide_env_values = true)]
    pub(crate) project: Option<String>,
    /// Seconds to wait for an answer
    #[arg(long, global = true, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Never colour the output (also the NO_COLOR variable)
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show every role and node on one screen
    Status(commands::status::Arguments),
    /// List objects of a type, or one of them
    Get(commands::get::Arguments),
    /// Show everything about one object
    Show(commands::show::Arguments),
    /// Make an object
    Create(commands::create::Arguments),
    /// Make or update objects so that they are as files say
    Apply(commands::apply::Arguments),
    /// Remove objects
    Delete(commands::delete::Arguments),
    /// Add a reference from one object to another, as a policy to a network
    Attach(commands::attach::Arguments),
    /// Remove a reference from one object to another
    Detach(commands::attach::Arguments),
    /// Look into a node: interfaces, routes, flows, drops, the way of a packet
    Vrouter(commands::vrouter::Arguments),
    /// Tell what becomes of a connection, and which rule decides it
    Why(commands::why::Arguments),
    /// Show which rules judge a port's connections, in order
    Rules(commands::rules::Arguments),
    /// Skein in a Kubernetes cluster, by pods and policies; also `kubectl skein`
    Kube(Box<commands::kube::Arguments>),
    /// List the object types and their short names
    Types(commands::types::Arguments),
    /// Tell the fields of a type, their types and allowed values
    Explain(commands::explain::Arguments),
    /// Print a completion script for a shell
    Completion(commands::completion::Arguments),
    /// Print docs/cli.md
    #[command(hide = true)]
    GenerateDocs,
}

/// How to print a result.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Output {
    /// How to print the result
    #[arg(long = "output", short = 'o', value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: Format,
}

impl Global {
    /// Where results go.
    pub(crate) fn screen(&self) -> Screen {
        Screen::new(self.no_color)
    }

    /// What completes names. An empty variable is as good as none.
    pub(crate) fn scope(&self) -> Scope {
        Scope::new(&self.domain, self.project.as_deref().filter(|p| !p.is_empty()))
    }

    /// The configuration API.
    pub(crate) fn api(&self) -> Result<crate::api::Api, Error> {
        let address = self.api.as_deref().unwrap_or("http://127.0.0.1:8082");
        crate::api::Api::new(address, &self.tls(), self.timeout)
    }

    /// The controller's pages.
    pub(crate) fn controller(&self) -> Result<Endpoint, Error> {
        self.controller_at(self.controller.as_deref().unwrap_or("http://127.0.0.1:8083"))
    }

    /// The controller's pages, wherever they are.
    pub(crate) fn controller_at(&self, address: &str) -> Result<Endpoint, Error> {
        let next = "is it running? --controller or SKEIN_CONTROLLER gives another address";
        Endpoint::new("controller", address, 8083, self.timeout, next)
    }

    /// Whom to trust, and who we are.
    pub(crate) fn tls(&self) -> Tls {
        let given = |path: &Option<PathBuf>| path.clone().filter(|p| !p.as_os_str().is_empty());
        Tls {
            ca: given(&self.ca),
            certificate: given(&self.cert),
            key: given(&self.key),
            server_name: self.server_name.clone().filter(|name| !name.is_empty()),
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    seconds.filter(|s| !s.is_zero()).ok_or_else(|| "not a number of seconds above 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_anywhere() {
        for line in [
            "skein --project shop get vn",
            "skein get vn --project shop --timeout 0.5",
            "skein get vn front -p shop -o yaml",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.global.project.as_deref(), Some("shop"), "{line}");
        }
        assert!(Cli::try_parse_from(["skein", "status", "--timeout", "-1"]).is_err());
        assert!(Cli::try_parse_from(["skein", "status", "--timeout", "0"]).is_err());
    }
}
