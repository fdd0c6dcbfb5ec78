//! Manifests: files of wanted objects, YAML or JSON, one document or many.

use crate::document::Document;
use crate::error::Error;
use crate::scope::Scope;
use serde_json::Value;
use skein_model::{FqName, Kind};
use std::collections::{HashMap, HashSet};
use std::io::Read;

/// Reads files (`-` is standard input) and checks every document before any is used.
pub(crate) fn read(paths: &[String], scope: &Scope) -> Result<Vec<Document>, Error> {
    let mut documents = Vec::new();
    for path in paths {
        let mut text = String::new();
        let done = if path == "-" {
            std::io::stdin().read_to_string(&mut text).map(|_| ())
        } else {
            std::fs::read_to_string(path).map(|content| text = content)
        };
        done.map_err(|cause| Error::File { path: path.clone(), cause })?;
        documents.extend(parse(&text, path, scope)?);
    }
    if documents.is_empty() {
        return Err(Error::usage(
            format!("there is no object in {}", paths.join(", ")),
            "a manifest holds documents such as `kind: virtual-network` with a `name`",
        ));
    }
    in_order(documents)
}

/// The documents of one text. JSON is YAML, too.
pub(crate) fn parse(text: &str, path: &str, scope: &Scope) -> Result<Vec<Document>, Error> {
    let values: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|e| {
        Error::usage(format!("{path} is neither YAML nor JSON: {e}"), "correct the place it names")
    })?;
    let mut documents = Vec::new();
    for value in values.into_iter().flat_map(flatten) {
        let number = documents.len() + 1;
        documents.push(Document::from_value(value, scope).map_err(|error| match error {
            Error::Usage(message, next) => {
                Error::Usage(format!("{path}, object {number}: {message}"), next)
            }
            other => other,
        })?);
    }
    Ok(documents)
}

/// Lists, and the API's own `{"virtual-networks": [...]}`, hold several objects.
fn flatten(value: Value) -> Vec<Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(items) => items.into_iter().flat_map(flatten).collect(),
        Value::Object(map) if map.len() == 1 => {
            let plural = |name: &str| name.strip_suffix('s').and_then(Kind::parse);
            match map.into_iter().next() {
                Some((name, Value::Array(items))) if plural(&name).is_some() => {
                    let kind = name.trim_end_matches('s');
                    items.into_iter().map(|item| envelope(item, kind)).collect()
                }
                Some((name, other)) => vec![Value::Object([(name, other)].into_iter().collect())],
                None => Vec::new(),
            }
        }
        other => vec![other],
    }
}

/// List items come bare or, with details, in their envelope.
fn envelope(item: Value, kind: &str) -> Value {
    if item.get(kind).is_some() {
        item
    } else {
        Value::Object([(kind.to_owned(), item)].into_iter().collect())
    }
}

/// What others need comes first; otherwise the order is the writer's.
fn in_order(documents: Vec<Document>) -> Result<Vec<Document>, Error> {
    let mut at: HashMap<(Kind, FqName), usize> = HashMap::new();
    for (index, document) in documents.iter().enumerate() {
        if at.insert((document.kind, document.name.clone()), index).is_some() {
            return Err(Error::usage(
                format!("{} {} is written twice", document.kind, document.name),
                "keep one of the two documents",
            ));
        }
    }
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    for index in 0..documents.len() {
        visit(index, &documents, &at, &mut seen, &mut order);
    }
    let mut slots: Vec<Option<Document>> = documents.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|index| slots[index].take()).collect())
}

/// Depth first. A circle of references is left in the writer's order; the API will judge it.
fn visit(
    index: usize,
    documents: &[Document],
    at: &HashMap<(Kind, FqName), usize>,
    seen: &mut HashSet<usize>,
    order: &mut Vec<usize>,
) {
    if !seen.insert(index) {
        return;
    }
    for need in documents[index].needs() {
        if let Some(&needed) = at.get(&need) {
            visit(needed, documents, at, seen, order);
        }
    }
    order.push(index);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let scope = Scope::new("default-domain", Some("shop"));
        let documents = in_order(parse(text, "test", &scope).unwrap()).unwrap();
        documents.iter().map(|d| format!("{}/{}", d.kind, d.name)).collect()
    }

    #[test]
    fn what_is_needed_comes_first() {
        let text = "
kind: network
name: front
policies: [web]
---
kind: policy
name: web
rules: [pass tcp from front to back port 80]
---
kind: project
name: shop
---
{\"virtual-network\": {\"fq_name\": [\"default-domain\", \"shop\", \"back\"]}}
";
        assert_eq!(
            names(text),
            [
                "project/default-domain:shop",
                "network-policy/default-domain:shop:web",
                "virtual-network/default-domain:shop:front",
                "virtual-network/default-domain:shop:back",
            ]
        );
    }

    #[test]
    fn lists_of_the_api_are_understood() {
        let text = r#"{"virtual-networks": [
            {"virtual-network": {"fq_name": ["d", "p", "a"]}}, {"fq_name": ["d", "p", "b"]}]}"#;
        assert_eq!(names(text), ["virtual-network/d:p:a", "virtual-network/d:p:b"]);
    }

    #[test]
    fn errors_say_which_object_of_which_file() {
        let scope = Scope::new("default-domain", None);
        let error = parse("kind: vn\nname: a\n---\nkind: vn\n", "x.yaml", &scope).unwrap_err();
        assert!(error.to_string().starts_with("x.yaml, object 2: "), "{error}");
        assert!(parse("a: [", "x.yaml", &scope).unwrap_err().to_string().contains("line 1"));
        let twice = parse("[{kind: vn, name: a}, {kind: vn, name: a}]", "x", &scope).unwrap();
        assert!(in_order(twice).unwrap_err().to_string().contains("twice"));
    }
}
