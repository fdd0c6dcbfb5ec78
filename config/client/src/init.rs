//! The first event of a watch: all objects of a type, read one at a time.
//!
//! It may hold tens of thousands. As one tree of values they would take ten times their text; here there is never more than
//! one object's tree.

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use skein_model::Kind;
use std::fmt;

/// Hands each object of an `init` event to `take`: its type, and its fields as `GET` shows them.
///
/// # Errors
/// What is not as it should be, or what `take` says. Earlier objects were handed over by then.
pub(crate) fn read(
    text: &str,
    mut take: impl FnMut(Kind, Map<String, Value>) -> Result<(), String>,
) -> Result<(), String> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_map(Types { take: &mut take }).map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())
}

/// `{"virtual-networks": [..]}`
struct Types<'a, F> {
    take: &'a mut F,
}

impl<'de, F: FnMut(Kind, Map<String, Value>) -> Result<(), String>> Visitor<'de> for Types<'_, F> {
    type Value = ();

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("lists of objects by the plural of their type")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut types: A) -> Result<(), A::Error> {
        while let Some(plural) = types.next_key::<String>()? {
            let kind = plural.strip_suffix('s').and_then(Kind::parse);
            let kind = kind.ok_or_else(|| A::Error::custom(format!("init of {plural}")))?;
            types.next_value_seed(Objects { kind, take: &mut *self.take })?;
        }
        Ok(())
    }
}

/// `[{"virtual-network": {..}}, ..]`
struct Objects<'a, F> {
    kind: Kind,
    take: &'a mut F,
}

impl<'de, F: FnMut(Kind, Map<String, Value>) -> Result<(), String>> DeserializeSeed<'de>
    for Objects<'_, F>
{
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, list: D) -> Result<(), D::Error> {
        list.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(Kind, Map<String, Value>) -> Result<(), String>> Visitor<'de>
    for Objects<'_, F>
{
    type Value = ();

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "a list of {}", self.kind.name())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(mut one) = list.next_element::<Map<String, Value>>()? {
            let Some(Value::Object(fields)) = one.remove(self.kind.name()) else {
                let text = format!("init of {}s holds something else", self.kind.name());
                return Err(A::Error::custom(text));
            };
            (self.take)(self.kind, fields).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_come_one_by_one_and_nonsense_is_named() {
        let text = r#"{"virtual-networks": [{"virtual-network": {"uuid": "a"}}, {"virtual-network": {"uuid": "b"}}]}"#;
        let mut seen = Vec::new();
        read(text, |kind, fields| {
            seen.push((kind, fields["uuid"].clone()));
            Ok(())
        })
        .unwrap();
        assert_eq!(
            seen,
            [(Kind::VIRTUAL_NETWORK, "a".into()), (Kind::VIRTUAL_NETWORK, "b".into())]
        );
        for (text, reason) in [
            (r#"{"nonsenses": []}"#, "init of nonsenses"),
            (r#"{"virtual-networks": {}}"#, "a list of virtual"),
            (r#"{"virtual-networks": [{"project": {}}]}"#, "something else"),
            (r#"{"virtual-networks": []} x"#, "trailing"),
            (r#"{"virtual-networks": ["#, "EOF"),
            ("[]", "lists of objects"),
        ] {
            let told = read(text, |_, _| Ok(())).unwrap_err();
            assert!(told.contains(reason), "{text}: {told}");
        }
        let told = read(text, |_, _| Err("uuid is missing".into())).unwrap_err();
        assert!(told.contains("uuid is missing"), "{told}");
    }
}
