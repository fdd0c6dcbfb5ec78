//! Names as people write them: `front` means `default-domain:PROJECT:front`.

use crate::api::{Api, Body};
use crate::error::Error;
use crate::nearest::nearest;
use skein_model::{FqName, Kind};
use uuid::Uuid;

/// The domain and project that short names are completed with.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    domain: String,
    project: Option<String>,
}

impl Scope {
    /// Without a project, `default-project` completes names and lists show every project.
    pub(crate) fn new(domain: &str, project: Option<&str>) -> Scope {
        Scope { domain: domain.to_owned(), project: project.map(str::to_owned) }
    }

    /// The same with another project or domain.
    pub(crate) fn within(&self, domain: Option<&str>, project: Option<&str>) -> Scope {
        Scope {
            domain: domain.unwrap_or(&self.domain).to_owned(),
            project: project.map(str::to_owned).or_else(|| self.project.clone()),
        }
    }

    /// The name of the project, given or default.
    pub(crate) fn project(&self) -> FqName {
        let project = self.project.as_deref().unwrap_or("default-project");
        FqName::single(&self.domain).child(project)
    }

    /// The project that the user asked for, if any.
    pub(crate) fn chosen_project(&self) -> Option<FqName> {
        self.project.as_ref().map(|_| self.project())
    }

    /// Full names that a word can mean, the likeliest first; none if the parent must be written.
    pub(crate) fn candidates(&self, kind: Kind, word: &str) -> Vec<FqName> {
        let only_root = kind.meta().parents.is_empty();
        if only_root {
            return vec![FqName::single(word)];
        }
        if word.contains(':') {
            return vec![FqName::parse(word)];
        }
        let mut homes: Vec<Option<FqName>> = Vec::new();
        let mut parents: Vec<Kind> = kind.meta().parents.to_vec();
        parents.sort_by_key(|parent| match *parent {
            Kind::PROJECT => 0,
            Kind::DOMAIN => 1,
            _ => 2,
        });
        homes.extend(parents.iter().filter_map(|parent| self.home(*parent)).map(Some));
        if kind.meta().root_allowed {
            // A project that the user names outweighs the root, the default one does not.
            let at = if self.project.is_some() { homes.len() } else { 0 };
            homes.insert(at, None);
        }
        homes
            .into_iter()
            .map(|home| home.map_or_else(|| FqName::single(word), |home| home.child(word)))
            .collect()
    }

    /// The full name for a new object or a reference.
    pub(crate) fn complete(&self, kind: Kind, word: &str) -> Result<FqName, Error> {
        self.candidates(kind, word).into_iter().next().ok_or_else(|| {
            let parents: Vec<&str> = kind.meta().parents.iter().map(|p| p.name()).collect();
            Error::usage(
                format!("{word:?} does not say which {} the {kind} is in", parents.join(" or ")),
                "write the full name with colons, as in default-domain:shop:PARENT:NAME",
            )
        })
    }

    /// The one object of a type that there is by default.
    fn home(&self, parent: Kind) -> Option<FqName> {
        match parent {
            Kind::PROJECT => Some(self.project()),
            Kind::DOMAIN => Some(FqName::single(&self.domain)),
            Kind::GLOBAL_SYSTEM_CONFIG => Some(FqName::single("default-global-system-config")),
            Kind::POLICY_MANAGEMENT => Some(FqName::single("default-policy-management")),
            Kind::GLOBAL_VROUTER_CONFIG => {
                Some(FqName::parse("default-global-system-config:default-global-vrouter-config"))
            }
            _ => None,
        }
    }

    /// The object that a word means: a uuid, a full name, or a short name that is unique.
    pub(crate) async fn locate(
        &self,
        api: &Api,
        kind: Kind,
        word: &str,
    ) -> Result<(Uuid, FqName), Error> {
        if let Ok(uuid) = word.parse::<Uuid>()
            && let Some(body) = api.read(kind, uuid).await?
            && let Some(name) = body.get("fq_name").and_then(crate::api::fq_name)
        {
            return Ok((uuid, name));
        }
        for name in self.candidates(kind, word) {
            if let Some(uuid) = api.id_of(kind, &name).await? {
                return Ok((uuid, name));
            }
        }
        self.search(api, kind, word).await
    }

    /// Looks through every object of the type for one whose last element is the word.
    async fn search(&self, api: &Api, kind: Kind, word: &str) -> Result<(Uuid, FqName), Error> {
        let all = api.names(kind).await?;
        let mut found: Vec<_> = all.iter().filter(|(name, _)| name.name() == word).collect();
        match (found.pop(), found.is_empty()) {
            (Some((name, uuid)), true) => Ok((*uuid, name.clone())),
            (None, _) => {
                let near = nearest(word, all.iter().map(|(name, _)| name.name()));
                let next = near.map_or_else(
                    || format!("`skein get {kind}` lists what exists"),
                    |near| format!("did you mean {near}? `skein get {kind}` lists what exists"),
                );
                Err(Error::NotFound(format!("there is no {kind} {word}"), next))
            }
            (Some((name, _)), false) => {
                let mut names: Vec<String> = found.iter().map(|(n, _)| n.to_string()).collect();
                names.push(name.to_string());
                names.sort();
                Err(Error::usage(
                    format!("{word} is the name of {} objects of type {kind}", names.len()),
                    format!("write one of {}, or use --project", names.join(", ")),
                ))
            }
        }
    }

    /// The object itself.
    pub(crate) async fn find(&self, api: &Api, kind: Kind, word: &str) -> Result<Body, Error> {
        let (uuid, name) = self.locate(api, kind, word).await?;
        api.read(kind, uuid).await?.ok_or_else(|| {
            Error::NotFound(format!("{kind} {name} was removed just now"), String::new())
        })
    }
}

/// The parent type of a name, where the API cannot tell it from the name alone.
pub(crate) fn parent_of(kind: Kind, name: &FqName) -> Option<Kind> {
    let length = name.parts().len();
    if length == 1 {
        return None;
    }
    let mut fitting: Vec<Kind> = kind.meta().parents.to_vec();
    fitting.retain(|parent| depths(*parent, 6).contains(&(length - 1)));
    // Names of ports under a project and under a virtual router are equally long; ports live in
    // projects unless a manifest says otherwise.
    fitting.iter().copied().find(|p| *p == Kind::PROJECT).or_else(|| fitting.first().copied())
}

/// How many elements names of a type may have.
fn depths(kind: Kind, limit: usize) -> Vec<usize> {
    let meta = kind.meta();
    let mut found: Vec<usize> =
        if meta.root_allowed || meta.parents.is_empty() { vec![1] } else { Vec::new() };
    if limit > 0 {
        let above = meta.parents.iter().filter(|p| **p != kind);
        found.extend(above.flat_map(|p| depths(*p, limit - 1)).map(|d| d + 1));
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(scope: &Scope, kind: Kind, word: &str) -> Vec<String> {
        scope.candidates(kind, word).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn short_names_are_completed_by_type() {
        let scope = Scope::new("default-domain", Some("shop"));
        let first = |kind, word| candidates(&scope, kind, word).into_iter().next().unwrap();
        assert_eq!(first(Kind::VIRTUAL_NETWORK, "front"), "default-domain:shop:front");
        assert_eq!(first(Kind::VIRTUAL_NETWORK, "a:b:c"), "a:b:c");
        assert_eq!(first(Kind::PROJECT, "shop"), "default-domain:shop");
        assert_eq!(first(Kind::DOMAIN, "default-domain"), "default-domain");
        assert_eq!(first(Kind::VIRTUAL_ROUTER, "n1"), "default-global-system-config:n1");
        assert_eq!(first(Kind::VIRTUAL_MACHINE_INTERFACE, "p"), "default-domain:shop:p");
        assert_eq!(first(Kind::ROUTE_TARGET, "target:64512:1"), "target:64512:1");
        assert!(candidates(&scope, Kind::FLOATING_IP, "x").is_empty());
        assert!(scope.complete(Kind::FLOATING_IP, "x").unwrap_err().next_step().is_some());
    }

    #[test]
    fn tags_are_global_unless_a_project_is_named() {
        let tag = |scope: Scope| candidates(&scope, Kind::TAG, "app=web").remove(0);
        assert_eq!(tag(Scope::new("default-domain", None)), "app=web");
        assert_eq!(tag(Scope::new("default-domain", Some("shop"))), "default-domain:shop:app=web");
    }

    #[test]
    fn the_parent_type_follows_from_the_length_of_the_name() {
        let parent = |kind, name: &str| parent_of(kind, &FqName::parse(name)).map(Kind::name);
        assert_eq!(parent(Kind::VIRTUAL_MACHINE_INTERFACE, "d:p:x"), Some("project"));
        assert_eq!(parent(Kind::VIRTUAL_MACHINE_INTERFACE, "vm:x"), Some("virtual-machine"));
        assert_eq!(parent(Kind::VIRTUAL_NETWORK, "d:p:x"), Some("project"));
        assert_eq!(parent(Kind::TAG, "app=web"), None);
    }
}
