//! Lists: spec section 4.

use std::{collections::HashSet, sync::Arc};

use hyper::Response;
use serde_json::{Map, Value, json};
use skein_model::{FqName, Kind, Object};
use uuid::Uuid;

use super::{Body, Call, json as respond_json, query::Query};
use crate::{
    error::{ApiError, ApiResult},
    plan::parse_uuid,
    present::{self, Shape},
    published::View,
};

/// Items of a page, unless the client says.
const PAGE: usize = 256;

/// `POST /list-bulk-collection`: the same parameters in the body.
pub(super) fn bulk(call: &mut Call<'_>) -> ApiResult<Response<Body>> {
    let body = call.need_body()?;
    let kind = super::kind_field(&body, "type")?;
    let Value::Object(fields) = body else {
        return Err(ApiError::bad("the body must be a JSON object"));
    };
    for (name, value) in fields {
        let value = match value {
            Value::Null => continue,
            // Flags whose presence counts in a query are booleans here.
            Value::Bool(false) => continue,
            Value::Bool(true) => "true".to_owned(),
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Array(list) => list
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect::<Vec<_>>()
                .join(","),
            Value::Object(_) => {
                return Err(ApiError::bad(format!("{name}: must be a string, list or boolean")));
            }
        };
        call.query.set(&name, value);
    }
    list(call, kind)
}

/// `GET /<type>s`
pub(super) fn list(call: &mut Call<'_>, kind: Kind) -> ApiResult<Response<Body>> {
    let query = &call.query;
    let base = (!query.has("exclude_hrefs")).then_some(call.base.as_str());
    let filters =
        query.get("filters").map(|text| parse_filters(kind, text)).transpose()?.unwrap_or_default();
    let page = Page::of(query)?;
    let view = call.app.published.read();
    let mut found = select(&view, kind, query);
    found.retain(|object| matches(object, &filters));
    let plural = format!("{kind}s");
    if query.is_true("count") {
        return Ok(respond_json(&json!({ plural: {"count": found.len()} })));
    }
    let mut marker = None;
    if let Some(page) = page {
        (found, marker) = page.cut(found, query);
    }
    let fields = query.list("fields").unwrap_or_default();
    let detail = query.is_true("detail");
    let items: Vec<Value> = found
        .iter()
        .map(|object| {
            if detail {
                let mut map = present::identity(object, base);
                let all = Shape { base, ..Shape::default() };
                present::extend(&mut map, &view.graph, object, &all);
                if !fields.is_empty() {
                    let named = Shape { fields: Some(fields.clone()), base, ..Shape::default() };
                    let mut extra = Map::new();
                    present::extend(&mut extra, &view.graph, object, &named);
                    map.extend(extra);
                }
                json!({ kind.name(): map })
            } else {
                let mut map = present::brief(object, base);
                if !fields.is_empty() {
                    let named = Shape { fields: Some(fields.clone()), base, ..Shape::default() };
                    let mut extra = Map::new();
                    present::extend(&mut extra, &view.graph, object, &named);
                    for always in ["id_perms", "perms2"] {
                        if !fields.iter().any(|f| f == always) {
                            extra.remove(always);
                        }
                    }
                    map.extend(extra);
                }
                Value::Object(map)
            }
        })
        .collect();
    let mut answer = Map::new();
    answer.insert(plural, Value::Array(items));
    if query.has("page_marker") || query.has("page_limit") {
        answer.insert("marker".into(), marker.map_or(Value::Null, Value::String));
    }
    Ok(respond_json(&Value::Object(answer)))
}

fn uuids(query: &Query, name: &str) -> Option<Vec<Uuid>> {
    query.list(name).map(|list| list.iter().filter_map(|text| parse_uuid(text)).collect())
}

/// Applies the anchors, from the narrowest index that the query allows.
fn select(view: &View, kind: Kind, query: &Query) -> Vec<Arc<Object>> {
    let graph = &view.graph;
    let mut parents = uuids(query, "parent_id");
    if let Some(name) = query.get("parent_fq_name_str") {
        let name = FqName::parse(name);
        let given = query.get("parent_type").and_then(Kind::parse);
        let kinds = kind.meta().parents.iter().copied().filter(|k| given.is_none_or(|g| g == *k));
        parents = Some(kinds.filter_map(|k| graph.by_name(k, &name)).map(|p| p.uuid).collect());
    }
    let sources = uuids(query, "back_ref_id");
    let named = query.list("fq_names").map(|names| {
        // Names may be of one element with colons in it, such as route targets.
        let find = |text: &String| {
            graph
                .by_name(kind, &FqName::parse(text))
                .or_else(|| graph.by_name(kind, &FqName::single(text)))
        };
        names.iter().filter_map(find).map(|o| o.uuid).collect::<HashSet<_>>()
    });
    let wanted = uuids(query, "obj_uuids");
    let mut found: Vec<Arc<Object>> = if let Some(parents) = &parents {
        let mut all: Vec<_> =
            parents.iter().flat_map(|p| graph.children_of_kind(*p, kind).cloned()).collect();
        all.sort_by_key(|o| (o.created_revision, o.uuid));
        all
    } else if let Some(sources) = &sources {
        let mut seen = HashSet::new();
        let all = sources.iter().flat_map(|s| graph.back_references_from(*s, kind).cloned());
        all.filter(|o| seen.insert(o.uuid)).collect()
    } else if let Some(wanted) = &wanted {
        let mut seen = HashSet::new();
        wanted
            .iter()
            .filter(|u| seen.insert(**u))
            .filter_map(|u| graph.get_kind(kind, *u).cloned())
            .collect()
    } else if let Some(named) = &named {
        let mut all: Vec<_> = named.iter().filter_map(|u| graph.get(*u).cloned()).collect();
        all.sort_by(|a, b| a.fq_name.cmp(&b.fq_name));
        all
    } else {
        let mut all: Vec<_> = graph.of_kind(kind).cloned().collect();
        all.sort_by(|a, b| a.fq_name.cmp(&b.fq_name));
        all
    };
    if parents.is_some()
        && let Some(sources) = &sources
    {
        found.retain(|o| o.references.iter().any(|r| sources.contains(&r.uuid)));
    }
    if let Some(wanted) = &wanted {
        let wanted: HashSet<_> = wanted.iter().collect();
        found.retain(|o| wanted.contains(&o.uuid));
    }
    if let Some(named) = &named {
        found.retain(|o| named.contains(&o.uuid));
    }
    // Objects that users do not see are for the system's own parts; without authentication everyone is that.
    found
}

/// Alternatives by property.
type Filters = Vec<(String, Vec<Value>)>;

fn parse_filters(kind: Kind, text: &str) -> ApiResult<Filters> {
    let mut parts: Vec<(String, String)> = Vec::new();
    for piece in text.split(',') {
        let start = piece.split_once("==").filter(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        });
        match (start, parts.last_mut()) {
            (Some((name, value)), _) => parts.push((name.to_owned(), value.to_owned())),
            // A comma inside a JSON value.
            (None, Some((_, value))) => {
                value.push(',');
                value.push_str(piece);
            }
            (None, None) => {
                return Err(ApiError::bad(format!(
                    "filters: {piece:?} is not of the form property==value"
                )));
            }
        }
    }
    let mut filters: Filters = Vec::new();
    for (name, value) in parts {
        if kind.meta().property(&name).is_none() {
            continue;
        }
        let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
        match filters.iter_mut().find(|(n, _)| *n == name) {
            Some((_, values)) => values.push(value),
            None => filters.push((name, vec![value])),
        }
    }
    Ok(filters)
}

fn matches(object: &Object, filters: &Filters) -> bool {
    filters.iter().all(|(name, values)| {
        let list_or_map = object
            .kind
            .meta()
            .property(name)
            .is_some_and(|p| p.collection != skein_model::meta::Collection::None);
        let own = object.properties.get(name).unwrap_or(&Value::Null);
        !list_or_map && values.iter().any(|value| fits(own, value))
    })
}

/// Equal, or a JSON object that is part of the property.
fn fits(own: &Value, wanted: &Value) -> bool {
    match (own, wanted) {
        (Value::Object(own), Value::Object(wanted)) => {
            wanted.iter().all(|(name, value)| own.get(name) == Some(value))
        }
        (Value::Object(_), Value::String(text)) => serde_json::from_str::<Value>(text)
            .is_ok_and(|wanted| wanted.is_object() && fits(own, &wanted)),
        _ => own == wanted,
    }
}

/// A window on a list.
struct Page {
    after: Option<String>,
    limit: usize,
}

impl Page {
    fn of(query: &Query) -> ApiResult<Option<Self>> {
        if !query.has("page_marker") && !query.has("page_limit") {
            return Ok(None);
        }
        let limit = match query.get("page_limit") {
            None => PAGE,
            Some(text) => text.parse().ok().filter(|limit| *limit > 0).ok_or_else(|| {
                ApiError::bad(format!("page_limit: must be a number above 0, got {text:?}"))
            })?,
        };
        let after =
            query.get("page_marker").filter(|m| !matches!(*m, "" | "None")).map(str::to_owned);
        if let Some(marker) = &after
            && marker.rsplit(':').next().and_then(parse_uuid).is_none()
        {
            return Err(ApiError::bad(format!("page_marker: {marker:?} does not end in a uuid")));
        }
        Ok(Some(Self { after, limit }))
    }

    /// Takes the next page and says where it ended.
    fn cut(
        &self,
        mut found: Vec<Arc<Object>>,
        query: &Query,
    ) -> (Vec<Arc<Object>>, Option<String>) {
        let anchored = ["parent_id", "parent_fq_name_str", "back_ref_id", "obj_uuids"]
            .iter()
            .any(|n| query.has(n));
        let key = |o: &Object| {
            if anchored { o.uuid.to_string() } else { format!("{}:{}", o.fq_name, o.uuid) }
        };
        found.sort_by_cached_key(|o| key(o));
        let from =
            self.after.as_ref().map_or(0, |after| found.partition_point(|o| key(o) <= *after));
        let more = found.len() > from + self.limit;
        let page: Vec<_> = found.into_iter().skip(from).take(self.limit).collect();
        let marker = page.last().filter(|_| more).map(|last| key(last));
        (page, marker)
    }
}
