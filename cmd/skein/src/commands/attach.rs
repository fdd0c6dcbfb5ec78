//! `skein attach` and `skein detach`: one reference, leaving the others alone.

use crate::cli::Global;
use crate::error::Error;
use crate::kinds;
use clap::Args;
use serde_json::{Value, json};
use skein_model::{Kind, validate};

/// Arguments of `skein attach` and `skein detach`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skein attach network front policy web -p shop
  skein detach network front policy web -p shop
  skein attach vmi port-1 security-group ssh -p shop")]
pub(crate) struct Arguments {
    /// Type of the object that refers
    #[arg(value_name = "TYPE")]
    kind: String,
    /// Its name
    name: String,
    /// Type of the object referred to
    #[arg(value_name = "TARGET_TYPE")]
    target_kind: String,
    /// Its name
    #[arg(value_name = "TARGET_NAME")]
    target: String,
    /// What the reference carries, as JSON; for a policy its sequence, {"sequence": {"major": 0,
    /// "minor": 0}}, is the default
    #[arg(long, value_name = "JSON")]
    attr: Option<String>,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments, add: bool) -> Result<(), Error> {
    let kind = kinds::parse(&arguments.kind)?;
    let target_kind = kinds::parse(&arguments.target_kind)?;
    let Some(reference) = kind.meta().reference(target_kind) else {
        return Err(Error::usage(
            format!("a {kind} does not refer to a {target_kind}"),
            format!("`skein explain {kind}` lists its references"),
        ));
    };
    let mut attr = match &arguments.attr {
        Some(text) => serde_json::from_str(text).map_err(|e| {
            Error::usage(format!("--attr is no JSON: {e}"), "write {\"field\": ...}")
        })?,
        None if add && target_kind == Kind::NETWORK_POLICY => {
            json!({"sequence": {"major": 0, "minor": 0}})
        }
        None => Value::Null,
    };
    validate::attribute(reference.field, reference.attr, &mut attr).map_err(|e| {
        Error::usage(e.to_string(), format!("`skein explain {kind}.{}`", reference.field))
    })?;
    let (api, scope) = (global.api()?, global.scope());
    let (uuid, name) = scope.locate(&api, kind, &arguments.name).await?;
    let (target_uuid, target) = scope.locate(&api, target_kind, &arguments.target).await?;
    let request = json!({
        "type": kind,
        "uuid": uuid,
        "ref-type": target_kind,
        "ref-uuid": target_uuid,
        "ref-fq-name": target,
        "operation": if add { "ADD" } else { "DELETE" },
        "attr": attr,
    });
    let (verb, done) = if add { ("attach", "attached to") } else { ("detach", "detached from") };
    api.update_reference(&request, &format!("{verb} {target_kind} {target}")).await?;
    global.screen().line(&format!("{target_kind} {target} {done} {kind} {name}"))
}
