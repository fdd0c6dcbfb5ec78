//! `skein get`: tables of objects.

use crate::api::{self, Body};
use crate::cli::{Global, Output};
use crate::columns;
use crate::error::Error;
use crate::kinds;
use crate::screen::{Format, Screen};
use crate::table::Table;
use clap::Args;
use serde_json::{Value, json};
use skein_model::{FqName, Kind};

/// Arguments of `skein get`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skein get networks
  skein get policy web -o yaml > web.yaml          `skein apply -f web.yaml` takes it back
  skein get vmi -p shop -o wide")]
pub(crate) struct Arguments {
    /// Object type, as `skein types` lists them
    #[arg(value_name = "TYPE")]
    kind: String,
    /// Names of single objects; without, all of the type
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Lists every project, whatever --project or SKEIN_PROJECT says
    #[arg(long, short = 'A')]
    all_projects: bool,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Error> {
    let kind = kinds::parse(&arguments.kind)?;
    let (api, scope) = (global.api()?, global.scope());
    let mut bodies = Vec::new();
    if arguments.names.is_empty() {
        let project = scope
            .chosen_project()
            .filter(|_| !arguments.all_projects && kind.meta().parents.contains(&Kind::PROJECT));
        bodies = api.list(kind, project.as_ref()).await?;
        bodies.sort_by_key(|body| body.get("fq_name").and_then(api::fq_name));
    }
    for name in &arguments.names {
        bodies.push(scope.find(&api, kind, name).await?);
    }
    let one = arguments.names.len() == 1;
    print(global.screen(), arguments.output.format, kind, bodies, one)
}

/// Prints objects of one type; a single one that was asked for by name is not put in a list.
pub(crate) fn print(
    screen: Screen,
    format: Format,
    kind: Kind,
    bodies: Vec<Body>,
    one: bool,
) -> Result<(), Error> {
    match format {
        Format::Table | Format::Wide => {
            if bodies.is_empty() {
                return screen.line(&format!("no {kind} here"));
            }
            screen.write(&table(kind, &bodies, format == Format::Wide).render(screen))
        }
        Format::Name => {
            let lines = bodies.iter().map(|body| format!("{kind}/{}\n", name_text(body)));
            screen.write(&lines.collect::<String>())
        }
        Format::Json | Format::Yaml => {
            let mut documents: Vec<Value> =
                bodies.into_iter().map(|body| json!({kind.name(): body})).collect();
            match (format, one, documents.pop()) {
                (Format::Yaml, _, Some(last)) => {
                    documents.push(last);
                    screen.yaml(&documents)
                }
                (Format::Yaml, _, None) => Ok(()),
                (_, true, Some(last)) => screen.json(&last),
                (_, _, last) => {
                    documents.extend(last);
                    screen.json(&Value::Array(documents))
                }
            }
        }
    }
}

fn table(kind: Kind, bodies: &[Body], wide: bool) -> Table {
    let in_projects = kind.meta().parents.contains(&Kind::PROJECT);
    let columns: Vec<_> = columns::of(kind).into_iter().filter(|c| wide || !c.wide).collect();
    let mut head = vec!["NAME".to_owned()];
    if in_projects {
        head.insert(0, "PROJECT".to_owned());
    }
    head.extend(columns.iter().map(|c| c.title.clone()));
    if wide {
        head.push("UUID".to_owned());
    }
    let mut table = Table::new(&head);
    for body in bodies {
        let (home, name) = split_name(body, in_projects);
        let mut row = vec![name.into()];
        if in_projects {
            row.insert(0, home.into());
        }
        row.extend(columns.iter().map(|c| c.text(body).into()));
        if wide {
            row.push(columns::plain(body.get("uuid")).into());
        }
        table.row(row);
    }
    table
}

/// Objects of projects show project and name; others their whole name.
fn split_name(body: &Body, in_projects: bool) -> (String, String) {
    let Some(name) = body.get("fq_name").and_then(api::fq_name) else {
        return (String::new(), String::new());
    };
    let in_project = body.get("parent_type") == Some(&json!("project"));
    if in_projects && in_project {
        let project = name.parent().map(|p: FqName| p.name().to_owned());
        return (project.unwrap_or_default(), name.name().to_owned());
    }
    (String::new(), name.to_string())
}

/// The full name of an object.
pub(crate) fn name_text(body: &Body) -> String {
    body.get("fq_name").and_then(api::fq_name).map_or_else(String::new, |name| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_listed_with_their_project() {
        let body = json!({
            "fq_name": ["default-domain", "shop", "front"], "parent_type": "project",
            "uuid": "u-1", "virtual_network_network_id": 5,
        });
        let bodies = [body.as_object().unwrap().clone()];
        assert_eq!(
            table(Kind::VIRTUAL_NETWORK, &bodies, false).render(Screen::plain()),
            "PROJECT  NAME   SUBNETS  POLICIES  ID\nshop     front  -        -         5\n"
        );
        let wide = table(Kind::VIRTUAL_NETWORK, &bodies, true).render(Screen::plain());
        assert!(wide.lines().next().unwrap().ends_with("UUID"), "{wide}");
        assert!(wide.lines().nth(1).unwrap().ends_with("u-1"), "{wide}");
    }
}
