//! Calls of the API, one method each.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Method;
use hyper_util::{client::legacy::Client as Pool, rt::TokioExecutor};
use serde_json::{Map, Value, json};
use skein_model::{FqName, Kind, Object};
use uuid::Uuid;

use crate::{
    ClientError, Connector, Tls, Watcher, decode, replicas::Replicas, tls::CONNECT_ONE_OF_SEVERAL,
};

/// A configuration API, at one address or at those of its replicas. Cloning shares its connections.
///
/// With several, a call goes to the first in the list that answers. The next one is asked when one cannot be reached, says
/// that it cannot serve now (503), or is silent; a host without power is noticed within about two seconds. Only what may be
/// done twice is sent twice: [`request`](Self::request) says what that is. What this client wrote, and what it has seen,
/// it finds at every replica.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) pool: Pool<Connector, Full<Bytes>>,
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Only children of these.
    pub parents: Vec<Uuid>,
    /// Only objects that refer to one of these.
    pub back_references: Vec<Uuid>,
    /// Only these.
    pub uuids: Vec<Uuid>,
    /// `property==json` conditions: same property, alternatives; different ones, all.
    pub filters: Vec<(String, Value)>,
}

/// One reference, for [`Client::reference_update`].
#[derive(Debug, Clone)]
pub struct ReferenceChange {
    /// Holder's type.
    pub kind: Kind,
    /// Holder.
    pub uuid: Uuid,
    /// Target's type.
    pub target_kind: Kind,
    /// Target.
    pub target: Uuid,
    /// What the reference carries; null for nothing.
    pub attr: Value,
}

impl Client {
    /// A client of the API at `http://HOST:PORT` (or `HOST:PORT`), or at `https://HOST:PORT` if a public authority
    /// vouches for it; of several replicas, with commas between their addresses. Nothing is sent yet.
    ///
    /// # Errors
    /// The address cannot be one.
    pub fn new(addresses: &str) -> Result<Self, ClientError> {
        Self::with_tls(addresses, &Tls::default())
    }

    /// A client of the API at `https://HOST:PORT`, or of one without TLS, for which `tls` says nothing; of several
    /// replicas, with commas between their addresses, the preferred one first.
    ///
    /// # Errors
    /// An address cannot be one, or a file of `tls` is not usable.
    pub fn with_tls(addresses: &str, tls: &Tls) -> Result<Self, ClientError> {
        let replicas = Replicas::parse(addresses)?;
        let secure = replicas.bases().iter().any(|base| base.starts_with("https:"));
        let connector = match (secure, replicas.bases().len()) {
            (true, 1) => tls.connector()?,
            (false, 1) => Tls::plain()?,
            (true, _) => tls.connector_within(CONNECT_ONE_OF_SEVERAL)?,
            (false, _) => Tls::plain_within(CONNECT_ONE_OF_SEVERAL)?,
        };
        let pool = Pool::builder(TokioExecutor::new()).build(connector);
        Ok(Self { replicas: Arc::new(replicas), pool })
    }

    /// Where the API is, without trailing slashes; of several replicas, with commas in between.
    #[must_use]
    pub fn base(&self) -> &str {
        self.replicas.text()
    }

    /// The addresses of the replicas, in order of preference.
    #[must_use]
    pub fn replicas(&self) -> &[String] {
        self.replicas.bases()
    }

    fn object(&self, kind: Kind, mut envelope: Value) -> Result<Object, ClientError> {
        match envelope.get_mut(kind.name()).map(Value::take) {
            Some(Value::Object(fields)) => decode(kind, fields).map_err(|e| self.misunderstood(e)),
            _ => Err(self.misunderstood(format!("it holds no {kind}"))),
        }
    }

    /// Reads one object.
    ///
    /// # Errors
    /// 404 if it is not there.
    pub async fn get(&self, kind: Kind, uuid: Uuid) -> Result<Object, ClientError> {
        let path = format!("/{kind}/{uuid}?exclude_back_refs=1&exclude_children=1&exclude_hrefs=1");
        let answer = self.request(Method::GET, &path, None).await?;
        self.object(kind, answer)
    }

    /// Reads one object by its name.
    ///
    /// # Errors
    /// 404 if it is not there.
    pub async fn get_by_name(&self, kind: Kind, name: &FqName) -> Result<Object, ClientError> {
        let uuid = self.name_to_id(kind, name).await?;
        self.get(kind, uuid).await
    }

    /// The uuid of a name.
    ///
    /// # Errors
    /// 404 if it is not there.
    pub async fn name_to_id(&self, kind: Kind, name: &FqName) -> Result<Uuid, ClientError> {
        let body = json!({"type": kind.name(), "fq_name": name});
        let answer = self.request(Method::POST, "/fqname-to-id", Some(&body)).await?;
        self.uuid_in(&answer)
    }

    fn uuid_in(&self, answer: &Value) -> Result<Uuid, ClientError> {
        let uuid =
            answer.get("uuid").and_then(Value::as_str).and_then(|text| Uuid::try_parse(text).ok());
        uuid.ok_or_else(|| self.misunderstood("it holds no uuid"))
    }

    /// The type and name of a uuid.
    ///
    /// # Errors
    /// 404 if it is not there.
    pub async fn id_to_name(&self, uuid: Uuid) -> Result<(Kind, FqName), ClientError> {
        let answer =
            self.request(Method::POST, "/id-to-fqname", Some(&json!({"uuid": uuid}))).await?;
        let kind = answer.get("type").and_then(Value::as_str).and_then(Kind::parse);
        let name = answer.get("fq_name").and_then(|n| serde_json::from_value(n.clone()).ok());
        kind.zip(name).ok_or_else(|| self.misunderstood("it holds no type and name"))
    }

    /// Creates an object from its fields and returns its uuid.
    ///
    /// # Errors
    /// 400 for fields that are wrong, 409 if the name is taken.
    pub async fn create(&self, kind: Kind, fields: Value) -> Result<Uuid, ClientError> {
        let body = json!({ kind.name(): fields });
        let answer = self.request(Method::POST, &format!("/{kind}s"), Some(&body)).await?;
        self.uuid_in(answer.get(kind.name()).unwrap_or(&Value::Null))
    }

    /// Creates an object as it is, with its uuid and references.
    ///
    /// # Errors
    /// As for [`create`](Self::create).
    pub async fn create_object(&self, object: &Object) -> Result<Uuid, ClientError> {
        self.create(object.kind, Value::Object(crate::encode(object))).await
    }

    /// Replaces the named fields; null removes one, a reference list replaces all of that type.
    ///
    /// # Errors
    /// 404 if it is not there, 400 for fields that are wrong.
    pub async fn update(&self, kind: Kind, uuid: Uuid, fields: Value) -> Result<(), ClientError> {
        let body = json!({ kind.name(): fields });
        self.request(Method::PUT, &format!("/{kind}/{uuid}"), Some(&body)).await.map(drop)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// 404 if it is not there, 409 if it has children or is referred to.
    pub async fn delete(&self, kind: Kind, uuid: Uuid) -> Result<(), ClientError> {
        self.request(Method::DELETE, &format!("/{kind}/{uuid}"), None).await.map(drop)
    }

    /// Lists objects with all properties and references.
    ///
    /// # Errors
    /// The API cannot be reached or refuses.
    pub async fn list(
        &self,
        kind: Kind,
        options: &ListOptions,
    ) -> Result<Vec<Object>, ClientError> {
        // The bulk call takes any number of ids.
        let join = |list: &[Uuid]| list.iter().map(Uuid::to_string).collect::<Vec<_>>().join(",");
        let mut body = Map::new();
        body.insert("type".into(), json!(kind.name()));
        body.insert("detail".into(), json!(true));
        body.insert("exclude_hrefs".into(), json!(true));
        for (name, list) in [
            ("parent_id", &options.parents),
            ("back_ref_id", &options.back_references),
            ("obj_uuids", &options.uuids),
        ] {
            if !list.is_empty() {
                body.insert(name.into(), json!(join(list)));
            }
        }
        if !options.filters.is_empty() {
            let filters: Vec<_> =
                options.filters.iter().map(|(name, value)| format!("{name}=={value}")).collect();
            body.insert("filters".into(), json!(filters.join(",")));
        }
        let path = "/list-bulk-collection";
        let mut answer = self.request(Method::POST, path, Some(&Value::Object(body))).await?;
        match answer.get_mut(format!("{kind}s")).map(Value::take) {
            Some(Value::Array(list)) => {
                list.into_iter().map(|one| self.object(kind, one)).collect()
            }
            _ => Err(self.misunderstood(format!("it holds no {kind}s"))),
        }
    }

    async fn change_reference(
        &self,
        change: &ReferenceChange,
        operation: &str,
    ) -> Result<(), ClientError> {
        let body = json!({
            "type": change.kind.name(), "uuid": change.uuid,
            "ref-type": change.target_kind.name(), "ref-uuid": change.target,
            "operation": operation, "attr": change.attr,
        });
        self.request(Method::POST, "/ref-update", Some(&body)).await.map(drop)
    }

    /// Adds one reference, or changes what it carries.
    ///
    /// # Errors
    /// 404 if holder or target are not there.
    pub async fn reference_update(&self, change: &ReferenceChange) -> Result<(), ClientError> {
        self.change_reference(change, "ADD").await
    }

    /// Drops one reference; succeeds if there is none.
    ///
    /// # Errors
    /// 404 if the holder is not there.
    pub async fn reference_delete(&self, change: &ReferenceChange) -> Result<(), ClientError> {
        self.change_reference(change, "DELETE").await
    }

    /// Lets a reference no longer keep its target from being deleted.
    ///
    /// # Errors
    /// 404 if there is no such reference.
    pub async fn reference_relax(&self, holder: Uuid, target: Uuid) -> Result<(), ClientError> {
        let body = json!({"uuid": holder, "ref-uuid": target});
        self.request(Method::POST, "/ref-relax-for-delete", Some(&body)).await.map(drop)
    }

    /// Reserves addresses of a network without objects.
    ///
    /// # Errors
    /// 404 for an unknown network or subnet, 409 if they are used up.
    pub async fn ip_alloc(
        &self,
        network: Uuid,
        count: u32,
        subnet: Option<&str>,
    ) -> Result<Vec<IpAddr>, ClientError> {
        let body = json!({"count": count, "subnet": subnet});
        let path = format!("/virtual-network/{network}/ip-alloc");
        let mut answer = self.request(Method::POST, &path, Some(&body)).await?;
        serde_json::from_value(answer["ip_addr"].take())
            .map_err(|e| self.misunderstood(e.to_string()))
    }

    /// Gives such addresses back.
    ///
    /// # Errors
    /// 404 for an unknown network.
    pub async fn ip_free(&self, network: Uuid, addresses: &[IpAddr]) -> Result<(), ClientError> {
        let path = format!("/virtual-network/{network}/ip-free");
        self.request(Method::POST, &path, Some(&json!({"ip_addr": addresses}))).await.map(drop)
    }

    /// Stores a value under a key of the clients' own.
    ///
    /// # Errors
    /// The API cannot be reached or refuses.
    pub async fn kv_store(&self, key: &str, value: &str) -> Result<(), ClientError> {
        let body = json!({"operation": "STORE", "key": key, "value": value});
        self.request(Method::POST, "/useragent-kv", Some(&body)).await.map(drop)
    }

    /// Reads it back; none if it is not stored.
    ///
    /// # Errors
    /// The API cannot be reached or refuses.
    pub async fn kv_get(&self, key: &str) -> Result<Option<String>, ClientError> {
        let body = json!({"operation": "RETRIEVE", "key": key});
        match self.request(Method::POST, "/useragent-kv", Some(&body)).await {
            Ok(answer) => Ok(answer.get("value").and_then(Value::as_str).map(str::to_owned)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Watches types; none means all. The stream connects when it is first asked for an event.
    #[must_use]
    pub fn watch(&self, kinds: &[Kind]) -> Watcher {
        Watcher::new(self.clone(), kinds)
    }
}
