//! The whole manager between a real Kubernetes API server and a real configuration API, with no more rights than
//! `deploy/kubernetes/rbac.yaml` gives.
//!
//! Needs etcd and the programs of Kubernetes: from the folder that `KUBEBUILDER_ASSETS` names, else those that
//! scripts/kubernetes built, else installed ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use serde_json::json;
use skein_api::{Config, Server};
use skein_client::Client;
use skein_kube::ManagerConfig;
use skein_model::{FqName, Kind, Object};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ADMIN: &str = "admin-token";
const MANAGER: &str = "manager-token";

fn program(name: &str) -> PathBuf {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/kubernetes/bin").into();
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let folders = assets.into_iter().chain([built]).chain(std::env::split_paths(&paths));
    folders
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is missing; `make setup-kubernetes` brings it"))
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A control plane of etcd and an API server; ends with the test.
struct Plane {
    dir: tempfile::TempDir,
    port: u16,
    etcd_port: u16,
    etcd: Child,
    server: Option<Child>,
}

impl Plane {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, etcd_port, peer) = (free_port(), free_port(), free_port());
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let etcd = Command::new(program("etcd"))
            .args(["--data-dir", dir.path().join("etcd").to_str().unwrap()])
            .args([
                "--listen-client-urls",
                &url(etcd_port),
                "--advertise-client-urls",
                &url(etcd_port),
            ])
            .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
            .args(["--initial-cluster", &format!("default={}", url(peer)), "--unsafe-no-fsync"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("sa.key"), key.serialize_pem()).unwrap();
        std::fs::write(dir.path().join("sa.pub"), key.public_key_pem()).unwrap();
        let account = "system:serviceaccount:skein-system:skein-kube-manager";
        let tokens = format!(
            "{ADMIN},admin,1,\"system:masters\"\n{MANAGER},{account},2,\"system:authenticated\"\n"
        );
        std::fs::write(dir.path().join("tokens.csv"), tokens).unwrap();
        let mut plane = Self { dir, port, etcd_port, etcd, server: None };
        plane.start_server();
        plane
    }

    fn start_server(&mut self) {
        let at = |name: &str| self.dir.path().join(name).to_str().unwrap().to_owned();
        let log = std::fs::File::create(self.dir.path().join("apiserver.log")).unwrap();
        let server = Command::new(program("kube-apiserver"))
            .args(["--etcd-servers", &format!("http://127.0.0.1:{}", self.etcd_port)])
            .args(["--cert-dir", &at("pki"), "--bind-address", "127.0.0.1"])
            .args(["--secure-port", &self.port.to_string(), "--token-auth-file", &at("tokens.csv")])
            .args([
                "--service-account-key-file",
                &at("sa.pub"),
                "--service-account-signing-key-file",
                &at("sa.key"),
            ])
            .args(["--service-account-issuer", "https://kubernetes.default.svc"])
            .args(["--service-cluster-ip-range", "10.96.0.0/16", "--authorization-mode", "RBAC"])
            .args([
                "--disable-admission-plugins",
                "ServiceAccount",
                "--endpoint-reconciler-type",
                "none",
            ])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.server = Some(server);
        let deadline = Instant::now() + Duration::from_secs(90);
        while !self.kubectl(&["get", "--raw", "/readyz"], "").0 {
            assert!(
                Instant::now() < deadline,
                "the API server does not start: {}",
                std::fs::read_to_string(self.dir.path().join("apiserver.log")).unwrap()
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    fn kill_server(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    fn kubeconfig(&self, token: &str) -> PathBuf {
        let path = self.dir.path().join(format!("{token}.yaml"));
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority": self.dir.path().join("pki/apiserver.crt"),
            }}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        std::fs::write(&path, text.to_string()).unwrap();
        path
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> (bool, String) {
        let mut child = Command::new(program("kubectl"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig(ADMIN))
            .args(arguments)
            .env("HOME", self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    fn apply(&self, yaml: &str) {
        let (good, text) = self.kubectl(&["apply", "-f", "-"], yaml);
        assert!(good, "{text}\n{yaml}");
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log =
                std::fs::read_to_string(self.dir.path().join("apiserver.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines
                .iter()
                .position(|line| line.starts_with("panic") || line.starts_with("fatal"));
            let from = from.unwrap_or(lines.len().saturating_sub(30));
            eprintln!(
                "the API server's log:\n{}",
                lines[from..].iter().take(30).copied().collect::<Vec<_>>().join("\n")
            );
        }
        for child in self.server.iter_mut().chain([&mut self.etcd]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn object(client: &Client, kind: Kind, name: &str) -> Object {
    let name = FqName::parse(name);
    eventually(&format!("{kind} {name}"), async || client.get_by_name(kind, &name).await.ok()).await
}

fn pod(name: &str, annotations: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{role: db}}, annotations: {{{annotations}}}}}\nspec: {{nodeName: node-1, containers: [{{name: a, image: none}}]}}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_cluster_is_translated_with_least_rights() {
    // What goes wrong should be read with the test's own output.
    let _ = tracing_subscriber::fmt().with_env_filter("warn,skein_kube=info").try_init();
    let mut plane = Plane::start();
    plane.apply(include_str!("../../../deploy/kubernetes/rbac.yaml"));
    let store = tempfile::tempdir().unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let server =
        Server::start(Config::new(listen, store.path().join("config.redb"))).await.unwrap();
    let api = format!("http://{}", server.local_addr());
    let client = Client::new(&api).unwrap();
    let mut config = ManagerConfig {
        api,
        status: SocketAddr::from(([127, 0, 0, 1], free_port())),
        ..ManagerConfig::default()
    };
    config.kubernetes.kubeconfig = Some(plane.kubeconfig(MANAGER));
    config.election.identity = "test".into();
    config.cluster.public_fip_pool = Some("default-domain:default-project:public:pool".into());
    config.election.duration = 15;
    let second = config.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let manager = tokio::spawn(skein_kube::run(config, || {}, async {
        let _ = stopped.await;
    }));
    let network = json!({
        "fq_name": ["default-domain", "default-project", "public"], "parent_type": "project",
        "network_ipam_refs": [{
            "to": ["default-domain", "default-project", "default-network-ipam"],
            "attr": {"ipam_subnets": [{"subnet": {"ip_prefix": "198.51.100.0", "ip_prefix_len": 24}}]},
        }],
    });
    client.create(Kind::VIRTUAL_NETWORK, network).await.unwrap();
    let pool = json!({"fq_name": ["default-domain", "default-project", "public", "pool"], "parent_type": "virtual-network"});
    client.create(Kind::FLOATING_IP_POOL, pool).await.unwrap();

    plane.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}");
    plane.apply(&pod("db", ""));
    let machine = object(&client, Kind::VIRTUAL_MACHINE, "k8s__shop__db").await;
    let (_, uid) =
        plane.kubectl(&["get", "pod", "-n", "shop", "db", "-o", "jsonpath={.metadata.uid}"], "");
    assert_eq!(machine.uuid.to_string(), uid);

    plane.apply("apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {type: LoadBalancer, ports: [{name: http, port: 80, targetPort: 8080}]}");
    plane.apply("apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{name: http, port: 8080, protocol: TCP}]\nendpoints: [{addresses: [10.47.255.1], topology: {kubernetes.io/hostname: node-1}}]");
    eventually("the load balancer's address in the status", async || {
        let path = "jsonpath={.status.loadBalancer.ingress[0].ip}";
        let (_, ip) = plane.kubectl(&["get", "service", "-n", "shop", "web", "-o", path], "");
        ip.starts_with("198.51.100.").then_some(())
    })
    .await;
    eventually("the member", async || {
        let list = client.list(Kind::LOADBALANCER_MEMBER, &Default::default()).await.ok()?;
        list.iter()
            .any(|m| m.properties["loadbalancer_member_properties"]["node"] == "node-1")
            .then_some(())
    })
    .await;

    plane.apply("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: guard, namespace: shop}\nspec: {podSelector: {matchLabels: {role: db}}, ingress: []}");
    object(&client, Kind::FIREWALL_POLICY, "default-policy-management:k8s-shop-guard").await;
    object(&client, Kind::TAG, "role=db").await;

    plane.apply(&pod("bad", "opencontrail.org/network: 'non:sense'"));
    eventually("the Event", async || {
        let (_, text) = plane.kubectl(&["get", "events", "-n", "shop", "-o", "json"], "");
        text.contains("BadAnnotation").then_some(())
    })
    .await;

    plane.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: apart, annotations: {opencontrail.org/isolation: 'true'}}");
    object(&client, Kind::VIRTUAL_NETWORK, "default-domain:k8s-apart:k8s-apart-pod-network").await;

    // The definition of attachments is made by the manager. No object of it here: Kubernetes before 1.24, built with Go
    // 1.18 or later, dies of the first custom resource (its vendored modern-go/reflect2 is older than 1.0.2). Tables
    // in tests/pods.rs cover attachments.
    eventually("the definition of attachments", async || {
        let crd = "network-attachment-definitions.k8s.cni.cncf.io";
        plane.kubectl(&["get", "crd", crd], "").0.then_some(())
    })
    .await;
    let (_, lease) = plane.kubectl(
        &[
            "get",
            "lease",
            "-n",
            "kube-system",
            "skein-kube-manager-k8s",
            "-o",
            "jsonpath={.spec.holderIdentity}",
        ],
        "",
    );
    assert_eq!(lease, "test");

    // The API server goes and comes back; in between a policy vanished from the store behind the watch's back.
    plane.kill_server();
    plane.start_server();
    let (good, text) = plane.kubectl(&["delete", "networkpolicy", "-n", "shop", "guard"], "");
    assert!(good, "{text}");
    plane.apply(&pod("later", ""));
    object(&client, Kind::VIRTUAL_MACHINE, "k8s__shop__later").await;
    let gone = FqName::parse("default-policy-management:k8s-shop-guard");
    eventually("the policy's end", async || {
        client.get_by_name(Kind::FIREWALL_POLICY, &gone).await.is_err().then_some(())
    })
    .await;
    let (good, text) =
        plane.kubectl(&["delete", "pod", "-n", "shop", "later", "--force", "--grace-period=0"], "");
    assert!(good, "{text}");
    let later = FqName::parse("k8s__shop__later");
    eventually("the pod's end", async || {
        client.get_by_name(Kind::VIRTUAL_MACHINE, &later).await.is_err().then_some(())
    })
    .await;

    // A second manager stands by, and takes over when the first one is gone.
    let mut standby = second;
    standby.status.set_port(free_port());
    standby.election.identity = "standby".into();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let second = tokio::spawn(skein_kube::run(standby, || {}, async {
        let _ = ended.await;
    }));
    tokio::time::sleep(Duration::from_secs(4)).await;
    let _ = stop.send(());
    manager.await.unwrap().unwrap();
    plane.apply(&pod("after", ""));
    // Much shorter than the lease: whoever stops gives it back.
    let since = Instant::now();
    object(&client, Kind::VIRTUAL_MACHINE, "k8s__shop__after").await;
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    let path = "jsonpath={.spec.holderIdentity}";
    let lease = ["get", "lease", "-n", "kube-system", "skein-kube-manager-k8s", "-o", path];
    assert_eq!(plane.kubectl(&lease, "").1, "standby");
    let _ = end.send(());
    second.await.unwrap().unwrap();
    server.shutdown().await;
}
