//! `skein delete`: removes objects.

use crate::cli::Global;
use crate::error::Error;
use crate::{kinds, manifest};
use clap::Args;

/// Arguments of `skein delete`.
#[derive(Args, Debug)]
#[command(after_help = "\
Nothing is removed along with an object: what others refer to, or what has children, stays and the
answer says why. `skein show TYPE NAME` lists what refers to it.

Examples:
  skein delete network front -p shop
  skein delete -f shop.yaml                        everything that the file made, last first")]
pub(crate) struct Arguments {
    /// Object type, as `skein types` lists them
    #[arg(value_name = "TYPE", required_unless_present = "files", requires = "names")]
    kind: Option<String>,
    /// Names of the objects
    #[arg(value_name = "NAME", conflicts_with = "files")]
    names: Vec<String>,
    /// Manifest whose objects are removed, - for standard input; may be repeated
    #[arg(long = "file", short = 'f', value_name = "FILE")]
    files: Vec<String>,
    /// What is not there is no failure
    #[arg(long)]
    ignore_missing: bool,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Error> {
    let (api, scope, screen) = (global.api()?, global.scope(), global.screen());
    let mut targets = Vec::new();
    if let Some(word) = &arguments.kind {
        let kind = kinds::parse(word)?;
        for name in &arguments.names {
            match scope.locate(&api, kind, name).await {
                Ok((uuid, name)) => targets.push((kind, name, uuid)),
                Err(Error::NotFound(..)) if arguments.ignore_missing => {}
                Err(error) => return Err(error),
            }
        }
    } else {
        for document in manifest::read(&arguments.files, &scope)?.into_iter().rev() {
            let (kind, name) = (document.kind, document.name);
            match api.id_of(kind, &name).await? {
                Some(uuid) => targets.push((kind, name, uuid)),
                None if arguments.ignore_missing => {}
                None => {
                    return Err(Error::NotFound(
                        format!("there is no {kind} {name}"),
                        "--ignore-missing removes what is there".to_owned(),
                    ));
                }
            }
        }
    }
    for (kind, name, uuid) in targets {
        if api.delete(kind, &name, uuid).await? {
            screen.line(&format!("{kind} {name} deleted"))?;
        } else if !arguments.ignore_missing {
            let message = format!("{kind} {name} was removed just now by someone else");
            return Err(Error::NotFound(message, String::new()));
        }
    }
    Ok(())
}
