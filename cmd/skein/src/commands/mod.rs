//! One file per command: its arguments and what it does.

pub(crate) mod apply;
pub(crate) mod attach;
pub(crate) mod completion;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod kube;
pub(crate) mod rules;
pub(crate) mod show;
pub(crate) mod status;
pub(crate) mod types;
pub(crate) mod vrouter;
pub(crate) mod why;

use crate::cli::{Cli, Command};
use crate::error::Error;

/// Does what the command line says.
pub(crate) async fn run(cli: Cli) -> Result<(), Error> {
    let global = &cli.global;
    match &cli.command {
        Command::Status(arguments) => status::run(global, arguments).await,
        Command::Get(arguments) => get::run(global, arguments).await,
        Command::Show(arguments) => show::run(global, arguments).await,
        Command::Create(arguments) => create::run(global, arguments).await,
        Command::Apply(arguments) => apply::run(global, arguments).await,
        Command::Delete(arguments) => delete::run(global, arguments).await,
        Command::Attach(arguments) => attach::run(global, arguments, true).await,
        Command::Detach(arguments) => attach::run(global, arguments, false).await,
        Command::Vrouter(arguments) => vrouter::run(global, arguments).await,
        Command::Why(arguments) => why::run(global, arguments).await,
        Command::Rules(arguments) => rules::run(global, arguments).await,
        Command::Kube(arguments) => kube::run(global, arguments).await,
        Command::Types(arguments) => types::run(global, arguments),
        Command::Explain(arguments) => explain::run(global, arguments),
        Command::Completion(arguments) => completion::run(global, arguments),
        Command::GenerateDocs => global.screen().write(&crate::reference::markdown()),
    }
}
