//! `skein show`: everything about one object, for people.

use crate::api::{self, Body};
use crate::cli::{Global, Output};
use crate::commands::get;
use crate::error::Error;
use crate::screen::{Format, Screen, Tone, yaml};
use crate::{columns, kinds};
use clap::Args;
use serde_json::{Map, Value};
use skein_model::Kind;

/// Arguments of `skein show`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Object type, as `skein types` lists them
    #[arg(value_name = "TYPE")]
    kind: String,
    /// Name of the object
    name: String,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Error> {
    let kind = kinds::parse(&arguments.kind)?;
    let body = global.scope().find(&global.api()?, kind, &arguments.name).await?;
    let screen = global.screen();
    match arguments.output.format {
        Format::Table | Format::Wide => screen.write(&describe(screen, kind, &body)?),
        format => get::print(screen, format, kind, vec![body], true),
    }
}

fn describe(screen: Screen, kind: Kind, body: &Body) -> Result<String, Error> {
    let meta = kind.meta();
    let heading = |text: &str| format!("\n{}\n", screen.paint(Tone::Strong, text));
    let mut text = screen.paint(Tone::Strong, &format!("{kind} {}", get::name_text(body)));
    text.push('\n');
    let permissions = body.get("id_perms");
    let line = |label: &str, value: Option<&Value>| match columns::plain(value) {
        value if value.is_empty() => String::new(),
        value => format!("  {label:<10} {value}\n"),
    };
    text.push_str(&line("uuid", body.get("uuid")));
    text.push_str(&line("parent", body.get("parent_type")));
    text.push_str(&line("created", permissions.and_then(|p| p.get("created"))));
    text.push_str(&line("modified", permissions.and_then(|p| p.get("last_modified"))));

    let properties: Map<String, Value> = meta
        .all_properties()
        .filter(|p| !matches!(p.name, "id_perms" | "perms2"))
        .filter_map(|p| Some((p.name.to_owned(), body.get(p.name)?.clone())))
        .filter(|(_, value)| !value.is_null())
        .collect();
    if !properties.is_empty() {
        text.push_str(&heading("Properties"));
        text.push_str(&indent(&yaml(&Value::Object(properties))?));
    }
    let mut references = String::new();
    for reference in meta.all_references() {
        for item in items(body, reference.field) {
            references.push_str(&format!("  {} {}\n", reference.target, target(item)));
            match item.get("attr") {
                None | Some(Value::Null) => {}
                Some(attr) => references.push_str(&indent(&indent(&yaml(attr)?))),
            }
        }
    }
    push_section(&mut text, &heading("Refers to"), &references);
    let back = meta.back_references.iter().flat_map(|back| {
        items(body, back.field).map(move |item| format!("  {} {}\n", back.source, target(item)))
    });
    push_section(&mut text, &heading("Referred to by"), &back.collect::<String>());
    let children = meta.children.iter().flat_map(|child| {
        items(body, child.field).map(move |item| format!("  {} {}\n", child.kind, target(item)))
    });
    push_section(&mut text, &heading("Children"), &children.collect::<String>());
    Ok(text)
}

fn push_section(text: &mut String, heading: &str, section: &str) {
    if !section.is_empty() {
        text.push_str(heading);
        text.push_str(section);
    }
}

fn items<'a>(body: &'a Body, field: &str) -> impl Iterator<Item = &'a Value> {
    body.get(field).and_then(Value::as_array).into_iter().flatten()
}

fn target(item: &Value) -> String {
    let name = item.get("to").or_else(|| item.get("fq_name")).and_then(api::fq_name);
    name.map_or_else(|| columns::plain(item.get("uuid")), |name| name.to_string())
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_is_described_with_its_links_both_ways() {
        let body = json!({
            "fq_name": ["default-domain", "shop", "front"], "uuid": "u-1", "parent_type": "project",
            "id_perms": {"created": "2026-01-01T00:00:00.000001", "enable": true},
            "mtu": 1400,
            "network_policy_refs": [
                {"to": ["default-domain", "shop", "web"],
                 "attr": {"sequence": {"major": 0, "minor": 0}}}],
            "instance_ip_back_refs": [{"to": ["ip-1"], "uuid": "u-2"}],
            "routing_instances": [{"to": ["default-domain", "shop", "front", "front"]}],
        });
        let text =
            describe(Screen::plain(), Kind::VIRTUAL_NETWORK, body.as_object().unwrap()).unwrap();
        assert_eq!(
            text,
            "virtual-network default-domain:shop:front
  uuid       u-1
  parent     project
  created    2026-01-01T00:00:00.000001

Properties
  mtu: 1400

Refers to
  network-policy default-domain:shop:web
    sequence:
      major: 0
      minor: 0

Referred to by
  instance-ip ip-1

Children
  routing-instance default-domain:shop:front:front
"
        );
    }
}
