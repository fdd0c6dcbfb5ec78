//! What should be there: the answer of a derivation.

use crate::key::Key;
use crate::objects::Selector;
use serde_json::{Map, Value};
use skein_model::{FqName, Kind};
use std::collections::BTreeSet;
use std::net::IpAddr;
use uuid::Uuid;

/// A configuration object as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Its type.
    pub kind: Kind,
    /// Its name.
    pub name: FqName,
    /// Its parent's type; none at the root.
    pub parent: Option<Kind>,
    /// Its identity, if it is not for the API to choose.
    pub uuid: Option<Uuid>,
    /// Properties that matter. Null: must be absent. Others are left alone.
    pub properties: Map<String, Value>,
    /// References that matter, all of each type named.
    pub references: Vec<(Kind, Vec<Ref>)>,
    /// Objects that its properties name.
    pub needs: Vec<(Kind, FqName)>,
    /// References to what is not this cluster's stay: operators may add to it.
    pub open: bool,
    /// It may be someone else's: made if it is missing, else left alone, deleted by nobody.
    pub shared: bool,
}

/// A reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Ref {
    /// The target.
    pub name: FqName,
    /// What it carries.
    pub attr: Value,
}

impl Ref {
    /// A reference that carries nothing.
    #[must_use]
    pub fn to(name: FqName) -> Self {
        Self { name, attr: Value::Null }
    }
}

impl Desired {
    /// An object with nothing in it.
    #[must_use]
    pub fn new(kind: Kind, parent: Option<Kind>, name: FqName) -> Self {
        Self {
            kind,
            name,
            parent,
            uuid: None,
            properties: Map::new(),
            references: Vec::new(),
            needs: Vec::new(),
            open: false,
            shared: false,
        }
    }

    /// With this identity.
    #[must_use]
    pub fn uuid(mut self, uuid: Uuid) -> Self {
        self.uuid = Some(uuid);
        self
    }

    /// With this property.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.properties.insert(name.to_owned(), value.into());
        self
    }

    /// With these references to one type and no others to it.
    #[must_use]
    pub fn refer(mut self, kind: Kind, to: impl IntoIterator<Item = FqName>) -> Self {
        self.references.push((kind, to.into_iter().map(Ref::to).collect()));
        self
    }

    /// With these references to one type, and what they carry.
    #[must_use]
    pub fn refer_with(mut self, kind: Kind, to: Vec<Ref>) -> Self {
        self.references.push((kind, to));
        self
    }
}

/// A reference from an object that is not the owner's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Its holder.
    pub holder: (Kind, FqName),
    /// Its target, which the owner owns.
    pub target: (Kind, FqName),
    /// What it carries.
    pub attr: Value,
    /// It is no fault if the holder does not exist (yet).
    pub optional: bool,
}

/// Which pods carry a tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Predicate {
    /// Whoever asks for it by name: namespaces, services, ingresses.
    Named,
    /// Pods with this label.
    PodLabel(String, String),
    /// Pods of namespaces with this label.
    NamespaceLabel(String, String),
    /// Pods whose labels fit.
    Pods(Selector),
    /// Pods whose namespace's labels fit.
    Namespaces(Selector),
    /// Pods with a port of this name and protocol that has this number.
    Port(String, String, u16),
    /// Pods behind a service: namespace, name.
    Service(String, String),
    /// Interfaces of pods in networks beside their first.
    Interfaces(Interfaces),
}

/// Which interfaces beside pods' first ones are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Interfaces {
    /// In one of these networks: `namespace/name` of their definitions.
    pub networks: BTreeSet<String>,
    /// Of pods in this namespace; none: in those that `namespaces` selects.
    pub namespace: Option<String>,
    /// Selects namespaces.
    pub namespaces: Selector,
    /// Selects pods.
    pub pods: Selector,
}

impl Interfaces {
    /// All of it in one text that is the same for the same meaning.
    #[must_use]
    pub fn canonical(&self) -> String {
        let networks: Vec<&str> = self.networks.iter().map(String::as_str).collect();
        let namespaces = self.namespaces.canonical();
        let place = self.namespace.as_ref().map_or(namespaces, |name| format!("{name:?}"));
        format!("interfaces {} of {} in {place}", networks.join(","), self.pods.canonical())
    }
}

/// Something shared that an owner needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Demand {
    /// A tag on the pods that fit.
    Tag(String, Predicate),
    /// An address-group of one prefix.
    AddressGroup(String),
    /// Nodes are to reach the pods of a network.
    Reach(FqName),
    /// To be asked again when the numbers behind a port name change: protocol in capitals, name.
    PortName(String, String),
}

/// Something a person should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// One word, as Events have it.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// The reason of problems that are no more than something left out: what was asked for is there but for that.
pub const IGNORED: &str = "Ignored";

/// Longest text that an Event may carry, in bytes.
const NOTE: usize = 1000;

/// The beginning of a text that may quote what a user wrote, so that Kubernetes takes it.
#[must_use]
pub fn shortened(text: &str) -> String {
    let end =
        text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= NOTE).last();
    text[..end.unwrap_or(0)].to_owned()
}

/// A change of a Kubernetes object.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// Whose.
    pub key: Key,
    /// `status`, or the object itself.
    pub status: bool,
    /// A merge patch; of a pod's status a strategic merge patch, as others write into its list of conditions, too. Conditions
    /// whose `lastTransitionTime` is null change by it: whoever sends it has a clock.
    pub body: Value,
}

/// All that an owner wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Derived {
    /// Objects, in an order in which they can be made.
    pub objects: Vec<Desired>,
    /// References of others to them.
    pub links: Vec<Link>,
    /// Shared things.
    pub demands: Vec<Demand>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What Kubernetes should be told.
    pub patches: Vec<Patch>,
    /// What exists stays, though it is not listed: the wish is not understood, and to take away a working
    /// network would be worse.
    pub hold: bool,
    /// Objects whose coming changes the answer.
    pub waits: Vec<(Kind, FqName)>,
    /// Addresses to ask for when an instance-ip is made anew.
    pub addresses: Vec<(FqName, IpAddr)>,
}

impl Derived {
    /// Nothing new, and what is wrong.
    #[must_use]
    pub fn wrong(reason: &'static str, message: String) -> Self {
        Self { problems: vec![Problem { reason, message }], hold: true, ..Self::default() }
    }

    /// Notes a problem.
    pub fn problem(&mut self, reason: &'static str, message: String) {
        self.problems.push(Problem { reason, message });
    }
}
