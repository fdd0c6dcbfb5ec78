//! A server of its own for each test, and short ways to talk to it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::needless_pass_by_value
)] // a test fails by panicking
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::{net::SocketAddr, path::Path};

use hyper::Method;
use serde_json::{Value, json};
use skein_api::{Config, Server};
use skein_client::{Client, ClientError};
use skein_model::Kind;
use uuid::Uuid;

pub struct Fixture {
    pub server: Server,
    pub client: Client,
    pub dir: tempfile::TempDir,
}

pub async fn start_in(path: &Path) -> Server {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    Server::start(Config::new(listen, path.join("config.redb"))).await.unwrap()
}

impl Fixture {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = start_in(dir.path()).await;
        let client = Client::new(&format!("http://{}", server.local_addr())).unwrap();
        Self { server, client, dir }
    }

    /// Stops the server and starts it again on the same store.
    pub async fn restart(self) -> Self {
        let Self { server, dir, .. } = self;
        server.shutdown().await;
        let server = start_in(dir.path()).await;
        let client = Client::new(&format!("http://{}", server.local_addr())).unwrap();
        Self { server, client, dir }
    }

    pub async fn post(&self, path: &str, body: Value) -> Result<Value, (u16, String)> {
        refused(self.client.request(Method::POST, path, Some(&body)).await)
    }

    pub async fn put(&self, path: &str, body: Value) -> Result<Value, (u16, String)> {
        refused(self.client.request(Method::PUT, path, Some(&body)).await)
    }

    pub async fn get(&self, path: &str) -> Result<Value, (u16, String)> {
        refused(self.client.request(Method::GET, path, None).await)
    }

    pub async fn create(&self, kind: Kind, fields: Value) -> Result<Uuid, (u16, String)> {
        refused(self.client.create(kind, fields).await)
    }

    pub async fn update(&self, kind: Kind, uuid: Uuid, fields: Value) -> Result<(), (u16, String)> {
        refused(self.client.update(kind, uuid, fields).await)
    }

    pub async fn delete(&self, kind: Kind, uuid: Uuid) -> Result<(), (u16, String)> {
        refused(self.client.delete(kind, uuid).await)
    }

    /// The object as `GET` shows it, with everything.
    pub async fn read(&self, kind: Kind, uuid: Uuid) -> Value {
        self.get(&format!("/{kind}/{uuid}")).await.unwrap()[kind.name()].clone()
    }

    /// A network of the default project with one subnet.
    pub async fn network(&self, name: &str, prefix: &str) -> Uuid {
        self.create(Kind::VIRTUAL_NETWORK, network(name, &[prefix])).await.unwrap()
    }

    pub async fn port(&self, name: &str, network: Uuid) -> Uuid {
        let fields = json!({
            "fq_name": ["default-domain", "default-project", name], "parent_type": "project",
            "virtual_network_refs": [{"uuid": network}],
        });
        self.create(Kind::VIRTUAL_MACHINE_INTERFACE, fields).await.unwrap()
    }

    /// An address of a network, with extra fields.
    pub async fn address(
        &self,
        name: &str,
        network: Uuid,
        extra: Value,
    ) -> Result<String, (u16, String)> {
        let mut fields = json!({"fq_name": [name], "virtual_network_refs": [{"uuid": network}]});
        fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let uuid = self.create(Kind::INSTANCE_IP, fields).await?;
        Ok(self.read(Kind::INSTANCE_IP, uuid).await["instance_ip_address"]
            .as_str()
            .unwrap()
            .to_owned())
    }
}

/// Fields of a network of the default project.
pub fn network(name: &str, prefixes: &[&str]) -> Value {
    let subnets: Vec<Value> = prefixes
        .iter()
        .map(|prefix| {
            let (ip, len) = prefix.split_once('/').unwrap();
            json!({"subnet": {"ip_prefix": ip, "ip_prefix_len": len.parse::<u8>().unwrap()}})
        })
        .collect();
    json!({
        "fq_name": ["default-domain", "default-project", name], "parent_type": "project",
        "network_ipam_refs": [{
            "to": ["default-domain", "default-project", "default-network-ipam"],
            "attr": {"ipam_subnets": subnets},
        }],
    })
}

/// A refusal as status and text; anything else fails the test.
pub fn refused<T>(result: Result<T, ClientError>) -> Result<T, (u16, String)> {
    result.map_err(|error| match error {
        ClientError::Refused { status, text } => (status, text),
        other => panic!("{other}"),
    })
}

/// One plain request; head and body of the answer.
pub async fn http_get(address: SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// Creates a network and returns the revision that the answer names. Again under another name while nobody leads.
pub async fn create_mark(client: &Client) -> u64 {
    for _ in 0..100 {
        let fields = network(&format!("mark-{}", Uuid::new_v4()), &[]);
        let body = json!({"virtual-network": fields}).to_string();
        let request = hyper::Request::post(format!("{}/virtual-networks", client.base()))
            .header("content-type", "application/json")
            .body(http_body_util::Full::new(bytes::Bytes::from(body)))
            .unwrap();
        let pool =
            hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
        let answer = pool.build_http().request(request).await.unwrap();
        if answer.status() != 503 {
            assert_eq!(answer.status(), 200);
            return revision_of(&answer);
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    panic!("nobody leads");
}

/// Asks a replica for something as of a revision; whether it has that.
pub async fn demand(client: &Client, revision: u64) -> bool {
    let request = hyper::Request::get(format!("{}/virtual-networks", client.base()))
        .header("x-skein-revision", revision)
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let pool = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
    let answer = pool.build_http().request(request).await.unwrap();
    if answer.status() == 503 {
        return false;
    }
    assert_eq!(answer.status(), 200);
    assert!(revision_of(&answer) >= revision);
    true
}

fn revision_of<B>(answer: &hyper::Response<B>) -> u64 {
    answer.headers()["x-skein-revision"].to_str().unwrap().parse().unwrap()
}
