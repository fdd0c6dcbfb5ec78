//! etcd, the API server, the controller manager and the scheduler, on a host of their own.

use super::daemon::{Daemon, Line, Place};
use super::{Api, Authority, ClusterError, ClusterOptions, Programs, api};
use crate::Host;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the API server listens.
pub(crate) const API_PORT: u16 = 6443;
/// Addresses of Services; the first one is the API server's.
pub(crate) const SERVICE_RANGE: &str = "10.96.0.0/16";
const API_SERVICE: &str = "10.96.0.1";
const ETCD: &str = "http://127.0.0.1:2379";
/// The name that service account tokens carry as their issuer.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// On two busy cores all of it is ready in 5 to 10 s.
const READY: Duration = Duration::from_secs(90);

/// The control plane of a cluster.
#[derive(Debug)]
pub struct ControlPlane {
    /// The proxy that carries [`Api`].
    pub(crate) proxy: Daemon,
    /// The scheduler.
    pub scheduler: Daemon,
    /// The controller manager.
    pub controller_manager: Daemon,
    /// The API server.
    pub api_server: Daemon,
    /// Its store.
    pub etcd: Daemon,
    pub(crate) api: Api,
}

/// What the control plane is made from.
pub(crate) struct Plan<'a> {
    pub(crate) host: &'a Host,
    pub(crate) programs: &'a Programs,
    pub(crate) authority: &'a Authority,
    pub(crate) options: &'a ClusterOptions,
    /// Logs go here.
    pub(crate) logs: &'a Path,
    /// The administrator's kubeconfig.
    pub(crate) admin: &'a Path,
}

impl ControlPlane {
    /// Starts everything and waits until the API server is ready.
    pub(crate) fn start(plan: &Plan<'_>) -> Result<ControlPlane, ClusterError> {
        let start = |name: &str, line: Line| {
            let log = plan.logs.join(format!("{name}.log"));
            Daemon::start(name, log, Place::Host(plan.host.clone()), line)
        };
        let etcd = start("etcd", etcd(plan))?;
        let mut api_server = start("kube-apiserver", api_server(plan)?)?;
        let proxy = Line::new(&plan.programs.kubectl)
            .arg("proxy")
            .flag("port", api::PROXY_PORT)
            .env("KUBECONFIG", plan.admin);
        let proxy = start("kubectl-proxy", proxy)?;
        let api = Api::new(plan.host);
        api_server.wait_ready(READY, || api.text("/readyz").map(|_| ()))?;
        // Only now: they end when their roles are not there yet.
        let scheduler = start("kube-scheduler", scheduler(plan)?)?;
        let controller_manager = start("kube-controller-manager", controller_manager(plan)?)?;
        Ok(ControlPlane { proxy, scheduler, controller_manager, api_server, etcd, api })
    }

    /// Waits until the controllers work: a namespace's service account is theirs to make, and pods need it.
    pub(crate) fn wait_controllers(&mut self) -> Result<(), ClusterError> {
        let api = self.api.clone();
        self.controller_manager.wait_ready(READY, || {
            api.get("/api/v1/namespaces/default/serviceaccounts/default").map(|_| ())
        })?;
        Ok(self.scheduler.process().check()?)
    }

    /// Starts the API server again after [`Daemon::kill`], and waits until it is ready.
    ///
    /// # Errors
    /// The end of its log.
    pub fn restart_api_server(&mut self) -> Result<(), ClusterError> {
        self.api_server.start_again()?;
        let api = self.api.clone();
        self.api_server.wait_ready(READY, || api.text("/readyz").map(|_| ()))
    }

    /// Starts the store again after [`Daemon::kill`], and waits until the API server has it.
    ///
    /// # Errors
    /// The end of its log.
    pub fn restart_etcd(&mut self) -> Result<(), ClusterError> {
        self.etcd.start_again()?;
        let api = self.api.clone();
        self.etcd.wait_ready(READY, || api.text("/readyz").map(|_| ()))
    }

    pub(crate) fn detach(self) {
        for daemon in
            [self.proxy, self.scheduler, self.controller_manager, self.api_server, self.etcd]
        {
            daemon.detach();
        }
    }
}

fn etcd(plan: &Plan<'_>) -> Line {
    Line::new(&plan.programs.etcd)
        // In memory: a test's cluster need not outlive the machine, and fsync costs most of the time.
        .file("data-dir", &plan.host.directory().join("etcd"))
        .flag("listen-client-urls", ETCD)
        .flag("advertise-client-urls", ETCD)
        .flag("listen-peer-urls", "http://127.0.0.1:2380")
        .flag("initial-advertise-peer-urls", "http://127.0.0.1:2380")
        .flag("initial-cluster", "default=http://127.0.0.1:2380")
}

fn api_server(plan: &Plan<'_>) -> Result<Line, ClusterError> {
    let authority = plan.authority;
    let pki = authority.folder();
    let mut names: Vec<String> = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        API_SERVICE,
    ]
    .map(str::to_owned)
    .into();
    names.push(plan.host.ipv4().to_string());
    names.push(plan.host.ipv6().to_string());
    let serving = authority.issue_files("apiserver", "kube-apiserver", &[], &names)?;
    let to_kubelets =
        authority.issue_files("to-kubelets", "kube-apiserver", &["system:masters"], &[])?;
    Ok(Line::new(&plan.programs.api_server)
        .flag("etcd-servers", ETCD)
        .flag("bind-address", "0.0.0.0")
        .flag("secure-port", API_PORT)
        .flag("advertise-address", plan.host.ipv4())
        .file("client-ca-file", &authority.ca_file())
        .file("tls-cert-file", &serving.0)
        .file("tls-private-key-file", &serving.1)
        .file("kubelet-client-certificate", &to_kubelets.0)
        .file("kubelet-client-key", &to_kubelets.1)
        .file("kubelet-certificate-authority", &authority.ca_file())
        // Nodes have names that no DNS knows.
        .flag("kubelet-preferred-address-types", "InternalIP")
        .flag("enable-bootstrap-token-auth", true)
        .flag("authorization-mode", "Node,RBAC")
        .flag("enable-admission-plugins", "NodeRestriction")
        .flag("service-cluster-ip-range", SERVICE_RANGE)
        .flag("service-account-issuer", ISSUER)
        .file("service-account-key-file", &pki.join("service-account.pub"))
        .file("service-account-signing-key-file", &pki.join("service-account.key"))
        .flag("allow-privileged", true)
        .flag("profiling", false)
        .args(&plan.options.api_server_arguments))
}

fn kubeconfig(plan: &Plan<'_>, component: &str) -> Result<PathBuf, ClusterError> {
    let path = plan.authority.folder().join(format!("{component}.kubeconfig"));
    plan.authority.kubeconfig(&path, &format!("system:{component}"), &[])?;
    Ok(path)
}

fn controller_manager(plan: &Plan<'_>) -> Result<Line, ClusterError> {
    let authority = plan.authority;
    let pki = authority.folder();
    let kubeconfig = kubeconfig(plan, "kube-controller-manager")?;
    Ok(Line::new(&plan.programs.controller_manager)
        .file("kubeconfig", &kubeconfig)
        .file("authentication-kubeconfig", &kubeconfig)
        .file("authorization-kubeconfig", &kubeconfig)
        .flag("bind-address", "127.0.0.1")
        .flag("leader-elect", false)
        .flag("use-service-account-credentials", true)
        .flag("controllers", "*,bootstrapsigner,tokencleaner")
        .file("cluster-signing-cert-file", &authority.ca_file())
        .file("cluster-signing-key-file", &pki.join("ca.key"))
        .file("root-ca-file", &authority.ca_file())
        .file("service-account-private-key-file", &pki.join("service-account.key"))
        .file("cert-dir", &pki.join("controller-manager"))
        .args(&plan.options.controller_manager_arguments))
}

fn scheduler(plan: &Plan<'_>) -> Result<Line, ClusterError> {
    let kubeconfig = kubeconfig(plan, "kube-scheduler")?;
    Ok(Line::new(&plan.programs.scheduler)
        .file("kubeconfig", &kubeconfig)
        .file("authentication-kubeconfig", &kubeconfig)
        .file("authorization-kubeconfig", &kubeconfig)
        .flag("bind-address", "127.0.0.1")
        .flag("leader-elect", false))
}

/// A token with which kubelets ask for their first certificate.
pub(crate) struct BootstrapToken {
    id: String,
    secret: String,
}

impl BootstrapToken {
    pub(crate) fn new() -> Result<BootstrapToken, ClusterError> {
        let mut bytes = [0; 11];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
            .map_err(|_| ClusterError::answer("the system's random numbers", "none given"))?;
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(BootstrapToken { id: text[..6].to_owned(), secret: text[6..].to_owned() })
    }

    /// As kubelets present it.
    pub(crate) fn text(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// Lets whoever has the token ask for a node's certificate, and has such requests approved.
    pub(crate) fn register(&self, api: &Api) -> Result<(), ClusterError> {
        const GROUP: &str = "system:bootstrappers:lab";
        api.create(
            "/api/v1/namespaces/kube-system/secrets",
            &json!({
                "metadata": {"name": format!("bootstrap-token-{}", self.id)},
                "type": "bootstrap.kubernetes.io/token",
                "stringData": {
                    "token-id": self.id,
                    "token-secret": self.secret,
                    "usage-bootstrap-authentication": "true",
                    "auth-extra-groups": GROUP,
                },
            }),
        )?;
        let roles = [
            ("lab:bootstrap", "system:node-bootstrapper"),
            ("lab:approve", "system:certificates.k8s.io:certificatesigningrequests:nodeclient"),
        ];
        for (name, role) in roles {
            api.create(
                "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
                &json!({
                    "metadata": {"name": name},
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": GROUP}],
                }),
            )?;
        }
        Ok(())
    }
}
