//! A controller in a cluster tells its own nodes and managers how to join, by Secrets in its namespace: nobody has to
//! copy certificates around.

use super::run::{ManagerError, kubernetes};
use crate::config::Kubernetes;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tracing::{info, warn};

/// The Secret that agents read: `join` (the join string) and `controllers`.
pub(super) const JOIN_SECRET: &str = "skein-join";
/// The Secret that clients of the configuration API read: `api`, `ca.pem`, `client.pem` and `client.key`.
pub(super) const CLIENT_SECRET: &str = "skein-client";

/// How often the Secrets are put right, should someone have changed them or a certificate be new.
const AGAIN: Duration = Duration::from_secs(300);
/// Wait after a failure: the API server may come later than this controller.
const RETRY: Duration = Duration::from_secs(5);

/// What to tell, and where.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Namespace of the Secrets.
    pub namespace: String,
    /// How to reach Kubernetes.
    pub kubernetes: Kubernetes,
    /// The controller's certificates.
    pub pki: PathBuf,
    /// Where agents connect, `HOST:PORT`; of several controllers all, with commas in between.
    pub agents: String,
    /// The configuration API, `https://HOST:PORT`; of several controllers all, with commas in between.
    pub api: String,
}

/// Keeps the Secrets until the task is dropped.
///
/// # Errors
/// It is not known how to reach Kubernetes. Whatever fails later is tried again.
pub async fn publish(publication: Publication) -> Result<(), ManagerError> {
    let client = kubernetes(&publication.kubernetes).await?;
    let secrets: Api<Secret> = Api::namespaced(client, &publication.namespace);
    let mut told = false;
    loop {
        match write(&secrets, &publication).await {
            Ok(()) => {
                if !told {
                    info!(namespace = publication.namespace, "how to join is in Secrets");
                    told = true;
                }
                tokio::time::sleep(AGAIN).await;
            }
            Err(reason) => {
                warn!(reason, "the Secrets for agents and managers are not written; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn write(secrets: &Api<Secret>, publication: &Publication) -> Result<(), String> {
    let file = |name: &str| {
        let path = publication.pki.join(name);
        std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let text = |text: &str| text.as_bytes().to_vec();
    let join = vec![
        // The line's end is no part of it.
        ("join", file("join-token")?.trim_ascii().to_vec()),
        ("controllers", text(&publication.agents)),
    ];
    let client = vec![
        ("api", text(&publication.api)),
        ("ca.pem", file("ca.pem")?),
        ("client.pem", file("client.pem")?),
        ("client.key", file("client.key")?),
    ];
    for (name, entries) in [(JOIN_SECRET, join), (CLIENT_SECRET, client)] {
        let data: BTreeMap<String, ByteString> =
            entries.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value))).collect();
        let there = secrets.get_opt(name).await;
        let there = there.map_err(|error| format!("Secret {name}: {error}"))?;
        if there.and_then(|secret| secret.data).is_some_and(|there| serves(&there, &data)) {
            continue;
        }
        let secret = Secret {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            data: Some(data),
            ..Secret::default()
        };
        let parameters = PatchParams::apply("skein-controller").force();
        let patched = secrets.patch(name, &parameters, &Patch::Apply(&secret)).await;
        patched.map_err(|error| format!("Secret {name}: {error}"))?;
    }
    Ok(())
}

/// Whether what is there will do. Several controllers write these Secrets, each with a client certificate of its own: one that
/// another controller of the same authority wrote is as good, unless it ends sooner.
fn serves(there: &BTreeMap<String, ByteString>, own: &BTreeMap<String, ByteString>) -> bool {
    const OWN: [&str; 2] = ["client.pem", "client.key"];
    let same = own.iter().all(|(key, value)| {
        OWN.contains(&key.as_str()) || there.get(key).is_some_and(|there| there == value)
    });
    let end = |data: &BTreeMap<String, ByteString>| data.get(OWN[0]).and_then(|pem| end(&pem.0));
    same && there.len() == own.len() && (!own.contains_key(OWN[0]) || end(there) >= end(own))
}

/// When a certificate ends, in seconds since 1970.
fn end(pem: &[u8]) -> Option<i64> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let certificate = pem.parse_x509().ok()?;
    Some(certificate.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(entries: &[(&str, &str)]) -> BTreeMap<String, ByteString> {
        let one = |(key, value): &(&str, &str)| {
            ((*key).to_owned(), ByteString(value.as_bytes().to_vec()))
        };
        entries.iter().map(one).collect()
    }

    fn certificate(year: i32) -> String {
        let mut params = rcgen::CertificateParams::new(vec!["c".into()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn controllers_of_one_authority_leave_each_others_certificates_alone() {
        let client = |ca: &str, year| {
            let pem = certificate(year);
            data(&[
                ("api", "https://a"),
                ("ca.pem", ca),
                ("client.pem", &pem),
                ("client.key", &pem),
            ])
        };
        let own = client("ca", 2040);
        assert!(serves(&client("ca", 2040), &own), "another one, as good");
        assert!(serves(&client("ca", 2041), &own), "a newer one");
        assert!(!serves(&client("ca", 2039), &own), "it is renewed");
        assert!(!serves(&client("other", 2041), &own), "of another authority");
        let mut broken = own.clone();
        broken.insert("client.pem".into(), ByteString(b"nonsense".to_vec()));
        assert!(!serves(&broken, &own));
        broken.remove("client.pem");
        assert!(!serves(&broken, &own));
        let join = |controllers: &str| data(&[("join", "j"), ("controllers", controllers)]);
        assert!(serves(&join("a:1,b:1"), &join("a:1,b:1")));
        assert!(!serves(&join("a:1"), &join("a:1,b:1")), "a controller was added");
    }
}
