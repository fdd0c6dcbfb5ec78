//! `skein apply`: makes or updates objects so that they are as files say.

use crate::api::{self, Api};
use crate::cli::Global;
use crate::difference;
use crate::document::Document;
use crate::error::Error;
use crate::manifest;
use crate::screen::Tone;
use clap::Args;
use serde_json::json;

/// Arguments of `skein apply`.
#[derive(Args, Debug)]
#[command(after_help = "\
A manifest is YAML or JSON, one document or many:

  kind: virtual-network          # any TYPE
  name: front                    # or fq_name; `project` and `domain` complete a short name
  project: shop
  subnets: [10.1.1.0/24]         # short for network_ipam_refs
  policies: [web]                # short for network_policy_refs
  virtual_network_properties: {forwarding_mode: l3}
  ---
  kind: network-policy
  name: web
  project: shop
  rules: [pass tcp from default-domain:shop:front to any port 80]

What `skein get -o yaml` prints is a manifest, too. Objects are made in the order in which they
need each other. Fields that a document does not name stay as they are. Every document is checked
before anything is sent; doing it twice changes nothing the second time.")]
pub(crate) struct Arguments {
    /// File to read, - for standard input; may be repeated
    #[arg(long = "file", short = 'f', value_name = "FILE", required = true)]
    files: Vec<String>,
    /// Shows what would be done and does nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Error> {
    let documents = manifest::read(&arguments.files, &global.scope())?;
    let api = global.api()?;
    let screen = global.screen();
    for document in &documents {
        let (word, tone) = match apply(&api, document, arguments.dry_run).await? {
            Done::Created => ("created", Tone::Good),
            Done::Configured => ("configured", Tone::Warn),
            Done::Unchanged => ("unchanged", Tone::Dim),
        };
        let note = if arguments.dry_run && tone != Tone::Dim { " (dry run)" } else { "" };
        let word = screen.paint(tone, word);
        screen.line(&format!("{} {} {word}{note}", document.kind, document.name))?;
    }
    Ok(())
}

enum Done {
    Created,
    Configured,
    Unchanged,
}

async fn apply(api: &Api, document: &Document, dry_run: bool) -> Result<Done, Error> {
    let (kind, name) = (document.kind, &document.name);
    let existing = match api.id_of(kind, name).await? {
        Some(uuid) => api.read(kind, uuid).await?,
        None => None,
    };
    let Some(actual) = existing else {
        if !dry_run {
            api.create(kind, name, document.body()).await?;
        }
        return Ok(Done::Created);
    };
    let mut changed = difference::changes(document, &actual);
    if changed.is_empty() {
        return Ok(Done::Unchanged);
    }
    if !dry_run {
        let uuid = api::uuid(&actual)?;
        changed.insert("uuid".into(), json!(uuid));
        api.update(kind, name, uuid, changed).await?;
    }
    Ok(Done::Configured)
}
