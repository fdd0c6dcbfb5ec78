//! `skein explain`: the data model, from the schema that the servers use.

use crate::cli::Global;
use crate::error::Error;
use crate::nearest::nearest;
use crate::screen::{Screen, Tone};
use crate::table::Table;
use crate::{kinds, shorthand};
use clap::Args;
use skein_model::Kind;
use skein_model::meta::{Collection, StructMeta, TypeMeta, ValueType};

/// Arguments of `skein explain`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skein explain network
  skein explain policy.network_policy_entries.policy_rule
  skein explain network.network_ipam_refs")]
pub(crate) struct Arguments {
    /// Type, or a field of it, with dots into structures
    #[arg(value_name = "TYPE[.FIELD...]")]
    path: String,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<(), Error> {
    let screen = global.screen();
    let mut steps = arguments.path.split('.');
    let kind = kinds::parse(steps.next().unwrap_or_default())?;
    let rest: Vec<&str> = steps.collect();
    let text = match rest.split_first() {
        None => object(screen, kind),
        Some((field, rest)) => member(screen, kind, field, rest)?,
    };
    screen.write(&text)
}

fn object(screen: Screen, kind: Kind) -> String {
    let meta = kind.meta();
    let heading = |text: &str| format!("\n{}\n", screen.paint(Tone::Strong, text));
    let mut text = format!("{}: {}\n", screen.paint(Tone::Strong, meta.name), meta.about);
    let short: Vec<&str> = kinds::aliases(kind).collect();
    if !short.is_empty() {
        text.push_str(&format!("Short names: {}\n", short.join(", ")));
    }
    let mut parents: Vec<&str> = meta.parents.iter().map(|p| p.name()).collect();
    if meta.root_allowed {
        parents.push("none");
    }
    text.push_str(&format!("Parent: {}\n", parents.join(" or ")));
    let shorts = shorthand::fields(kind);
    if !shorts.is_empty() {
        text.push_str(&heading("Short fields, in manifests and options of `create`"));
        let mut table = Table::new(&["FIELD", "ABOUT"]);
        for (name, about) in shorts {
            table.row(vec![(*name).into(), (*about).into()]);
        }
        text.push_str(&table.render(screen));
    }
    text.push_str(&heading("Properties"));
    text.push_str(&properties(meta).render(screen));
    text.push_str(&heading("References"));
    let mut table = Table::new(&["FIELD", "TO", "CARRIES", "NOTE"]);
    for reference in meta.all_references() {
        let by_system = reference.derived || meta.server_sets.contains(&reference.field);
        table.row(vec![
            reference.field.into(),
            reference.target.name().into(),
            reference.attr.map_or("", |a| a.name).into(),
            if by_system { "set by the system" } else { "" }.into(),
        ]);
    }
    text.push_str(&table.render(screen));
    if !meta.children.is_empty() {
        text.push_str(&heading("Children"));
        let names: Vec<&str> = meta.children.iter().map(|c| c.kind.name()).collect();
        text.push_str(&format!("{}\n", names.join(", ")));
    }
    text
}

fn properties(meta: &TypeMeta) -> Table {
    let mut table = Table::new(&["FIELD", "TYPE", "DEFAULT", "NOTE"]);
    for property in meta.all_properties() {
        let mut notes = Vec::new();
        if property.system_only || meta.server_sets.contains(&property.name) {
            notes.push("set by the system".to_owned());
        }
        match property.collection {
            Collection::None => {}
            Collection::List => notes.push("elements can be changed one by one".to_owned()),
            Collection::Map { key } => notes.push(format!("elements by their {key}")),
        }
        table.row(vec![
            property.name.into(),
            value(property.value).into(),
            property.default.unwrap_or("").into(),
            notes.join("; ").into(),
        ]);
    }
    table
}

/// A property or reference, and a field inside it.
fn member(screen: Screen, kind: Kind, field: &str, rest: &[&str]) -> Result<String, Error> {
    let meta = kind.meta();
    let name = field.replace('-', "_");
    let path = format!("{kind}.{name}");
    if let Some((_, about)) = shorthand::fields(kind).iter().find(|(short, _)| *short == name) {
        return Ok(format!("{path}: short field of manifests\n{about}\n"));
    }
    if let Some(property) = meta.property(&name) {
        return inside(screen, &path, property.value, false, rest);
    }
    if let Some(reference) = meta.all_references().find(|r| r.field == name) {
        let text = format!("{path}: references to {}\n", reference.target);
        return match reference.attr {
            Some(attr) => {
                let carries =
                    inside(screen, &format!("{path}.attr"), ValueType::Struct(attr), false, rest)?;
                Ok(format!("{text}{carries}"))
            }
            None if rest.is_empty() => Ok(format!("{text}They carry nothing.\n")),
            None => Err(unknown(&path, rest[0], std::iter::empty())),
        };
    }
    let known = meta.all_properties().map(|p| p.name);
    Err(unknown(kind.name(), &name, known.chain(meta.all_references().map(|r| r.field))))
}

fn inside(
    screen: Screen,
    path: &str,
    kind: ValueType,
    list: bool,
    rest: &[&str],
) -> Result<String, Error> {
    match (kind, rest.split_first()) {
        (ValueType::Struct(meta), Some((step, rest))) => {
            let name = step.replace('-', "_");
            let fields = meta.fields.iter().map(|f| f.name);
            let field = meta.field(&name).ok_or_else(|| unknown(path, &name, fields))?;
            inside(screen, &format!("{path}.{name}"), field.value, field.list, rest)
        }
        (_, Some((step, _))) => Err(unknown(path, step, std::iter::empty())),
        (ValueType::Struct(meta), None) => {
            let many = if list { "list of " } else { "" };
            Ok(format!("{path}: {many}{}\n{}", meta.name, structure(meta).render(screen)))
        }
        (simple, None) => {
            let many = if list { "list of " } else { "" };
            Ok(format!("{path}: {many}{}\n", value(simple)))
        }
    }
}

fn structure(meta: &StructMeta) -> Table {
    let mut table = Table::new(&["FIELD", "TYPE", "DEFAULT", "NOTE"]);
    for field in meta.fields {
        let many = if field.list { "list of " } else { "" };
        table.row(vec![
            field.name.into(),
            format!("{many}{}", value(field.value)).into(),
            field.default.unwrap_or("").into(),
            if field.required { "should be given" } else { "" }.into(),
        ]);
    }
    table
}

/// A type in words, with what it allows.
fn value(kind: ValueType) -> String {
    match kind {
        ValueType::Text => "string".to_owned(),
        ValueType::Integer => "integer".to_owned(),
        ValueType::Boolean => "true or false".to_owned(),
        ValueType::Time => "time".to_owned(),
        ValueType::Struct(meta) => meta.name.to_owned(),
        ValueType::Scalar(meta) if !meta.allowed.is_empty() => meta.allowed.join(" | "),
        ValueType::Scalar(meta) if meta.integer => match (meta.min, meta.max) {
            (Some(min), Some(max)) => format!("integer, {min} to {max}"),
            (Some(min), None) => format!("integer from {min}"),
            (None, Some(max)) => format!("integer up to {max}"),
            (None, None) => "integer".to_owned(),
        },
        ValueType::Scalar(meta) => format!("string ({})", meta.name),
    }
}

fn unknown<'a>(path: &str, field: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let kind = path.split('.').next().unwrap_or(path);
    let next = nearest(field, known).map_or_else(
        || format!("`skein explain {kind}` lists its fields"),
        |near| format!("did you mean {near}? `skein explain {path}` lists the fields"),
    );
    Error::usage(format!("{path} has no field {field:?}"), next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_into_structures() {
        let screen = Screen::plain();
        let path = ["policy_rule", "dst_ports", "end_port"];
        assert_eq!(
            member(screen, Kind::NETWORK_POLICY, "network_policy_entries", &path).unwrap(),
            "network-policy.network_policy_entries.policy_rule.dst_ports.end_port: \
             integer, -1 to 65535\n"
        );
        let text = member(screen, Kind::VIRTUAL_NETWORK, "network_ipam_refs", &[]).unwrap();
        assert!(text.contains("ipam_subnets"), "{text}");
    }

    #[test]
    fn every_type_and_field_can_be_explained() {
        for kind in Kind::all() {
            assert!(object(Screen::plain(), kind).starts_with(kind.name()));
            for property in kind.meta().all_properties() {
                member(Screen::plain(), kind, property.name, &[]).unwrap();
            }
            for reference in kind.meta().all_references() {
                member(Screen::plain(), kind, reference.field, &[]).unwrap();
            }
        }
    }

    #[test]
    fn a_wrong_field_gets_a_suggestion() {
        let error = member(Screen::plain(), Kind::VIRTUAL_NETWORK, "mtuu", &[]).unwrap_err();
        assert!(error.next_step().unwrap().contains("mtu"));
    }
}
