//! HTTPS between the API and its clients: who is trusted, and what those hear who are not.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking

mod support;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use skein_api::{Clients, Config, Https, Server, TlsFiles};
use skein_client::{Client, ClientError, Event, Tls};
use skein_model::Kind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// An authority with its files in a folder.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    fn new(folder: &Path) -> Authority {
        std::fs::create_dir_all(folder).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        std::fs::write(folder.join("ca.pem"), made.pem()).unwrap();
        Authority { issuer: Issuer::new(params, key), folder: folder.to_owned() }
    }

    fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    fn issue(
        &self,
        file: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> TlsFiles {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        let files = TlsFiles {
            certificate: self.folder.join(format!("{file}.pem")),
            key: self.folder.join(format!("{file}.key")),
        };
        std::fs::write(&files.certificate, pem).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

const ORGANIZATION: &str = "clients";

fn of_clients(params: &mut CertificateParams) {
    params.distinguished_name.push(DnType::OrganizationName, ORGANIZATION);
}

async fn serve(dir: &Path, authority: &Authority, files: TlsFiles) -> Server {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::new(any, dir.join("config.redb"));
    let organization = Some(ORGANIZATION.to_owned());
    let clients = Clients::Certified { ca: authority.ca(), organization };
    config.https = Some(Https { listen: any, files, clients });
    Server::start(config).await.unwrap()
}

fn url(server: &Server) -> String {
    format!("https://{}", server.https_addr().unwrap())
}

fn shown(ca: PathBuf, files: TlsFiles) -> Tls {
    Tls {
        ca: Some(ca),
        certificate: Some(files.certificate),
        key: Some(files.key),
        server_name: None,
    }
}

async fn fails(address: &str, tls: &Tls) -> ClientError {
    let client = Client::with_tls(address, tls).unwrap();
    client.list(Kind::PROJECT, &skein_client::ListOptions::default()).await.unwrap_err()
}

#[tokio::test]
async fn a_client_with_the_right_certificate_does_everything() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(&dir.path().join("ours"));
    let server =
        serve(dir.path(), &authority, authority.issue("api", &["127.0.0.1", "controller"], |_| {}))
            .await;
    let mut tls = shown(authority.ca(), authority.issue("client", &["c"], of_clients));
    for server_name in [None, Some("controller".to_owned())] {
        tls.server_name = server_name;
        let client = Client::with_tls(&url(&server), &tls).unwrap();
        let projects = client.list(Kind::PROJECT, &Default::default()).await.unwrap();
        assert!(!projects.is_empty());
        let mut watcher = client.watch(&[Kind::PROJECT]);
        assert!(
            matches!(watcher.next().await, Event::Snapshot(list, _) if list.len() == projects.len())
        );
    }
    // The other listener shows the same, without TLS.
    let plain = Client::new(&server.local_addr().to_string()).unwrap();
    assert!(plain.list(Kind::PROJECT, &Default::default()).await.is_ok());
    server.shutdown().await;
}

#[tokio::test]
async fn a_client_trusts_neither_another_authority_nor_another_name_nor_old_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(&dir.path().join("ours"));
    let other = Authority::new(&dir.path().join("theirs"));
    let client = || authority.issue("client", &["c"], of_clients);
    let server =
        serve(dir.path(), &authority, authority.issue("api", &["127.0.0.1"], |_| {})).await;

    let error = fails(&url(&server), &shown(other.ca(), client())).await;
    assert!(matches!(&error, ClientError::Untrusted { .. }), "{error:?}");
    assert!(error.to_string().contains("authority that is not trusted here"), "{error}");
    // Nobody of those that the machine trusts vouches for it, either.
    let error = fails(&url(&server), &Tls::default()).await;
    assert!(error.to_string().contains("not trusted here"), "{error}");

    let named = Tls { server_name: Some("elsewhere".into()), ..shown(authority.ca(), client()) };
    let error = fails(&url(&server), &named).await.to_string();
    assert!(error.contains("not for elsewhere, but for 127.0.0.1"), "{error}");
    server.shutdown().await;

    let expired = authority.issue("old", &["127.0.0.1"], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let server = serve(&dir.path().join("ours"), &authority, expired).await;
    let error = fails(&url(&server), &shown(authority.ca(), client())).await.to_string();
    assert!(error.contains("renew the server's certificate"), "{error}");
    server.shutdown().await;
}

#[tokio::test]
async fn the_api_serves_clients_certificates_only() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(&dir.path().join("ours"));
    let other = Authority::new(&dir.path().join("theirs"));
    let server =
        serve(dir.path(), &authority, authority.issue("api", &["127.0.0.1"], |_| {})).await;
    let trusting = Tls { ca: Some(authority.ca()), ..Tls::default() };

    let error = fails(&url(&server), &trusting).await;
    assert_eq!(error.status(), Some(401), "{error}");
    assert!(error.to_string().contains("wants a client certificate"), "{error}");
    // Health is for everyone.
    let anyone = Client::with_tls(&url(&server), &trusting).unwrap();
    let health = anyone.request(hyper::Method::GET, "/healthz", None).await;
    assert!(!matches!(&health, Err(ClientError::Refused { .. })), "{health:?}");

    // A node's certificate is of the same authority, and not of a client's.
    let node = authority.issue("node", &["node-1"], |_| {});
    let error = fails(&url(&server), &shown(authority.ca(), node)).await;
    assert_eq!(error.status(), Some(403), "{error}");

    let stranger = other.issue("client", &["c"], of_clients);
    let error = fails(&url(&server), &shown(authority.ca(), stranger)).await;
    assert!(error.to_string().contains("refuses this client's certificate"), "{error}");

    // Both ends say so when only one of them speaks TLS.
    let plain = format!("https://{}", server.local_addr());
    let error = fails(&plain, &trusting).await.to_string();
    assert!(error.contains("speaking TLS"), "{error}");
    let error = fails(&url(&server).replace("https", "http"), &Tls::default()).await.to_string();
    assert!(error.contains("write https://"), "{error}");
    server.shutdown().await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let given = |ca: PathBuf| Tls { ca: Some(ca), ..Tls::default() };
    for tls in [given(dir.path().join("absent.pem")), given(empty.clone())] {
        let error = Client::with_tls("https://127.0.0.1:1", &tls).unwrap_err().to_string();
        assert!(error.contains(&tls.ca.unwrap().display().to_string()), "{error}");
    }
    let half = Tls { certificate: Some(empty), ..Tls::default() };
    let error = Client::with_tls("https://127.0.0.1:1", &half).unwrap_err().to_string();
    assert!(error.contains("private key"), "{error}");
}
