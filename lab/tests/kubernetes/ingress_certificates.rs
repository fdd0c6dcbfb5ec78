//! TLS secrets of an Ingress that cannot be used: its users are told by Events, and the rest of it works.

use crate::PATIENCE;
use crate::ingress::{Front, INGRESSES, NAMESPACE, PAGE, SECRETS};
use serde_json::json;
use skein_lab::wait_for;

const GOOD: &str = "good.example.com";

pub(crate) fn check(front: &Front<'_>) {
    let api = front.cluster.api();
    // The role may read all of these but `hidden`.
    let torn = json!({
        "metadata": {"name": "torn"}, "type": "kubernetes.io/tls",
        "stringData": {
            "tls.crt": "-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n",
            "tls.key": "-----BEGIN PRIVATE KEY-----\nbm90aGluZw==\n-----END PRIVATE KEY-----\n",
        },
    });
    api.create(SECRETS, &torn).unwrap();
    api.create(SECRETS, &front.certificate("hidden", "hidden.example.com")).unwrap();
    let tls = ["absent", "torn", "hidden"].map(|secret| {
        let host =
            if secret == "absent" { GOOD.to_owned() } else { format!("{secret}.example.com") };
        json!({"hosts": [host], "secretName": secret})
    });
    front.create(
        "sealed",
        &json!({}),
        &json!({
            "ingressClassName": "skein", "tls": tls,
            "defaultBackend": {"service": {"name": "red", "port": {"number": 80}}},
        }),
    );
    let to = front.addresses("sealed");
    front.beyond().served(&format!("http://{GOOD}/"), &to[0], None, "red-");
    wait_for("Events about the secrets", PAGE, || {
        let all = front.cluster.events(NAMESPACE).map_err(|error| error.to_string())?;
        let of = |words: [&str; 2]| {
            let told = |text: &&String| {
                text.starts_with("sealed: BadCertificate")
                    && words.iter().all(|word| text.contains(word))
            };
            all.iter().any(|text| told(&text))
        };
        let wanted = [
            ["secret absent", "there is no secret"],
            ["secret torn", "left out"],
            ["secret hidden", "may not be read"],
        ];
        let missing: Vec<_> = wanted.into_iter().filter(|words| !of(*words)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} in {all:?}")) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    // What comes later is taken.
    api.create(SECRETS, &front.certificate("absent", GOOD)).unwrap();
    let file = front.file("absent");
    front.beyond().served(&format!("https://{GOOD}/"), &to[0], Some(&file), "red-");
    api.delete(&format!("{INGRESSES}/sealed")).unwrap();
    wait_for("the Ingress to go", PATIENCE, || {
        match api.find(&format!("{INGRESSES}/sealed")).map_err(|error| error.to_string())? {
            None => Ok(()),
            Some(object) => Err(object.to_string()),
        }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}
