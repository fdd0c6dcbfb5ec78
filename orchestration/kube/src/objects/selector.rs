//! Label selectors.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Which labels are wanted. Empty selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    /// All of these.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "super::nullable")]
    pub match_labels: BTreeMap<String, String>,
    /// And all of these.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "super::nullable")]
    pub match_expressions: Vec<Requirement>,
}

/// One condition on a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What it must be like.
    pub operator: Operator,
    /// Compared with these.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "super::nullable")]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[allow(missing_docs)] // Kubernetes' own words
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Selector {
    /// What is understood of a selector. The rest is told, and leaves it wider than it was meant.
    pub(crate) fn understood(raw: &Value, place: &str, problems: &mut Vec<String>) -> Self {
        let mut out = Self::default();
        let fields = match raw {
            Value::Null => return out,
            Value::Object(fields) => fields,
            _ => {
                problems.push(format!("{place} is not a selector"));
                return out;
            }
        };
        for (name, value) in fields {
            match (name.as_str(), value) {
                (_, Value::Null) => {}
                ("matchLabels", Value::Object(labels)) => {
                    for (key, value) in labels {
                        match value.as_str() {
                            Some(value) => drop(out.match_labels.insert(key.clone(), value.into())),
                            None => {
                                problems.push(format!("{place}.matchLabels: {value} is no text"));
                            }
                        }
                    }
                }
                ("matchExpressions", Value::Array(list)) => {
                    for (at, one) in list.iter().enumerate() {
                        match requirement(one) {
                            Ok(one) => out.match_expressions.push(one),
                            Err(reason) => {
                                problems.push(format!("{place}.matchExpressions[{at}]: {reason}"));
                            }
                        }
                    }
                }
                _ => problems.push(format!("{place}.{name} is not known or has the wrong form")),
            }
        }
        out
    }

    /// A selector that is understood in full.
    ///
    /// # Errors
    /// What of it is not.
    pub(crate) fn exactly(raw: &Value, place: &str) -> Result<Self, String> {
        let mut problems = Vec::new();
        let selector = Self::understood(raw, place, &mut problems);
        if problems.is_empty() { Ok(selector) } else { Err(problems.join(", ")) }
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether labels fit.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<Box<str>, Box<str>>) -> bool {
        let value = |key: &str| labels.get(key).map(|value| &**value);
        self.match_labels.iter().all(|(key, wanted)| value(key) == Some(wanted))
            && self.match_expressions.iter().all(|one| {
                let value = value(&one.key);
                let listed = value.is_some_and(|v| one.values.iter().any(|w| w == v));
                match one.operator {
                    Operator::In => listed,
                    Operator::NotIn => !listed,
                    Operator::Exists => value.is_some(),
                    Operator::DoesNotExist => value.is_none(),
                }
            })
    }

    /// The selector as an AND of equalities, if it is one: `In` with a single value counts.
    #[must_use]
    pub fn equalities(&self) -> Option<BTreeMap<&str, &str>> {
        let mut all: BTreeMap<&str, &str> = BTreeMap::new();
        let labels = self.match_labels.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        for (key, value) in labels {
            all.insert(key, value);
        }
        for one in &self.match_expressions {
            let (Operator::In, [value]) = (one.operator, one.values.as_slice()) else {
                return None;
            };
            // Two different values for one key select nothing, which no AND of tags can say.
            if all.insert(&one.key, value).is_some_and(|before| before != value) {
                return None;
            }
        }
        Some(all)
    }

    /// A text that is the same for selectors of the same meaning, as far as order goes.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut copy = self.clone();
        for one in &mut copy.match_expressions {
            one.values.sort();
            one.values.dedup();
        }
        copy.match_expressions.sort();
        copy.match_expressions.dedup();
        serde_json::to_string(&copy).unwrap_or_default()
    }
}

fn requirement(raw: &Value) -> Result<Requirement, String> {
    let read = Requirement::deserialize(raw).map_err(|error| error.to_string())?;
    match (matches!(read.operator, Operator::In | Operator::NotIn), read.values.is_empty()) {
        (true, true) => Err("In and NotIn need values".into()),
        (false, false) => Err("Exists and DoesNotExist take no values".into()),
        _ => Ok(read),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(list: &[(&str, &str)]) -> BTreeMap<Box<str>, Box<str>> {
        list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn every_operator_means_what_kubernetes_says() {
        let select = |json: &str| serde_json::from_str::<Selector>(json).unwrap();
        let web = labels(&[("app", "web"), ("tier", "front")]);
        for (json, fits) in [
            ("{}", true),
            (r#"{"matchLabels":{"app":"web"}}"#, true),
            (r#"{"matchLabels":{"app":"web","zone":"a"}}"#, false),
            (r#"{"matchExpressions":[{"key":"app","operator":"In","values":["db","web"]}]}"#, true),
            (r#"{"matchExpressions":[{"key":"app","operator":"NotIn","values":["web"]}]}"#, false),
            // A label that is absent is not in any list.
            (r#"{"matchExpressions":[{"key":"zone","operator":"NotIn","values":["a"]}]}"#, true),
            (r#"{"matchExpressions":[{"key":"zone","operator":"Exists"}]}"#, false),
            (r#"{"matchExpressions":[{"key":"zone","operator":"DoesNotExist"}]}"#, true),
            (
                r#"{"matchLabels":{"app":"web"},"matchExpressions":[{"key":"tier","operator":"Exists"}]}"#,
                true,
            ),
        ] {
            assert_eq!(select(json).matches(&web), fits, "{json}");
        }
    }

    #[test]
    fn contradicting_equalities_are_no_equalities() {
        let json = r#"{"matchLabels":{"a":"1"},"matchExpressions":[{"key":"a","operator":"In","values":["2"]}]}"#;
        assert_eq!(serde_json::from_str::<Selector>(json).unwrap().equalities(), None);
    }
}
