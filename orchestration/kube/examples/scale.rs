//! How much memory and time a large cluster takes: `cargo run --release -p skein-kube --example scale [PODS] [SERVICES]
//! [POLICIES]`. Kubernetes objects are made up, and the configuration is a table in memory that shows every write at
//! once as a watch would: what is measured is the manager alone.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use serde_json::{Value, json};
use skein_kube::Settings;
use skein_kube::core::{Core, Outcome};
use skein_kube::objects::{KubeObject, Resource};
use skein_kube::plan::Write;
use skein_model::{FqName, Kind, Object, Reference};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Instant;
use uuid::Uuid;

/// Objects by identity and by name.
#[derive(Default)]
struct Table {
    objects: HashMap<Uuid, Object>,
    names: HashMap<(Kind, FqName), Uuid>,
    addresses: u32,
    writes: usize,
}

impl Table {
    fn add(&mut self, kind: Kind, name: &str) {
        let object = Object {
            uuid: Uuid::new_v4(),
            kind,
            fq_name: FqName::parse(name),
            parent: None,
            properties: serde_json::Map::new(),
            references: Vec::new(),
            created_revision: 0,
            revision: 0,
        };
        self.names.insert((kind, object.fq_name.clone()), object.uuid);
        self.objects.insert(object.uuid, object);
    }

    fn fill(&self, object: &mut Object, fields: &Value) {
        let meta = object.kind.meta();
        for (name, value) in fields.as_object().unwrap() {
            if meta.property(name).is_some() {
                object.properties.insert(name.clone(), value.clone());
            }
        }
        for known in meta.all_references() {
            let Some(list) = fields.get(known.field).and_then(Value::as_array) else { continue };
            object.references.retain(|r| r.kind != known.target);
            for one in list {
                let name: FqName = serde_json::from_value(one["to"].clone()).unwrap();
                let uuid = self.names[&(known.target, name)];
                let attr = one["attr"].clone();
                object.references.push(Reference {
                    kind: known.target,
                    uuid,
                    attr,
                    relaxed: false,
                });
            }
        }
    }

    /// Makes a write: the object as a watch would show it, or what is gone.
    fn write(&mut self, write: &Write) -> Result<Object, Uuid> {
        self.writes += 1;
        match write {
            Write::Create { kind, name, fields } => {
                self.add(*kind, &name.to_string());
                let made = self.names[&(*kind, name.clone())];
                let mut object = self.objects.remove(&made).unwrap();
                let uuid = fields.get("uuid").and_then(Value::as_str).map(|t| t.parse().unwrap());
                object.uuid = uuid.unwrap_or(made);
                let parent =
                    fields.get("parent_type").and_then(Value::as_str).and_then(Kind::parse);
                object.parent =
                    parent.map(|kind| (kind, self.names[&(kind, name.parent().unwrap())]));
                self.fill(&mut object, fields);
                if *kind == Kind::INSTANCE_IP {
                    self.addresses += 1;
                    let ip = Ipv4Addr::from(0x0a20_0000 + self.addresses).to_string();
                    object.properties.entry("instance_ip_address").or_insert(json!(ip));
                }
                self.names.insert((*kind, name.clone()), object.uuid);
                self.objects.insert(object.uuid, object.clone());
                Ok(object)
            }
            Write::Update { uuid, fields, .. } => {
                let mut object = self.objects[uuid].clone();
                self.fill(&mut object, fields);
                self.objects.insert(*uuid, object.clone());
                Ok(object)
            }
            Write::Reference { uuid, target_kind, target, attr, .. } => {
                let target = self.names[&(*target_kind, target.clone())];
                let object = self.objects.get_mut(uuid).unwrap();
                object.references.retain(|r| r.uuid != target);
                if let Some(attr) = attr.clone() {
                    object.references.push(Reference {
                        kind: *target_kind,
                        uuid: target,
                        attr,
                        relaxed: false,
                    });
                }
                Ok(object.clone())
            }
            Write::Delete { uuid, .. } => {
                let object = self.objects.remove(uuid).unwrap();
                self.names.remove(&(object.kind, object.fq_name));
                Err(*uuid)
            }
        }
    }
}

fn kube(resource: Resource, value: Value) -> KubeObject {
    KubeObject::read(resource, serde_json::from_value(value).unwrap()).unwrap()
}

/// MiB.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

/// Works until nothing is left.
fn settle(core: &mut Core, table: &mut Table, start: Instant, revision: &mut u64) {
    loop {
        let work = core.poll(start.elapsed(), 256);
        if work.is_empty() {
            return;
        }
        for one in work.into_iter().filter(|one| !one.writes.is_empty()) {
            for write in &one.writes {
                *revision += 1;
                match table.write(write) {
                    Ok(object) => core.config_put(object, *revision),
                    Err(uuid) => core.config_delete(uuid),
                }
            }
            core.done(&one.key, &Outcome::Written, start.elapsed());
        }
    }
}

/// The same identity in every run.
fn uid(name: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes())
}

/// With all that can be switched on and costs objects.
fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.dns.serve = true;
    settings
}

const NAMESPACES: usize = 50;

fn feed(core: &mut Core, pods: usize, services: usize, policies: usize) {
    for n in 0..NAMESPACES {
        let name = format!("ns-{n}");
        let labels = json!({"kubernetes.io/metadata.name": name, "team": format!("t{}", n % 7)});
        let meta = json!({"name": name, "uid": uid(&name), "labels": labels});
        core.kube_put(kube(Resource::Namespace, json!({ "metadata": meta })));
    }
    let mut slices: HashMap<usize, Vec<Value>> = HashMap::new();
    for p in 0..pods {
        let uid = uid(&format!("pod-{p}"));
        let node = format!("node-{}", p % 100);
        let labels = json!({
            "app": format!("app-{}", p % 200), "role": format!("r{}", p % 5),
            "pod-template-hash": format!("{p:010}"),
        });
        let namespace = format!("ns-{}", p % NAMESPACES);
        let meta = json!({"name": format!("app-{p}-6d5f7c9b8"), "namespace": namespace, "uid": uid, "labels": labels});
        let container = json!({"name": "a", "ports": [{"name": "http", "containerPort": 8080}]});
        core.kube_put(kube(
            Resource::Pod,
            json!({
                "metadata": meta, "spec": {"nodeName": node, "containers": [container]},
                "status": {"phase": "Running", "hostIP": "10.0.0.1"},
            }),
        ));
        let address = Ipv4Addr::from(0x0a30_0000 + u32::try_from(p).unwrap()).to_string();
        slices.entry(p % services.max(1)).or_default().push(json!({
            "addresses": [address], "nodeName": node, "targetRef": {"kind": "Pod", "uid": uid},
        }));
    }
    for s in 0..services {
        let (name, namespace) = (format!("svc-{s}"), format!("ns-{}", s % NAMESPACES));
        let ip = Ipv4Addr::from(0x0a60_0001 + u32::try_from(s).unwrap()).to_string();
        core.kube_put(kube(
            Resource::Service,
            json!({
                "metadata": {"name": name, "namespace": namespace, "uid": uid(&name)},
                "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80}]},
            }),
        ));
        let labels = json!({"kubernetes.io/service-name": name});
        core.kube_put(kube(
            Resource::EndpointSlice,
            json!({
                "metadata": {"name": format!("{name}-1"), "namespace": namespace, "labels": labels},
                "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
                "endpoints": slices.remove(&s).unwrap_or_default(),
            }),
        ));
    }
    for p in 0..policies {
        let team = json!([{"key": "team", "operator": "NotIn", "values": [format!("t{}", p % 7)]}]);
        let from = json!([
            {"podSelector": {"matchLabels": {"role": format!("r{}", p % 5)}}},
            {"namespaceSelector": {"matchExpressions": team}},
            {"ipBlock": {"cidr": format!("10.{}.0.0/16", p % 200)}},
        ]);
        let ports = json!([{"protocol": "TCP", "port": 80}, {"protocol": "TCP", "port": "http"}]);
        core.kube_put(kube(
            Resource::NetworkPolicy,
            json!({
                "metadata": {"name": format!("np-{p}"), "namespace": format!("ns-{}", p % NAMESPACES)},
                "spec": {
                    "podSelector": {"matchLabels": {"app": format!("app-{}", p % 200)}},
                    "policyTypes": ["Ingress"], "ingress": [{"from": from, "ports": ports}],
                },
            }),
        ));
    }
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse().unwrap());
    let mut next = |default: usize| numbers.next().unwrap_or(default);
    let (pods, services, policies) = (next(5000), next(1000), next(500));
    if let Some(file) = std::env::var_os(START) {
        return start_on(&file, pods, services, policies);
    }
    let mut table = Table::default();
    table.add(Kind::DOMAIN, "default-domain");
    table.add(Kind::POLICY_MANAGEMENT, "default-policy-management");
    table.add(Kind::GLOBAL_SYSTEM_CONFIG, "default-global-system-config");
    table.add(Kind::VIRTUAL_NETWORK, "default-domain:default-project:ip-fabric");
    for n in 0..100 {
        table.add(Kind::VIRTUAL_ROUTER, &format!("default-global-system-config:node-{n}"));
    }
    let start = Instant::now();
    let mut revision = 1;
    let mut core = Core::new(settings());
    core.config_snapshot(table.objects.values().cloned().collect(), revision);
    feed(&mut core, pods, services, policies);
    core.kubernetes_listed();
    settle(&mut core, &mut table, start, &mut revision);
    let made = table.writes;
    println!(
        "{pods} pods, {services} services, {policies} policies: {made} writes in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    let begun = Instant::now();
    core.mark_all();
    settle(&mut core, &mut table, start, &mut revision);
    let again = table.writes - made;
    println!("full resync: {:.2} s, {again} writes", begun.elapsed().as_secs_f64());
    println!("{:?}", core.figures());
    // A manager that starts on what is there, as a process of its own: what it holds is its own.
    let file = std::env::temp_dir().join(format!("skein-scale-{}.jsonl", std::process::id()));
    let lines: Vec<String> =
        table.objects.values().map(|o| serde_json::to_string(o).unwrap()).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let sizes = [pods, services, policies].map(|n| n.to_string());
    let me = std::env::current_exe().unwrap();
    let status = std::process::Command::new(me).args(sizes).env(START, &file).status();
    std::fs::remove_file(&file).unwrap();
    assert!(status.unwrap().success());
}

/// The file of objects that a second manager starts on.
const START: &str = "SKEIN_SCALE_START";

fn start_on(file: &std::ffi::OsStr, pods: usize, services: usize, policies: usize) {
    use std::io::BufRead as _;
    let lines = std::io::BufReader::new(std::fs::File::open(file).unwrap()).lines();
    let objects: Vec<Object> = lines
        .map(|line| {
            let mut object: Object = serde_json::from_str(&line.unwrap()).unwrap();
            skein_kube::packed::shrink(&mut object);
            object
        })
        .collect();
    let mut table = Table::default();
    let (start, mut revision) = (Instant::now(), 1);
    let mut core = Core::new(settings());
    core.config_snapshot(objects, revision);
    feed(&mut core, pods, services, policies);
    core.kubernetes_listed();
    settle(&mut core, &mut table, start, &mut revision);
    println!(
        "start with {} objects in place: {:.2} s, {} writes, resident {} MiB",
        core.graph().len(),
        start.elapsed().as_secs_f64(),
        table.writes,
        resident()
    );
}
