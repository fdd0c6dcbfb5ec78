//! `skein create`: one new object from the command line.

use crate::cli::{Global, Output};
use crate::commands::get;
use crate::document::Document;
use crate::error::Error;
use crate::kinds;
use crate::screen::Format;
use clap::Args;
use serde_json::{Map, Value, json};
use skein_model::Kind;
use skein_model::meta::{StructMeta, ValueType};

/// Arguments of `skein create`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skein create project shop
  skein create network front -p shop --subnet 10.1.1.0/24 --subnet fd00:1::/64 --policy web
  skein create policy web -p shop --rule 'pass tcp from front to back port 80'
  skein create security-group ssh -p shop --rule 'ingress tcp from any port 22' --rule 'egress'
  skein create vmi port-1 -p shop --ref vn=front --ref sg=ssh
  skein create instance-ip port-1-v4 --ref vn=default-domain:shop:front \\
      --ref vmi=default-domain:shop:port-1
  skein create vn back -p shop --set virtual_network_properties.forwarding_mode=l3

Rules of a policy:          pass|deny [PROTOCOL] from PEER to PEER [port N[-M][,...]]
                            pass|deny [PROTOCOL] between PEER and PEER [port ...]
Rules of a security group:  ingress [PROTOCOL] [from PEER] [port ...]
                            egress [PROTOCOL] [to PEER] [port ...]
A PEER is any, a prefix, or the name of a network (of a group, in security groups).
A security group without rules lets nothing pass.")]
pub(crate) struct Arguments {
    /// Object type, as `skein types` lists them
    #[arg(value_name = "TYPE")]
    kind: String,
    /// Name of the new object
    name: String,
    /// Prefix of a network; may be repeated
    #[arg(long = "subnet", value_name = "PREFIX")]
    subnets: Vec<String>,
    /// Policy of a network; may be repeated, the first one counts first
    #[arg(long = "policy", value_name = "NAME")]
    policies: Vec<String>,
    /// Rule of a policy or security group, in words; may be repeated
    #[arg(long = "rule", value_name = "RULE")]
    rules: Vec<String>,
    /// Reference to another object; may be repeated
    #[arg(long = "ref", value_name = "TYPE=NAME")]
    references: Vec<String>,
    /// Any field, with dots into structures; the value is JSON or plain text; may be repeated
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    fields: Vec<String>,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Error> {
    let kind = kinds::parse(&arguments.kind)?;
    let document = document(global, kind, arguments)?;
    let api = global.api()?;
    let uuid = api.create(kind, &document.name, document.body()).await?;
    let screen = global.screen();
    match arguments.output.format {
        Format::Table | Format::Wide => screen.line(&format!("{kind} {} created", document.name)),
        Format::Name => screen.line(&format!("{kind}/{}", document.name)),
        format => {
            let body = api.read(kind, uuid).await?.unwrap_or_else(|| document.body());
            get::print(screen, format, kind, vec![body], true)
        }
    }
}

fn document(global: &Global, kind: Kind, arguments: &Arguments) -> Result<Document, Error> {
    let scope = global.scope();
    let mut document = Document::new(kind, scope.complete(kind, &arguments.name)?);
    let short = [
        ("subnets", "--subnet", &arguments.subnets),
        ("policies", "--policy", &arguments.policies),
        ("rules", "--rule", &arguments.rules),
    ];
    for (field, option, values) in short {
        if values.is_empty() {
            continue;
        }
        if !crate::shorthand::fields(kind).iter().any(|(name, _)| *name == field) {
            return Err(Error::usage(
                format!("a {kind} has no {option}"),
                format!("use --set or --ref; `skein explain {kind}` lists the fields"),
            ));
        }
        document.set(field, json!(values), &scope)?;
    }
    let mut lists: Map<String, Value> = Map::new();
    for text in &arguments.references {
        let (word, name) = pair(text, "--ref", "TYPE=NAME")?;
        let target = kinds::parse(word)?;
        let Some(reference) = kind.meta().reference(target) else {
            return Err(Error::usage(
                format!("a {kind} does not refer to a {target}"),
                format!("`skein explain {kind}` lists its references"),
            ));
        };
        let list = lists.entry(reference.field).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(json!(name));
        }
    }
    for (field, list) in lists {
        document.set(&field, list, &scope)?;
    }
    for text in &arguments.fields {
        let (path, value) = pair(text, "--set", "FIELD=VALUE")?;
        set(&mut document, path, value, global)?;
    }
    Ok(document)
}

fn pair<'a>(text: &'a str, option: &str, form: &str) -> Result<(&'a str, &'a str), Error> {
    text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
        Error::usage(format!("{option} {text:?} has no ="), format!("write {option} {form}"))
    })
}

/// Sets one field by its path, keeping what earlier options set beside it.
fn set(document: &mut Document, path: &str, text: &str, global: &Global) -> Result<(), Error> {
    let mut steps = path.split('.');
    let top = steps.next().unwrap_or_default().replace('-', "_");
    let rest: Vec<&str> = steps.collect();
    let meta = document.kind.meta().property(&top);
    let is_text = meta.is_some_and(|p| is_text(p.value, &rest));
    let mut whole = document.properties.get(&top).cloned().unwrap_or(Value::Null);
    let mut place = &mut whole;
    for step in &rest {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[*step];
    }
    let parsed = if is_text { None } else { serde_json::from_str(text).ok() };
    *place = parsed.unwrap_or_else(|| json!(text));
    document.set(&top, whole, &global.scope())
}

/// Whether a field holds text, so that `--set name=5` is the text "5".
fn is_text(value: ValueType, path: &[&str]) -> bool {
    let field = |meta: &'static StructMeta, name: &str| meta.field(name);
    match (value, path.split_first()) {
        (ValueType::Struct(meta), Some((step, rest))) => {
            field(meta, step).is_some_and(|f| !f.list && is_text(f.value, rest))
        }
        (ValueType::Text | ValueType::Time, None) => true,
        (ValueType::Scalar(meta), None) => !meta.integer,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn body(line: &[&str]) -> Result<Value, Error> {
        let cli = Cli::try_parse_from(["skein", "create"].iter().chain(line)).unwrap();
        let Command::Create(arguments) = &cli.command else { panic!("another command") };
        let kind = kinds::parse(&arguments.kind)?;
        Ok(Value::Object(document(&cli.global, kind, arguments)?.body()))
    }

    #[test]
    fn options_become_fields_and_references() {
        assert_eq!(
            body(&[
                "vmi",
                "port-1",
                "-p",
                "shop",
                "--ref",
                "vn=front",
                "--ref",
                "sg=a",
                "--ref",
                "sg=b",
                "--set",
                "display_name=7",
                "--set",
                "virtual_machine_interface_properties.sub_interface_vlan_tag=7",
            ])
            .unwrap(),
            json!({
                "fq_name": ["default-domain", "shop", "port-1"],
                "parent_type": "project",
                "display_name": "7",
                "virtual_machine_interface_properties": {"sub_interface_vlan_tag": 7},
                "virtual_network_refs": [{"to": ["default-domain", "shop", "front"]}],
                "security_group_refs": [
                    {"to": ["default-domain", "shop", "a"]},
                    {"to": ["default-domain", "shop", "b"]},
                ],
            })
        );
    }

    #[test]
    fn fields_of_one_structure_add_up() {
        let made = body(&[
            "vn",
            "a",
            "--set",
            "virtual_network_properties.forwarding_mode=l3",
            "--set",
            "virtual_network_properties.allow_transit=true",
        ]);
        assert_eq!(
            made.unwrap()["virtual_network_properties"],
            json!({"forwarding_mode": "l3", "allow_transit": true})
        );
    }

    #[test]
    fn what_does_not_fit_the_type_is_refused() {
        for (line, why) in [
            (&["project", "p", "--subnet", "10.0.0.0/8"][..], "has no --subnet"),
            (&["vn", "a", "--ref", "vm=x"][..], "does not refer to a virtual-machine"),
            (&["vn", "a", "--set", "mtu"][..], "has no ="),
            (&["vn", "a", "--set", "mtu=70000"][..], "out of range"),
            (&["vn", "a", "--set", "colour=red"][..], "has no field"),
        ] {
            let error = body(line).unwrap_err();
            assert!(error.to_string().contains(why), "{line:?}: {error}");
            assert!(error.next_step().is_some());
        }
    }
}
