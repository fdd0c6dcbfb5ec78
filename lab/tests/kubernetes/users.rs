//! Users whom a webhook knows, as the original's by its keystone: the API server asks it who a token's bearer is. Each may do in
//! their own namespace what their role says, and nothing in the other's. Skein is asked for nothing by this, and needs no rights for it.

use crate::{
    ANSWER, PATIENCE, PODS_GONE, PODS_READY, Steps, assert_all_pairs, create_namespace, quickly,
};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, ClusterOptions, KubePod, PROBE_IMAGE};
use skein_lab::{Host, Ran, wait_for};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// On the host of the API server, which alone asks.
const WEBHOOK: (&str, u16) = ("127.0.0.1", 18_099);
/// User, token, namespace.
const USERS: [(&str, &str, &str); 2] =
    [("anna", "token-of-anna", "tenant-a"), ("ben", "token-of-ben", "tenant-b")];

/// Tells API servers where the webhook is. It need not be there yet.
pub(crate) struct Webhook {
    file: PathBuf,
}

impl Webhook {
    /// Adds it to the options of a cluster.
    pub(crate) fn ask_it(options: &mut ClusterOptions) -> Webhook {
        let file = std::env::temp_dir().join(format!("skl-webhook-{}.json", std::process::id()));
        let (address, port) = WEBHOOK;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "webhook",
            "clusters": [{"name": "users", "cluster": {"server": format!("http://{address}:{port}/")}}],
            "users": [{"name": "api-server", "user": {}}],
            "contexts": [{"name": "webhook", "context": {"cluster": "users", "user": "api-server"}}],
        });
        std::fs::write(&file, config.to_string()).unwrap();
        options
            .api_server_arguments
            .push(format!("--authentication-token-webhook-config-file={}", file.display()));
        Webhook { file }
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// The server that knows the users, until it is dropped.
struct Server {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    fn start(host: &Host) -> Server {
        let listener = host.inside(|| TcpListener::bind(WEBHOOK)).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopping, count) = (stop.clone(), asked.clone());
        std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::spawn(move || review(stream));
            }
        });
        Server { stop, asked }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Answers one TokenReview.
fn review(mut stream: TcpStream) -> Option<()> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut review: Value = serde_json::from_slice(&body).ok()?;
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    let user = USERS.iter().find(|(_, own, _)| *own == token);
    review["status"] = user.map_or(json!({"authenticated": false}), |(name, _, _)| {
        let user = json!({"username": name, "uid": name, "groups": ["tenants"]});
        json!({"authenticated": true, "user": user})
    });
    let body = review.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).ok()
}

/// The users at work.
pub(crate) struct Users {
    server: Server,
}

impl Users {
    /// Roles in two namespaces, and what their users may and may not do.
    pub(crate) fn start(cluster: &Cluster, steps: &mut Steps) -> Users {
        let server = Server::start(cluster.control_host());
        for (user, _, namespace) in USERS {
            create_namespace(cluster, &json!({"name": namespace}));
            let meta = json!({"name": "tenant", "namespace": namespace});
            let role = json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta,
                "rules": [{
                    "apiGroups": [""], "resources": ["pods", "services"],
                    "verbs": ["create", "get", "list", "delete"],
                }],
            });
            let binding = json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": meta,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tenant"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
            });
            for object in [role, binding] {
                cluster.apply(&object.to_string()).unwrap();
            }
        }
        let users = Users { server };
        users.work(cluster, "first");
        let stranger = kubectl(cluster, "nobody's", &["get", "pods", "-n", "tenant-a"], "");
        assert!(!stranger.ok() && stranger.stderr.contains("Unauthorized"), "{stranger:?}");
        steps.done("users of a webhook, each with a namespace");
        users
    }

    /// The same once more, with pods that are made now; then all goes.
    pub(crate) fn end(self, cluster: &Cluster, steps: &mut Steps) {
        let before = self.server.asked.load(Ordering::Relaxed);
        self.work(cluster, "second");
        assert!(self.server.asked.load(Ordering::Relaxed) > before, "nobody asked the webhook");
        for (_, _, namespace) in USERS {
            cluster.api().delete(&format!("/api/v1/namespaces/{namespace}")).unwrap();
        }
        // With their pods: what comes next takes a node's power, and no kubelet would end them then.
        for (_, _, namespace) in USERS {
            let path = format!("/api/v1/namespaces/{namespace}");
            wait_for(&format!("{namespace} to be gone"), PODS_GONE, || {
                match cluster.api().find(&path).map_err(|error| error.to_string())? {
                    None => Ok(()),
                    Some(still) => Err(still["status"].to_string()),
                }
            })
            .unwrap_or_else(|error| panic!("{error}"));
        }
        steps.done("users of a webhook after the restarts");
    }

    /// Everyone makes a pod and a service and sees them; nobody does so in the other's namespace.
    fn work(&self, cluster: &Cluster, name: &str) {
        let mut pods: Vec<KubePod> = Vec::new();
        let mut addresses = Vec::new();
        for ((user, token, own), (_, _, other)) in USERS.into_iter().zip([USERS[1], USERS[0]]) {
            // Its service account, and after a restart the roles, take the API server a moment.
            wait_for(&format!("{user} to make a pod"), PATIENCE, || {
                let ran = kubectl(cluster, token, &["create", "-n", own, "-f", "-"], &pod(name));
                if ran.ok() { Ok(()) } else { Err(ran.stderr) }
            })
            .unwrap_or_else(|error| panic!("{error}"));
            let made = kubectl(cluster, token, &["create", "-n", own, "-f", "-"], &service(name));
            made.success().unwrap();
            let list =
                kubectl(cluster, token, &["get", "pods,services", "-n", own, "-o", "name"], "");
            let list = list.success().unwrap();
            for wanted in [format!("pod/{name}"), format!("service/{name}")] {
                assert!(list.lines().any(|line| line == wanted), "{wanted}: {list}");
            }
            for arguments in [["get", "pods", "-n", other], ["get", "services", "-n", other]] {
                refused(user, &kubectl(cluster, token, &arguments, ""));
            }
            for object in [pod("stolen"), service("stolen")] {
                let arguments = ["create", "-n", other, "-f", "-"];
                refused(user, &kubectl(cluster, token, &arguments, &object));
            }
            // Nothing else in the own one either.
            refused(user, &kubectl(cluster, token, &["get", "secrets", "-n", own], ""));
            let selector = format!("app={name}");
            pods.extend(cluster.wait_pods(own, &selector, 1, PODS_READY).unwrap());
            let path = format!("/api/v1/namespaces/{own}/services/{name}");
            let made = cluster.api().get(&path).unwrap();
            addresses.push(format!("tcp:{}:8080", made["spec"]["clusterIP"].as_str().unwrap()));
        }
        assert_all_pairs(&pods, quickly);
        for pod in &pods {
            wait_for("services of users to answer", PATIENCE, || {
                crate::all_answered(pod.ask(&addresses, ANSWER).unwrap())
            })
            .unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

fn refused(user: &str, ran: &Ran) {
    let said = format!("User \"{user}\" cannot");
    assert!(!ran.ok() && ran.stderr.contains("Forbidden") && ran.stderr.contains(&said), "{ran:?}");
}

fn pod(name: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}],
        },
    })
    .to_string()
}

fn service(name: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 8080, "targetPort": 80}]},
    })
    .to_string()
}

/// As the bearer of a token.
fn kubectl(cluster: &Cluster, token: &str, arguments: &[&str], input: &str) -> Ran {
    let kubeconfig = cluster.state().join("bearer.kubeconfig");
    cluster.authority().token_kubeconfig(&kubeconfig, token).unwrap();
    let file = cluster.state().join("bearer.json");
    std::fs::write(&file, input).unwrap();
    let file = file.display().to_string();
    let arguments = arguments.iter().map(|word| if *word == "-" { file.as_str() } else { *word });
    let mut command = Command::new(cluster.kubectl_program());
    command.env("KUBECONFIG", &kubeconfig).env("HOME", cluster.state()).args(arguments);
    cluster.control_host().run(&mut command).unwrap()
}
