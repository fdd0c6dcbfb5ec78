//! A real configuration API and a core that writes to it, without a Kubernetes cluster: objects come as YAML.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking
#![allow(dead_code, unreachable_pub, missing_docs)] // each test file uses its part

pub mod lines;
pub mod oracle;
pub mod random_policies;

use kube::core::DynamicObject;
use serde_json::{Value, json};
use skein_api::{Config, Server};
use skein_client::{Client, Event, Watcher};
use skein_kube::core::{Core, FOLLOWED, Notice, Outcome};
use skein_kube::desired::Patch;
use skein_kube::objects::{KubeObject, Resource};
use skein_kube::{Settings, writer};
use skein_model::{FqName, Kind, Object};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub struct Bench {
    pub core: Core,
    pub client: Client,
    pub notices: Vec<Notice>,
    pub patches: Vec<Patch>,
    pub writes: usize,
    pub log: Vec<String>,
    watcher: Watcher,
    start: Instant,
    _server: Server,
    _store: tempfile::TempDir,
}

/// A Kubernetes object from YAML.
pub fn object(yaml: &str) -> KubeObject {
    let mut value: Value = serde_saphyr::from_str(yaml).expect(yaml);
    let kind = value["kind"].as_str().unwrap().to_owned();
    let meta = value["metadata"].as_object_mut().unwrap();
    // The same name has the same uid in every run.
    let seed = format!("{kind}/{:?}/{}", meta.get("namespace"), meta["name"]);
    let uid = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, seed.as_bytes());
    meta.entry("uid").or_insert_with(|| json!(uid));
    let resource = Resource::ALL.into_iter().find(|r| r.kind() == kind).expect(&kind);
    let object: DynamicObject = serde_json::from_value(value).unwrap();
    KubeObject::read(resource, object).unwrap()
}

pub fn uid(object: &KubeObject) -> String {
    object.meta().uid.to_string()
}

pub fn namespace(name: &str, labels: &str, annotations: &str) -> KubeObject {
    object(&format!(
        "kind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}, annotations: {{{annotations}}}}}"
    ))
}

pub fn pod(namespace: &str, name: &str, labels: &str, more: &str) -> KubeObject {
    object(&format!(
        "kind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}, annotations: {{{more}}}}}\n\
         spec: {{nodeName: node-1, containers: [{{name: a}}]}}\nstatus: {{phase: Running, hostIP: 10.9.9.1}}"
    ))
}

impl Bench {
    pub async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    pub async fn with(settings: Settings) -> Self {
        let store = tempfile::tempdir().unwrap();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let server =
            Server::start(Config::new(listen, store.path().join("config.redb"))).await.unwrap();
        let client = Client::new(&format!("http://{}", server.local_addr())).unwrap();
        let mut bench = Self {
            core: Core::new(settings),
            watcher: client.watch(&FOLLOWED).each(skein_kube::packed::shrink),
            client,
            notices: Vec::new(),
            patches: Vec::new(),
            writes: 0,
            log: Vec::new(),
            start: Instant::now(),
            _server: server,
            _store: store,
        };
        bench.core.kubernetes_listed();
        bench
    }

    /// A core that starts anew, with the same objects in Kubernetes as `keep` says.
    pub fn restart(&mut self, settings: Settings, keep: Vec<KubeObject>) {
        self.core = Core::new(settings);
        self.watcher = self.client.watch(&FOLLOWED).each(skein_kube::packed::shrink);
        for object in keep {
            self.core.kube_put(object);
        }
        self.core.kubernetes_listed();
    }

    pub fn put(&mut self, object: KubeObject) {
        self.core.kube_put(object);
    }

    pub fn yaml(&mut self, yaml: &str) {
        for part in yaml.split("\n---\n") {
            self.core.kube_put(object(part));
        }
    }

    pub async fn node(&self, name: &str, address: &str) {
        let fields = json!({
            "fq_name": ["default-global-system-config", name],
            "parent_type": "global-system-config", "virtual_router_ip_address": address,
        });
        self.client.create(Kind::VIRTUAL_ROUTER, fields).await.unwrap();
    }

    /// Runs until nothing is left to do.
    pub async fn settle(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut quiet = 0;
        loop {
            let now = self.start.elapsed();
            let all = self.core.poll(now, 64);
            if all.is_empty() {
                let wait = Duration::from_millis(30);
                match tokio::time::timeout(wait, self.watcher.next()).await {
                    Ok(event) => {
                        self.take(event);
                        quiet = 0;
                    }
                    Err(_) => {
                        let figures = self.core.figures();
                        quiet += 1;
                        if self.core.synced()
                            && quiet > 2
                            && figures.failing == 0
                            && figures.marked == 0
                        {
                            return;
                        }
                    }
                }
            }
            for work in all {
                quiet = 0;
                self.writes += work.writes.len();
                self.notices.extend(work.notices);
                self.patches.extend(work.patches);
                if !work.writes.is_empty() {
                    let outcome = writer::execute(&self.client, &work.writes).await;
                    if let Outcome::Failed(text, _) = &outcome {
                        self.log.push(text.clone());
                    }
                    let now = self.start.elapsed();
                    self.notices.extend(self.core.done(&work.key, &outcome, now));
                }
            }
            assert!(
                Instant::now() < deadline,
                "does not settle: {:?}\n{:#?}",
                self.core.figures(),
                self.log
            );
        }
    }

    /// Does a little of what is to do, and sees some of what came of it.
    pub async fn some(&mut self, owners: usize) {
        let now = self.start.elapsed();
        for work in self.core.poll(now, owners) {
            if !work.writes.is_empty() {
                let outcome = writer::execute(&self.client, &work.writes).await;
                let now = self.start.elapsed();
                self.core.done(&work.key, &outcome, now);
            }
        }
        let wait = Duration::from_millis(2);
        while let Ok(event) = tokio::time::timeout(wait, self.watcher.next()).await {
            self.take(event);
        }
    }

    /// Does all that is to do at a time that the test says, and sees what came of it. Times only grow.
    pub async fn step(&mut self, now: Duration) {
        for work in self.core.poll(now, 64) {
            self.notices.extend(work.notices);
            self.patches.extend(work.patches);
            if !work.writes.is_empty() {
                let outcome = writer::execute(&self.client, &work.writes).await;
                self.notices.extend(self.core.done(&work.key, &outcome, now));
            }
        }
        let wait = Duration::from_millis(5);
        while let Ok(event) = tokio::time::timeout(wait, self.watcher.next()).await {
            self.take(event);
        }
    }

    pub fn take(&mut self, event: Event) {
        match event {
            Event::Snapshot(objects, revision) => self.core.config_snapshot(objects, revision),
            Event::Put(object, revision) => self.core.config_put(object, revision),
            Event::Delete { uuid, .. } => self.core.config_delete(uuid),
        }
    }

    pub async fn get(&self, kind: Kind, name: &str) -> Option<Object> {
        self.client.get_by_name(kind, &FqName::parse(name)).await.ok()
    }

    pub async fn must(&self, kind: Kind, name: &str) -> Object {
        match self.client.get_by_name(kind, &FqName::parse(name)).await {
            Ok(object) => object,
            Err(error) => panic!("{kind} {name}: {error}; log {:#?}", self.log),
        }
    }

    /// Names of all objects of a type that this cluster owns.
    pub fn names(&self, kind: Kind) -> Vec<String> {
        let mut all: Vec<String> =
            self.core.graph().of_kind(kind).map(|o| o.fq_name.to_string()).collect();
        all.sort();
        all
    }

    /// Names that references to one type lead to.
    pub fn targets(&self, object: &Object, kind: Kind) -> Vec<String> {
        let graph = self.core.graph();
        let mut all: Vec<String> =
            graph.targets(object, kind).map(|target| target.fq_name.to_string()).collect();
        all.sort();
        all
    }

    pub fn reasons(&self) -> Vec<&'static str> {
        self.notices.iter().map(|notice| notice.problem.reason).collect()
    }
}

/// An annotation of a configuration object.
pub fn note<'a>(object: &'a Object, key: &str) -> Option<&'a str> {
    skein_kube::key::annotation(object, key)
}
