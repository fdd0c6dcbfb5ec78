//! Which calls may be sent again when it is not known whether they were done.
//!
//! A call that never left, or that the API refused, goes to the next replica in any case. This is about the others: the
//! connection broke, or time ran out, after the request was on its way (adr/0027).
//!
//! | call | again? | why |
//! |---|---|---|
//! | `GET`, and the `POST`s that only read | yes | nothing changes |
//! | `PUT` of an object | yes | it says what fields are to be, not how they change |
//! | `DELETE` of an object | yes | gone is gone: 404 then means that it was done |
//! | `ref-update`, `ref-relax-for-delete`, `set-tag`, `prop-collection-update` with "set", "delete"; `useragent-kv` | yes | they say what is to be |
//! | `POST` of a new object | yes, with a uuid | 409 then means that it was done, if what is there under that uuid is what was sent |
//! | `ip-alloc`, `ip-free` and everything else | no | a second one takes or gives back something else |

use hyper::Method;
use serde_json::{Map, Value};
use skein_model::Kind;
use uuid::Uuid;

/// What a second try means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// The same as the first.
    Same,
    /// "Not there" is what was wanted.
    Gone,
    /// "There already" may be the first one's work.
    Made(Kind),
    /// Something else: it must not be.
    Never,
}

impl Repeat {
    /// Of a call.
    pub(crate) fn of(method: &Method, path: &str, body: Option<&Value>) -> Self {
        let path = path.split('?').next().unwrap_or_default();
        let mut segments = path.trim_matches('/').split('/');
        let (first, second) = (segments.next().unwrap_or_default(), segments.next());
        match (method, second) {
            (&Method::GET | &Method::HEAD | &Method::PUT, _) => Self::Same,
            (&Method::DELETE, Some(_)) => Self::Gone,
            (&Method::POST, None) => match first {
                "fqname-to-id"
                | "id-to-fqname"
                | "list-bulk-collection"
                | "useragent-kv"
                | "ref-update"
                | "ref-relax-for-delete"
                | "set-tag"
                | "chown"
                | "chmod" => Self::Same,
                "prop-collection-update" => {
                    let updates = body.and_then(|body| body.get("updates"));
                    let named = |update: &Value| {
                        let operation = update.get("operation").and_then(Value::as_str);
                        update.get("position").is_some_and(|p| !p.is_null())
                            && matches!(operation, Some("set" | "modify" | "delete"))
                    };
                    let all = updates.and_then(Value::as_array);
                    if all.is_some_and(|all| all.iter().all(named)) {
                        Self::Same
                    } else {
                        Self::Never
                    }
                }
                _ => match first.strip_suffix('s').and_then(Kind::parse) {
                    Some(kind) => Self::Made(kind),
                    None => Self::Never,
                },
            },
            _ => Self::Never,
        }
    }
}

/// The fields of a new object, with a uuid: whoever sends them twice must be able to know them again. True if the uuid is
/// a fresh one, which nobody else can have used.
pub(crate) fn with_uuid(kind: Kind, body: &Value) -> Option<(Value, Uuid, bool)> {
    let fields = body.get(kind.name())?.as_object()?;
    match fields.get("uuid") {
        None | Some(Value::Null) => {
            let uuid = Uuid::new_v4();
            let mut body = body.clone();
            body[kind.name()]["uuid"] = Value::String(uuid.to_string());
            Some((body, uuid, true))
        }
        Some(Value::String(text)) => Some((body.clone(), Uuid::try_parse(text).ok()?, false)),
        Some(_) => None,
    }
}

/// Whether an object has everything that was sent. Nothing sent is missed; what the API added does not count.
pub(crate) fn holds(stored: &Value, sent: &Value) -> bool {
    match (stored, sent) {
        (Value::Object(stored), Value::Object(sent)) => fields_hold(stored, sent),
        (Value::Array(stored), Value::Array(sent)) => {
            stored.len() == sent.len()
                && sent.iter().all(|one| stored.iter().any(|s| holds(s, one)))
        }
        _ => stored == sent,
    }
}

fn fields_hold(stored: &Map<String, Value>, sent: &Map<String, Value>) -> bool {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    sent.iter().all(|(name, value)| match stored.get(name) {
        Some(there) => holds(there, value) || (empty(there) && empty(value)),
        None => empty(value),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_kind_of_call_has_its_rule() {
        let of = |method: Method, path: &str, body: Value| Repeat::of(&method, path, Some(&body));
        assert_eq!(of(Method::GET, "/virtual-networks?detail=True", Value::Null), Repeat::Same);
        assert_eq!(of(Method::PUT, "/tag/1", json!({})), Repeat::Same);
        assert_eq!(of(Method::DELETE, "/tag/1", Value::Null), Repeat::Gone);
        assert_eq!(of(Method::POST, "/tags", json!({"tag": {}})), Repeat::Made(Kind::TAG));
        assert_eq!(of(Method::POST, "/ref-update", json!({})), Repeat::Same);
        assert_eq!(of(Method::POST, "/fqname-to-id", json!({})), Repeat::Same);
        assert_eq!(of(Method::POST, "/virtual-network/1/ip-alloc", json!({})), Repeat::Never);
        assert_eq!(of(Method::POST, "/virtual-network/1/ip-free", json!({})), Repeat::Never);
        assert_eq!(of(Method::POST, "/something-new", json!({})), Repeat::Never);
        let update = |updates: Value| {
            of(Method::POST, "/prop-collection-update", json!({"uuid": "1", "updates": updates}))
        };
        assert_eq!(
            update(json!([{"operation": "set", "position": "k", "value": 1}])),
            Repeat::Same
        );
        assert_eq!(update(json!([{"operation": "add", "value": 1}])), Repeat::Never);
    }

    #[test]
    fn a_new_object_gets_a_uuid_once() {
        let (body, uuid, fresh) =
            with_uuid(Kind::TAG, &json!({"tag": {"fq_name": ["t"]}})).unwrap();
        assert!(fresh);
        assert_eq!(body["tag"]["uuid"], json!(uuid));
        let (same, again, fresh) = with_uuid(Kind::TAG, &body).unwrap();
        assert!(!fresh);
        assert_eq!((same, again), (body, uuid));
    }

    #[test]
    fn what_is_there_is_compared_with_what_was_sent() {
        let stored = json!({"uuid": "1", "name": "n", "refs": [
            {"to": ["a"], "uuid": "2", "attr": {"x": 1, "y": null}},
            {"to": ["b"], "uuid": "3", "attr": null},
        ]});
        assert!(holds(&stored, &json!({"uuid": "1", "refs": [{"to": ["b"]}, {"uuid": "2"}]})));
        assert!(holds(&stored, &json!({"uuid": "1", "nothing": null, "none": []})));
        assert!(!holds(&stored, &json!({"uuid": "1", "name": "m"})));
        assert!(!holds(&stored, &json!({"uuid": "1", "refs": [{"to": ["b"]}]})), "one is missing");
        assert!(!holds(&stored, &json!({"uuid": "1", "more": 1})));
    }
}
