//! A request body, checked against the schema. No state is needed for this, so it runs in parallel in the connection tasks.

use serde_json::{Map, Value};
use skein_model::{
    Kind,
    meta::{PropertyMeta, ReferenceMeta, TypeMeta},
    validate,
};

use crate::error::{ApiError, ApiResult};

/// A reference as the client named it.
#[derive(Debug, Clone, Default)]
pub struct RefIntent {
    /// By name.
    pub to: Option<Vec<String>>,
    /// By uuid.
    pub uuid: Option<String>,
    /// What it carries, in normal form.
    pub attr: Value,
}

/// The body of a create or update.
#[derive(Debug, Clone)]
pub struct Intake {
    /// The type.
    pub kind: Kind,
    /// `uuid`, if it was given and not null.
    pub uuid: Option<String>,
    /// `fq_name`, if it was given and not null.
    pub fq_name: Option<Vec<String>>,
    /// `parent_type`, if it was given and not null.
    pub parent_type: Option<String>,
    /// Properties with a value, in normal form.
    pub properties: Map<String, Value>,
    /// Properties that were given as null.
    pub removed: Vec<&'static PropertyMeta>,
    /// Reference lists that were given, each the whole set of that target type.
    pub references: Vec<(&'static ReferenceMeta, Vec<RefIntent>)>,
}

impl Intake {
    /// Takes the object out of its envelope and checks every field.
    ///
    /// # Errors
    /// 400 with the field and the reason.
    pub fn parse(kind: Kind, envelope: Value) -> ApiResult<Self> {
        let Value::Object(mut envelope) = envelope else {
            return Err(ApiError::bad(format!(
                "the body must be a JSON object {{\"{kind}\": {{...}}}}"
            )));
        };
        let body = envelope.remove(kind.name()).or_else(|| envelope.remove(kind.snake()));
        if body.is_some()
            && let Some(other) = envelope.keys().next()
        {
            return Err(ApiError::bad(format!(
                "{other}: unknown field beside \"{kind}\"; the object's fields go inside it"
            )));
        }
        match body {
            Some(Value::Object(body)) => Self::from_fields(kind, body),
            Some(_) => Err(ApiError::bad(format!("{kind}: must be a JSON object"))),
            None => Err(ApiError::bad(format!("the body has no field \"{kind}\""))),
        }
    }

    /// Checks the fields of an object.
    ///
    /// # Errors
    /// 400 with the field and the reason.
    pub fn from_fields(kind: Kind, fields: Map<String, Value>) -> ApiResult<Self> {
        let meta = kind.meta();
        let mut intake = Self {
            kind,
            uuid: None,
            fq_name: None,
            parent_type: None,
            properties: Map::new(),
            removed: Vec::new(),
            references: Vec::new(),
        };
        for (name, mut value) in fields {
            match name.as_str() {
                "uuid" => intake.uuid = text("uuid", value)?,
                "fq_name" => intake.fq_name = names("fq_name", value)?,
                "parent_type" => intake.parent_type = text("parent_type", value)?,
                _ => {
                    if let Some(property) = meta.property(&name) {
                        if value.is_null() {
                            intake.removed.push(property);
                        } else {
                            validate::property(property, &mut value)?;
                            check_further(property, &value)?;
                            intake.properties.insert(name, value);
                        }
                    } else if name.ends_with("_refs")
                        && let Some(reference) = meta.all_references().find(|r| r.field == name)
                    {
                        intake.references.push((reference, intents(reference, value)?));
                    } else if !read_back(meta, &name) {
                        return Err(unknown(kind, &name));
                    }
                }
            }
        }
        Ok(intake)
    }

    /// The references named for one target type.
    #[must_use]
    pub fn references_to(&self, kind: Kind) -> Option<&[RefIntent]> {
        self.references
            .iter()
            .find(|(meta, _)| meta.target == kind)
            .map(|(_, intents)| intents.as_slice())
    }
}

/// What an answer says of an object and a request cannot set: clients write back what they have read, so it is
/// taken and has no effect.
fn read_back(meta: &TypeMeta, field: &str) -> bool {
    matches!(field, "name" | "href" | "parent_uuid" | "parent_href")
        || meta.children.iter().any(|child| child.field == field)
        || meta.back_references.iter().any(|back| back.field == field)
}

/// A field that no type of this name has. To drop it would be to promise what was never stored (ADR 0031).
fn unknown(kind: Kind, field: &str) -> ApiError {
    ApiError::bad(format!(
        "{field}: unknown field, a {kind} has none of this name; `skein explain {kind}` lists them"
    ))
}

/// Falsy values of scalar properties pass the schema's check whatever their type; what is stored must still be of the type.
fn check_further(property: &PropertyMeta, value: &Value) -> ApiResult<()> {
    use skein_model::meta::ValueType;
    let fits = match property.value {
        ValueType::Struct(_) => value.is_object(),
        ValueType::Boolean => value.is_boolean(),
        ValueType::Integer => value.is_number(),
        ValueType::Scalar(scalar) if scalar.integer => value.is_number(),
        ValueType::Text | ValueType::Time | ValueType::Scalar(_) => value.is_string(),
    };
    let empty = matches!(value, Value::String(s) if s.is_empty())
        || matches!(value, Value::Array(a) if a.is_empty())
        || matches!(value, Value::Object(o) if o.is_empty())
        || matches!(value, Value::Bool(false))
        || matches!(value, Value::Number(n) if n.as_f64() == Some(0.0));
    if fits || empty {
        Ok(())
    } else {
        Err(ApiError::bad(format!("{}: the value has the wrong type", property.name)))
    }
}

fn intents(reference: &'static ReferenceMeta, value: Value) -> ApiResult<Vec<RefIntent>> {
    let list = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        _ => {
            return Err(ApiError::bad(format!(
                "{}: must be a list of references",
                reference.field
            )));
        }
    };
    list.into_iter()
        .enumerate()
        .map(|(at, one)| {
            let field = || format!("{}[{at}]", reference.field);
            let Value::Object(mut one) = one else {
                return Err(ApiError::bad(format!(
                    "{}: must be an object with \"to\" or \"uuid\"",
                    field()
                )));
            };
            let mut attr = one.remove("attr").unwrap_or(Value::Null);
            validate::attribute(&field(), reference.attr, &mut attr)?;
            let to = names(&format!("{}.to", field()), one.remove("to").unwrap_or(Value::Null))?;
            let uuid =
                text(&format!("{}.uuid", field()), one.remove("uuid").unwrap_or(Value::Null))?;
            if to.is_none() && uuid.is_none() {
                return Err(ApiError::bad(format!(
                    "{}: names no target, give \"to\" or \"uuid\"",
                    field()
                )));
            }
            // `href` is read back; anything else would be lost, such as a misspelt `attr`.
            if let Some(other) = one.keys().find(|key| *key != "href") {
                return Err(ApiError::bad(format!(
                    "{}.{other}: unknown field, a reference has to, uuid and attr",
                    field()
                )));
            }
            Ok(RefIntent { to, uuid, attr })
        })
        .collect()
}

/// A string, or nothing for null.
pub(crate) fn text(field: &str, value: Value) -> ApiResult<Option<String>> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        _ => Err(ApiError::bad(format!("{field}: must be a string"))),
    }
}

/// A list of strings, or nothing for null and the empty list.
pub(crate) fn names(field: &str, value: Value) -> ApiResult<Option<Vec<String>>> {
    let wrong = || ApiError::bad(format!("{field}: must be a list of strings"));
    match value {
        Value::Null => Ok(None),
        Value::Array(list) if list.is_empty() => Ok(None),
        Value::Array(list) => list
            .into_iter()
            .map(|one| match one {
                Value::String(text) => Ok(text),
                _ => Err(wrong()),
            })
            .collect::<ApiResult<Vec<_>>>()
            .map(Some),
        _ => Err(wrong()),
    }
}
