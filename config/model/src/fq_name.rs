//! Fully qualified names.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// The path of names from the root to an object: `default-domain`, `shop`, `front`.
///
/// Never empty. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FqName(Arc<[Box<str>]>);

impl FqName {
    /// From its elements, root first; `None` when there are none.
    pub fn new<S: AsRef<str>>(parts: &[S]) -> Option<FqName> {
        let parts: Arc<[Box<str>]> = parts.iter().map(|p| Box::from(p.as_ref())).collect();
        (!parts.is_empty()).then_some(FqName(parts))
    }

    /// From the colon form, `default-domain:shop:front`.
    ///
    /// A route target's single element contains colons itself; use [`FqName::single`] for those.
    pub fn parse(text: &str) -> FqName {
        FqName(text.split(':').map(Box::from).collect())
    }

    /// A name of one element.
    pub fn single(name: &str) -> FqName {
        FqName([Box::from(name)].into())
    }

    /// This name with one more element.
    pub fn child(&self, name: &str) -> FqName {
        FqName(self.0.iter().cloned().chain([Box::from(name)]).collect())
    }

    /// The name without its last element.
    pub fn parent(&self) -> Option<FqName> {
        let rest = &self.0[..self.0.len() - 1];
        (!rest.is_empty()).then(|| FqName(rest.into()))
    }

    /// The last element.
    pub fn name(&self) -> &str {
        &self.0[self.0.len() - 1]
    }

    /// Elements, root first.
    pub fn parts(&self) -> &[Box<str>] {
        &self.0
    }
}

impl fmt::Display for FqName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(":")?;
            }
            f.write_str(part)?;
        }
        Ok(())
    }
}

impl fmt::Debug for FqName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for FqName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<'de> Deserialize<'de> for FqName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let parts = Vec::<Box<str>>::deserialize(from)?;
        if parts.is_empty() {
            return Err(serde::de::Error::custom("fq_name has no elements"));
        }
        Ok(FqName(parts.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_knows_its_parent_and_its_child() {
        let name = FqName::parse("default-domain:shop:front");
        assert_eq!(name.name(), "front");
        assert_eq!(name.parent().unwrap().to_string(), "default-domain:shop");
        assert_eq!(name.parent().unwrap().child("front"), name);
        assert_eq!(FqName::single("target:64512:1").parts().len(), 1);
        assert!(FqName::new::<&str>(&[]).is_none());
    }
}
