//! The ports at which load balancers in front ask whether a node has members of a service
//! (`healthCheckNodePort`): HTTP, 200 if it has, else 503, answered as kube-proxy does.

use crate::state::HealthCheck;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Health checks by port.
pub(crate) type Checks = BTreeMap<u16, HealthCheck>;

/// Who asks has its question complete within this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// More of a question is not read.
const QUESTION: usize = 4096;
/// A port that something else has is tried again after this time.
const AGAIN: Duration = Duration::from_secs(5);

/// Keeps a listener at every port of the checks until the sender is gone.
pub(crate) async fn serve(mut checks: watch::Receiver<Checks>) {
    let mut listeners: BTreeMap<u16, JoinSet<()>> = BTreeMap::new();
    let mut told: BTreeMap<u16, String> = BTreeMap::new();
    loop {
        let wanted: Vec<u16> = checks.borrow_and_update().keys().copied().collect();
        listeners.retain(|port, _| wanted.contains(port));
        told.retain(|port, _| wanted.contains(port));
        let mut missing = false;
        for port in wanted {
            if listeners.contains_key(&port) {
                continue;
            }
            match listen(port).await {
                Ok(sockets) => {
                    let mut tasks = JoinSet::new();
                    for socket in sockets {
                        tasks.spawn(accept(socket, port, checks.clone()));
                    }
                    listeners.insert(port, tasks);
                    told.remove(&port);
                }
                Err(error) => {
                    missing = true;
                    let error = error.to_string();
                    if told.get(&port) != Some(&error) {
                        tracing::warn!(port, error, "a service's health check cannot be answered");
                        told.insert(port, error);
                    }
                }
            }
        }
        let again = async {
            if missing {
                tokio::time::sleep(AGAIN).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            changed = checks.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

/// All addresses: one socket for both families where the kernel has IPv6.
async fn listen(port: u16) -> std::io::Result<Vec<TcpListener>> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(both) => {
            // With net.ipv6.bindv6only the other family is still free.
            let four = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await;
            Ok(std::iter::once(both).chain(four.ok()).collect())
        }
        Err(_) => {
            Ok(vec![TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await?])
        }
    }
}

async fn accept(socket: TcpListener, port: u16, checks: watch::Receiver<Checks>) {
    let mut answers = JoinSet::new();
    loop {
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((stream, _)) => {
                    let check = checks.borrow().get(&port).cloned().unwrap_or_default();
                    answers.spawn(async move {
                        let _ = tokio::time::timeout(PATIENCE, answer(stream, check)).await;
                    });
                }
                // Too many open files, or the peer went away already: the next one may do better.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = answers.join_next() => {}
        }
    }
}

async fn answer(mut stream: TcpStream, check: HealthCheck) -> std::io::Result<()> {
    let mut question = Vec::new();
    let mut part = [0; 512];
    while !question.windows(4).any(|end| end == b"\r\n\r\n") && question.len() < QUESTION {
        match stream.read(&mut part).await? {
            0 => return Ok(()),
            read => question.extend_from_slice(&part[..read]),
        }
    }
    stream.write_all(reply(&check).as_bytes()).await?;
    stream.shutdown().await
}

fn reply(check: &HealthCheck) -> String {
    let count = check.members.len();
    let status = if count == 0 { "503 Service Unavailable" } else { "200 OK" };
    let (namespace, name) = check.service.split_once('/').unwrap_or(("", &check.service));
    let body = serde_json::json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": count,
        "serviceProxyHealthy": true,
    });
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         X-Load-Balancing-Endpoint-Weight: {count}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test says by panicking")]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    async fn ask(port: u16) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await?;
        Ok(said)
    }

    #[tokio::test]
    async fn a_port_says_whether_there_are_members_and_goes_with_its_service() {
        let port = TcpListener::bind("[::]:0").await.unwrap().local_addr().unwrap().port();
        let members =
            |count: u8| (1..=count).map(|n| [10, 0, 0, n].into()).collect::<BTreeSet<_>>();
        let check = |count| HealthCheck { service: "shop/web".into(), members: members(count) };
        let (told, receiver) = watch::channel(Checks::from([(port, check(0))]));
        let serving = tokio::spawn(serve(receiver));
        let mut said = ask(port).await;
        for _ in 0..100 {
            if said.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            said = ask(port).await;
        }
        let said = said.unwrap();
        assert!(said.starts_with("HTTP/1.1 503 "), "{said}");
        told.send(Checks::from([(port, check(2))])).unwrap();
        let said = ask(port).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        assert!(said.contains("X-Load-Balancing-Endpoint-Weight: 2\r\n"), "{said}");
        let body: serde_json::Value =
            serde_json::from_str(said.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body["localEndpoints"], 2);
        assert_eq!(body["service"]["namespace"], "shop");
        told.send(Checks::new()).unwrap();
        for _ in 0..100 {
            if ask(port).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(ask(port).await.is_err(), "nobody listens any more");
        serving.abort();
    }
}
