//! Puts the agent together: opens the datapath, starts the node thread, the servers and the sessions.

use crate::kernel::Kernel;
use crate::node::{Message, Node, NodeHandle, NodeSetup};
use crate::port_service::PortService;
use crate::ports::NodeState;
use crate::session::Channels;
use crate::state::Core;
use crate::{
    AgentConfig, AgentError, Underlay, dns, enroll, health_port, host_ports, introspect, saved,
    session, tls, vm_service,
};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use skein_cni::links::LinkWatch;
use skein_datapath::Timeouts;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

/// More controllers than this are refused: each is told everything, and tells it.
const MOST_CONTROLLERS: usize = 5;
/// How often the age of the certificate is looked at.
const RENEWAL_CHECK: Duration = Duration::from_secs(3600);

/// Runs an agent until `shutdown` completes. Programs, tables and flows stay in the kernel when it ends.
///
/// Must be called within a tokio runtime. The port API and the introspection API listen before the first
/// controller is reached; the kernel is up to date with the saved state by then, and `ready` is called.
///
/// # Errors
/// The node cannot run: configuration, files, datapath, sockets. Controllers being away is no error.
pub async fn run(
    config: AgentConfig,
    ready: impl FnOnce() + Send,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), AgentError> {
    check(&config)?;
    std::fs::create_dir_all(&config.data_dir)
        .map_err(AgentError::file("create", &config.data_dir))?;
    let underlay = Underlay::find(&config)?;
    ensure_bpffs(&config.pin_dir)?;
    let controllers = config.controllers.clone();
    let (dns, dns_sockets) = dns::new(&config, underlay.tunnel_address);
    let machine_address = Some(underlay.tunnel_address)
        .filter(std::net::IpAddr::is_ipv4)
        .map(|own| std::net::SocketAddr::from((own, config.machine_port)));
    let (health, checks) = watch::channel(health_port::Checks::new());
    let (node, thread) = start_node(&config, underlay, controllers.clone(), dns, health)?;

    let channels = Channels::new(controllers.len());
    let service = PortService::new(node.clone(), channels.clone());
    let port_listener = listen_unix(&config.socket)?;
    let listener = TcpListener::bind(config.introspection).await.map_err(|source| {
        AgentError::Listen { address: config.introspection.to_string(), source }
    })?;
    let mut tasks = tokio::task::JoinSet::new();
    let router = service.router();
    tasks.spawn(async move {
        if let Err(error) = axum::serve(port_listener, router).await {
            tracing::error!(%error, "the port API ended");
        }
    });
    if let Some(address) = machine_address.filter(|address| address.port() != 0) {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| AgentError::Listen { address: address.to_string(), source })?;
        let router = vm_service::router(&service);
        tasks.spawn(async move {
            let service = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
            if let Err(error) = axum::serve(listener, service).await {
                tracing::error!(%error, "the machines' API ended");
            }
        });
    }
    let router = introspect::router(node.clone());
    tasks.spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the introspection API ended");
        }
    });
    tasks.spawn(dns_sockets.serve());
    tasks.spawn(health_port::serve(checks));
    tasks.spawn(service.keep_releasing(config.socket.clone()));
    tasks.spawn(keep_connected(config.clone(), controllers, node.clone(), channels));
    let watching = watch_links(node.clone())?;
    tracing::info!(node = config.node, socket = %config.socket.display(), "the agent runs");
    ready();

    shutdown.await;
    tracing::info!("the agent stops; the datapath goes on forwarding");
    watching.store(false, Ordering::Relaxed);
    tasks.shutdown().await;
    node.send(Message::Stop);
    // The thread ends after its last save.
    let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    let _ = std::fs::remove_file(&config.socket);
    Ok(())
}

fn check(config: &AgentConfig) -> Result<(), AgentError> {
    let wrong = |field, reason: &str| Err(AgentError::Config { field, reason: reason.into() });
    if config.node.is_empty() {
        return wrong("node", "give the node a name");
    }
    if config.controllers.iter().any(|address| !address.contains(':')) {
        return wrong("controllers", "write each as `host:port`");
    }
    if config.controllers.len() > MOST_CONTROLLERS {
        // Every node has to be known to every controller, so none may be left out in silence.
        return wrong("controllers", "name at most five; three stand the loss of any one");
    }
    if config.dns.port == 0 || config.dns.first_view_port < 1024 {
        return wrong("dns", "port must not be 0, first_view_port not below 1024");
    }
    let tables = &config.tables;
    if [tables.flows, tables.host_routes, tables.prefix_routes, tables.policies, tables.vifs]
        .iter()
        .chain(&[tables.contexts, tables.services, tables.members])
        .any(|entries| *entries == 0)
        || tables.next_hops < 2
    {
        return wrong("tables", "a table needs at least one entry, next_hops two");
    }
    if config.flow_idle_seconds == 0 {
        return wrong("flow_idle_seconds", "0 would end every connection at once");
    }
    Ok(())
}

fn start_node(
    config: &AgentConfig,
    underlay: Underlay,
    controllers: Vec<String>,
    dns: dns::Dns,
    health: watch::Sender<health_port::Checks>,
) -> Result<(NodeHandle, std::thread::JoinHandle<()>), AgentError> {
    // Without a name every start is taken for the same one.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let state = NodeState::load(&config.data_dir, boot.trim())?;
    let mut kernel = Kernel::open(&config.datapath(), underlay.clone(), config.super_packet_bytes)?;
    let (tables, policies) = kernel.read_back(&state.numbers.label_owners())?;
    let mut core = Core::new(
        controllers.len(),
        Some(underlay.tunnel_address),
        state.numbers.clone(),
        config.max_flows_per_port,
    )
    .named(&config.node)
    .with_dns(dns::ports(config))
    .with_host_ports(host_ports::chosen_from());
    core.adopt(tables, policies);
    if let Some((intent, routes)) = saved::load(&config.data_dir)? {
        core.load(intent, &routes);
    }
    let idle = Duration::from_secs(u64::from(config.flow_idle_seconds));
    Node::start(NodeSetup {
        name: config.node.clone(),
        directory: config.data_dir.clone(),
        controllers,
        core,
        kernel,
        underlay,
        state,
        dns,
        timeouts: Timeouts { idle, ..Timeouts::default() },
        health,
    })
}

/// Enrols, then keeps a session to every controller, with a fresh certificate when the old one ages.
async fn keep_connected(
    config: AgentConfig,
    controllers: Vec<String>,
    node: NodeHandle,
    channels: Channels,
) {
    if controllers.is_empty() {
        tracing::warn!("no controllers are configured: the node forwards what it has saved");
        return;
    }
    let obtain = async |config: &AgentConfig| {
        let identity = enroll::identity(config).await?;
        Ok::<_, AgentError>((tls::mutual(&identity)?, identity))
    };
    let (tls, mut identity) = match obtain(&config).await {
        Ok(obtained) => obtained,
        Err(error) => {
            tracing::error!(%error, "no session is possible: the node forwards what it has saved");
            return;
        }
    };
    let (current, receiver) = watch::channel(tls);
    let mut sessions = tokio::task::JoinSet::new();
    for (index, address) in controllers.into_iter().enumerate() {
        let (name, receiver) = (config.server_name.clone(), receiver.clone());
        sessions.spawn(session::run(
            index,
            address,
            name,
            receiver,
            node.clone(),
            channels.clone(),
        ));
    }
    loop {
        tokio::time::sleep(RENEWAL_CHECK).await;
        if !enroll::is_ageing(&config, &identity) {
            continue;
        }
        match obtain(&config).await {
            Ok((tls, renewed)) => {
                identity = renewed;
                // Streams that are open stay; the next one uses it.
                let _ = current.send(tls);
            }
            Err(error) => tracing::warn!(%error, "the certificate is not renewed yet"),
        }
    }
}

fn watch_links(node: NodeHandle) -> Result<Arc<AtomicBool>, AgentError> {
    let failed = |source: std::io::Error| AgentError::Interface {
        interface: "(all)".into(),
        reason: format!("cannot be watched: {source}"),
    };
    let mut watch = LinkWatch::open().map_err(failed)?;
    let go_on = Arc::new(AtomicBool::new(true));
    let flag = go_on.clone();
    std::thread::Builder::new()
        .name("skein-links".into())
        .spawn(move || {
            while flag.load(Ordering::Relaxed) {
                match watch.gone() {
                    Ok(Some(gone)) if gone.is_empty() => {}
                    Ok(gone) => node.send(Message::LinksGone(gone)),
                    Err(error) => {
                        tracing::error!(%error, "interfaces are not watched any more");
                        return;
                    }
                }
            }
        })
        .map_err(failed)?;
    Ok(go_on)
}

/// The socket only root may use: whoever can make ports can attach to any network.
fn listen_unix(path: &Path) -> Result<UnixListener, AgentError> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(AgentError::file("create", directory))?;
    }
    // What a killed agent left. A second agent on this node is kept out by the introspection port.
    let _ = std::fs::remove_file(path);
    let listen = |source| AgentError::Listen { address: path.display().to_string(), source };
    let listener = UnixListener::bind(path).map_err(listen)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(AgentError::file("restrict access to", path))?;
    Ok(listener)
}

/// Mounts the BPF file system where distributions have it, when nobody did.
fn ensure_bpffs(pin_dir: &Path) -> Result<(), AgentError> {
    let usual = Path::new("/sys/fs/bpf");
    let existing = pin_dir.ancestors().find(|path| path.exists()).unwrap_or(usual);
    let kind =
        statfs(existing).map_err(|error| AgentError::file("examine", existing)(error.into()))?;
    if kind.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    if !pin_dir.starts_with(usual) {
        return Err(AgentError::Config {
            field: "pin_dir",
            reason: format!(
                "{} is on no BPF file system; mount one: `mount -t bpf bpf DIRECTORY`",
                pin_dir.display()
            ),
        });
    }
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("bpf"), usual, Some("bpf"), flags, None::<&str>)
        .map_err(|error| AgentError::file("mount a BPF file system on", usual)(error.into()))
}
