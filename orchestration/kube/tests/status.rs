//! The manager's own pages over TLS, as a browser or a collector of metrics asks for them.
#![allow(clippy::unwrap_used, clippy::panic)]

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use skein_kube::{ManagerConfig, ManagerError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

fn authority(folder: &Path, name: &str) -> Issuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    std::fs::write(folder.join(name), params.self_signed(&key).unwrap().pem()).unwrap();
    Issuer::new(params, key)
}

fn issue(issuer: &Issuer<'static, KeyPair>, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.signed_by(&key, issuer).unwrap();
    let (path, key_path) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    std::fs::write(&path, certificate.pem()).unwrap();
    std::fs::write(&key_path, key.serialize_pem()).unwrap();
    (path, key_path)
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The status of an answer, 0 for none, and its body.
async fn get(url: String, more: Vec<String>) -> (u16, String) {
    tokio::task::spawn_blocking(move || {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-m", "5", "-w", "\n%{http_code}"]).args(more).arg(url);
        let text = String::from_utf8(curl.output().unwrap().stdout).unwrap();
        let (body, code) = text.rsplit_once('\n').unwrap();
        (code.parse().unwrap(), body.to_owned())
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_for_everyone_and_figures_for_those_with_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let text = |path: &Path| path.display().to_string();
    let issuer = authority(folder.path(), "ca.pem");
    let stranger = authority(folder.path(), "stranger-ca.pem");
    let (certificate, key) = issue(&issuer, folder.path(), "server");
    let client = issue(&issuer, folder.path(), "client");
    let wrong = issue(&stranger, folder.path(), "wrong");
    // Nobody is there; the pages are served all the same.
    let kubeconfig = at("kubeconfig");
    std::fs::write(
        &kubeconfig,
        r#"{"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}"#,
    )
    .unwrap();
    let mut config = ManagerConfig {
        api: "http://127.0.0.1:9".into(),
        status: SocketAddr::from(([127, 0, 0, 1], free_port())),
        ..ManagerConfig::default()
    };
    config.kubernetes.kubeconfig = Some(kubeconfig);
    // In plain for this machine alone: whoever asks for more is told what to give.
    for open in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8108"] {
        let config = ManagerConfig { status: open.parse().unwrap(), ..config.clone() };
        let refused = skein_kube::run(config, || {}, std::future::pending()).await.unwrap_err();
        assert!(matches!(refused, ManagerError::OpenStatus(_)), "{open}: {refused}");
        assert!(refused.to_string().contains("--status-certificate"), "{refused}");
    }
    config.tls.certificate = Some(certificate.clone());
    let incomplete = skein_kube::run(config.clone(), || {}, std::future::pending()).await;
    assert!(matches!(incomplete, Err(ManagerError::Tls(_))), "{incomplete:?}");
    config.tls.key = Some(key);
    config.tls.client_ca = Some(at("ca.pem"));
    let port = config.status.port();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let manager = tokio::spawn(skein_kube::run(config, || {}, async {
        let _ = stopped.await;
    }));

    let ca = vec!["--cacert".to_owned(), text(&at("ca.pem"))];
    let with = |pair: &(PathBuf, PathBuf)| {
        let mut all = ca.clone();
        all.extend(["--cert".into(), text(&pair.0), "--key".into(), text(&pair.1)]);
        all
    };
    let page = |path: &str| format!("https://127.0.0.1:{port}{path}");
    let deadline = Instant::now() + Duration::from_secs(10);
    while get(page("/healthz"), ca.clone()).await.0 != 200 {
        assert!(Instant::now() < deadline, "no page");
    }
    assert_eq!(get(page("/readyz"), ca.clone()).await.0, 503);
    for path in ["/metrics", "/v1/status"] {
        let (code, body) = get(page(path), ca.clone()).await;
        assert!(code == 401 && body.contains("tls.client_ca"), "{path}: {code} {body}");
        let (code, body) = get(page(path), with(&client)).await;
        assert!(code == 200 && body.contains("leading"), "{path}: {code} {body}");
        assert_eq!(get(page(path), with(&wrong)).await.0, 0, "a stranger's certificate");
    }
    // Not in plain, and not to who expects another.
    assert_ne!(get(format!("http://127.0.0.1:{port}/healthz"), Vec::new()).await.0, 200);
    let other = vec!["--cacert".to_owned(), text(&at("stranger-ca.pem"))];
    assert_eq!(get(page("/healthz"), other.clone()).await.0, 0);
    // Somebody who says nothing holds nobody up.
    let _silent = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert_eq!(get(page("/healthz"), ca).await.0, 200);

    // A new certificate is used without a restart.
    issue(&stranger, folder.path(), "server");
    let deadline = Instant::now() + Duration::from_secs(30);
    while get(page("/healthz"), other.clone()).await.0 != 200 {
        assert!(Instant::now() < deadline, "the certificate is not read again");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let _ = stop.send(());
    manager.await.unwrap().unwrap();
}
