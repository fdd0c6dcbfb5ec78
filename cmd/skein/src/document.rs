//! One wanted object: what a manifest or `skein create` says, checked against the schema.

use crate::api::{self, Body};
use crate::error::Error;
use crate::nearest::nearest;
use crate::scope::{Scope, parent_of};
use crate::{kinds, shorthand};
use serde_json::{Map, Value, json};
use skein_model::meta::ReferenceMeta;
use skein_model::{FqName, Kind, validate};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A wanted object. Fields that it does not name are left as they are.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) kind: Kind,
    pub(crate) name: FqName,
    pub(crate) parent: Option<Kind>,
    pub(crate) uuid: Option<Uuid>,
    pub(crate) properties: Body,
    pub(crate) references: BTreeMap<&'static str, Vec<Wanted>>,
}

/// A wanted reference.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) kind: Kind,
    pub(crate) to: Option<FqName>,
    pub(crate) uuid: Option<Uuid>,
    pub(crate) attr: Value,
}

impl Document {
    /// A new object that has only a name.
    pub(crate) fn new(kind: Kind, name: FqName) -> Document {
        let parent = parent_of(kind, &name);
        Document {
            kind,
            name,
            parent,
            uuid: None,
            properties: Map::new(),
            references: BTreeMap::new(),
        }
    }

    /// From a manifest: `{kind: TYPE, ...}` or the API's own `{TYPE: {...}}`.
    pub(crate) fn from_value(value: Value, scope: &Scope) -> Result<Document, Error> {
        let Value::Object(mut map) = value else {
            return Err(shape("a document is not a mapping"));
        };
        if let Some(kind) = map.remove("kind") {
            let word = kind.as_str().ok_or_else(|| shape("`kind` is not a string"))?;
            return Document::from_body(kinds::parse(word)?, map, scope);
        }
        let mut entries = map.into_iter();
        match (entries.next(), entries.next()) {
            (Some((name, Value::Object(body))), None) => match kinds::exact(&name) {
                Some(kind) => Document::from_body(kind, body, scope),
                None => Err(kinds::parse(&name).err().unwrap_or_else(|| {
                    shape(&format!("{name:?} is not spelled as the schema has it"))
                })),
            },
            _ => Err(shape("a document has no `kind`")),
        }
    }

    fn from_body(kind: Kind, mut body: Body, scope: &Scope) -> Result<Document, Error> {
        let text = |body: &mut Body, field: &str| match body.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(shape(&format!("`{field}` of a {kind} is not a string"))),
        };
        let (domain, project) = (text(&mut body, "domain")?, text(&mut body, "project")?);
        let scope = scope.within(domain.as_deref(), project.as_deref());
        let short = text(&mut body, "name")?;
        let name = match (body.remove("fq_name"), short) {
            (Some(list @ Value::Array(_)), _) => api::fq_name(&list)
                .ok_or_else(|| shape(&format!("fq_name of a {kind} is not a list of strings")))?,
            (Some(Value::String(word)), _) | (None, Some(word)) => scope.complete(kind, &word)?,
            (Some(_), _) => {
                return Err(shape(&format!("fq_name of a {kind} is not a list of strings")));
            }
            (None, None) => return Err(shape(&format!("a {kind} has no `name` or `fq_name`"))),
        };
        let mut document = Document::new(kind, name);
        if let Some(parent) = text(&mut body, "parent_type")? {
            document.parent = kinds::exact(&parent).filter(|p| *p != Kind::CONFIG_ROOT);
        }
        if let Some(uuid) = text(&mut body, "uuid")? {
            let uuid = uuid.parse().map_err(|_| shape(&format!("{uuid:?} is no uuid")))?;
            document.uuid = Some(uuid);
        }
        for (field, value) in body {
            document.set(&field, value, &scope)?;
        }
        Ok(document)
    }

    /// Sets a property, a reference list or a short field.
    pub(crate) fn set(&mut self, field: &str, value: Value, scope: &Scope) -> Result<(), Error> {
        if let Some((long, value)) = shorthand::expand(self.kind, field, &value, scope)? {
            return self.set(long, value, scope);
        }
        let meta = self.kind.meta();
        let field = field.replace('-', "_");
        if let Some(property) = meta.property(&field) {
            if property.system_only && !matches!(property.name, "id_perms" | "perms2") {
                return Ok(());
            }
            let mut value =
                if property.name == "id_perms" { writable_permissions(value) } else { value };
            validate::property(property, &mut value)
                .map_err(|e| invalid(self.kind, &self.name, &e.to_string()))?;
            if property.name != "id_perms" || !value.is_null() {
                self.properties.insert(field, value);
            }
            return Ok(());
        }
        if let Some(reference) = meta.all_references().find(|r| r.field == field) {
            // What the server makes itself comes back from `get`; sending it would be refused.
            let made_by_server = reference.derived || meta.server_sets.contains(&reference.field);
            if !made_by_server || reference.target == Kind::PROJECT {
                let wanted = self.wanted_list(reference, value, scope)?;
                self.references.insert(reference.field, wanted);
            }
            return Ok(());
        }
        if self.is_view(&field) {
            return Ok(());
        }
        let known = meta.all_properties().map(|p| p.name);
        let known = known.chain(meta.all_references().map(|r| r.field));
        let known = known.chain(shorthand::fields(self.kind).iter().map(|(name, _)| *name));
        let next =
            nearest(&field, known).map_or_else(String::new, |n| format!("did you mean {n}? "));
        Err(Error::usage(
            format!("{} {} has no field {field:?}", self.kind, self.name),
            format!("{next}`skein explain {}` lists the fields", self.kind),
        ))
    }

    /// Fields that `get -o yaml` shows and nobody writes: links, children, back references.
    fn is_view(&self, field: &str) -> bool {
        let meta = self.kind.meta();
        matches!(field, "href" | "parent_href" | "parent_uuid")
            || field.ends_with("_back_refs")
            || meta.children.iter().any(|c| c.field == field)
    }

    fn wanted_list(
        &self,
        meta: &ReferenceMeta,
        value: Value,
        scope: &Scope,
    ) -> Result<Vec<Wanted>, Error> {
        let items = match value {
            Value::Null => Vec::new(),
            Value::Array(items) => items,
            one => vec![one],
        };
        items.into_iter().map(|item| self.wanted(meta, item, scope)).collect()
    }

    fn wanted(&self, meta: &ReferenceMeta, item: Value, scope: &Scope) -> Result<Wanted, Error> {
        let wrong = |why: &str| {
            let message = format!("{} of {} {}: {why}", meta.field, self.kind, self.name);
            Error::usage(message, "write NAME, or {to: NAME, attr: {...}}")
        };
        let mut map = match item {
            Value::Object(map) => map,
            name @ (Value::String(_) | Value::Array(_)) => {
                Map::from_iter([("to".to_owned(), name)])
            }
            _ => return Err(wrong("an element is neither a name nor a mapping")),
        };
        let to = match map.remove("to") {
            None | Some(Value::Null) => None,
            Some(Value::String(word)) => Some(scope.complete(meta.target, &word)?),
            Some(list) => {
                Some(api::fq_name(&list).ok_or_else(|| wrong("`to` is not a list of strings"))?)
            }
        };
        let uuid = match map.remove("uuid") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => {
                Some(text.parse().map_err(|_| wrong(&format!("{text:?} is no uuid")))?)
            }
            Some(_) => return Err(wrong("`uuid` is not a string")),
        };
        if to.is_none() && uuid.is_none() {
            return Err(wrong("an element has no `to`"));
        }
        let mut attr = map.remove("attr").unwrap_or(Value::Null);
        map.remove("href");
        if let Some(field) = map.keys().next() {
            return Err(wrong(&format!("an element has the unknown field {field:?}")));
        }
        validate::attribute(meta.field, meta.attr, &mut attr)
            .map_err(|e| invalid(self.kind, &self.name, &e.to_string()))?;
        Ok(Wanted { kind: meta.target, to, uuid, attr })
    }

    /// The body of a create request.
    pub(crate) fn body(&self) -> Body {
        let mut body = self.properties.clone();
        body.insert("fq_name".into(), json!(self.name));
        if let Some(parent) = self.parent {
            body.insert("parent_type".into(), json!(parent));
        }
        if let Some(uuid) = self.uuid {
            body.insert("uuid".into(), json!(uuid));
        }
        for (field, wanted) in &self.references {
            body.insert((*field).to_owned(), wanted.iter().map(Wanted::to_value).collect());
        }
        body
    }

    /// Names that must exist before this object can be made.
    pub(crate) fn needs(&self) -> impl Iterator<Item = (Kind, FqName)> {
        let parent = self.parent.zip(self.name.parent());
        let targets = self.references.values().flatten();
        parent.into_iter().chain(targets.filter_map(|w| w.to.clone().map(|to| (w.kind, to))))
    }
}

impl Wanted {
    /// The API's form.
    pub(crate) fn to_value(&self) -> Value {
        let mut map = Map::new();
        if let Some(to) = &self.to {
            map.insert("to".into(), json!(to));
        } else if let Some(uuid) = &self.uuid {
            map.insert("uuid".into(), json!(uuid));
        }
        if !self.attr.is_null() {
            map.insert("attr".into(), self.attr.clone());
        }
        Value::Object(map)
    }
}

/// Of `id_perms` only these fields are a writer's.
fn writable_permissions(value: Value) -> Value {
    let Value::Object(mut map) = value else {
        return value;
    };
    map.retain(|field, value| {
        (field == "enable" && *value == Value::Bool(false))
            || (field == "description" && !value.is_null())
    });
    if map.is_empty() { Value::Null } else { Value::Object(map) }
}

fn shape(why: &str) -> Error {
    Error::usage(
        why,
        "a document is `kind: TYPE`, `name: NAME` and fields, or {TYPE: {fq_name: [...], ...}}",
    )
}

fn invalid(kind: Kind, name: &FqName, why: &str) -> Error {
    Error::usage(
        format!("{kind} {name}: {why}"),
        format!("`skein explain {kind}` lists the fields and their types"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: Value) -> Result<Document, Error> {
        Document::from_value(value, &Scope::new("default-domain", Some("shop")))
    }

    #[test]
    fn the_short_and_the_apis_form_mean_the_same() {
        let short = json!({"kind": "vn", "name": "front", "policies": ["web"], "mtu": 1400});
        let long = json!({"virtual-network": {
            "fq_name": ["default-domain", "shop", "front"],
            "parent_type": "project",
            "mtu": "1400",
            "network_policy_refs": [
                {"to": ["default-domain", "shop", "web"], "href": "http://x", "uuid": null,
                 "attr": {"sequence": {"major": 0, "minor": 0}, "timer": null}},
            ],
        }});
        assert_eq!(parse(short).unwrap().body(), parse(long).unwrap().body());
    }

    #[test]
    fn what_get_shows_can_be_given_back() {
        let document = parse(json!({"virtual-machine-interface": {
            "fq_name": ["default-domain", "shop", "p"],
            "uuid": "00000000-0000-0000-0000-000000000001",
            "href": "http://x", "parent_uuid": "y",
            "id_perms": {"enable": true, "created": "now", "uuid": {"uuid_mslong": 1}},
            "routing_instance_refs": [{"to": ["default-domain", "shop", "v", "v"]}],
            "instance_ip_back_refs": [{"uuid": "z"}],
        }}))
        .unwrap();
        let fields: Vec<String> = document.body().keys().cloned().collect();
        assert_eq!(fields, ["fq_name", "parent_type", "uuid"]);
    }

    #[test]
    fn mistakes_are_found_before_anything_is_sent() {
        for (value, why, next) in [
            (json!({"kind": "vn", "name": "a", "subnet": []}), "no field \"subnet\"", "subnets"),
            (json!({"kind": "vn", "name": "a", "mtu": "x"}), "mtu: expected an integer", "explain"),
            (json!({"kind": "vnn", "name": "a"}), "no object type", "vn"),
            (json!({"kind": "vn"}), "no `name`", "kind: TYPE"),
            (json!({"name": "a"}), "has no `kind`", "kind: TYPE"),
            (json!([1]), "not a mapping", "kind: TYPE"),
            (
                json!({"kind": "vn", "name": "a", "network_policy_refs": [{"too": "b"}]}),
                "has no `to`",
                "{to: NAME",
            ),
        ] {
            let error = parse(value.clone()).unwrap_err();
            assert!(error.to_string().contains(why), "{value}: {error}");
            assert!(error.next_step().unwrap().contains(next), "{value}: {error:?}");
        }
    }
}
