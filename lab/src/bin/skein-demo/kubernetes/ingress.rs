//! Ingresses, served by HAProxy on two nodes: pages are fetched by a pod and by the host beyond the gateway.

use super::stage::{SETTLED, Seen, Stage};
use skein_lab::kubernetes::{Balancer, ClusterError, KubePod, Page, Site};
use skein_lab::wait_for;
use std::path::{Path, PathBuf};

const HOST: &str = "pages.example.com";

/// Where an Ingress is: for clients outside, and in the pods' network.
struct Addresses {
    external: String,
    inner: String,
}

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), ClusterError> {
    let Some(client) = stage.others.first().cloned() else { return Ok(()) };
    stage.apply("ingress-backends.yaml")?;
    for app in ["red", "blue"] {
        stage.ready(&format!("the pods of the service {app} are ready"), "web", app, 2)?;
    }
    stage.screen.begin("two nodes carry load balancers, one active, one standing by");
    for node in 0..2 {
        let balancer = Balancer::start(&stage.cluster, node, &["--hand-over".to_owned()])?;
        stage.balancers.push(balancer);
    }
    stage.screen.end(true, "");
    let certificate = secret(stage)?;

    stage.apply("ingress-single-service.yaml")?;
    let single = addresses(stage, "single")?;
    stage.step("single service: whatever is asked for", |stage| {
        pages(stage, &client, &single, None, &[("http://any.example.org/thing", "red-")])
    });
    stage.apply("ingress-fanout.yaml")?;
    let fanout = addresses(stage, "fanout")?;
    stage.step("fanout: /red and /blue are two services; another path is none", |stage| {
        let host = "http://fanout.example.com";
        let (red, blue) = (format!("{host}/red/1"), format!("{host}/blue"));
        pages(stage, &client, &fanout, None, &[(&red, "red-"), (&blue, "blue-")])?;
        refused(stage, &fanout, &format!("{host}/green"))
    });
    stage.apply("ingress-virtual-hosts.yaml")?;
    let hosts = addresses(stage, "hosts")?;
    stage.step("virtual hosts: two names are two services; another name is none", |stage| {
        let (red, blue) = ("http://red.example.com/", "http://blue.example.com/");
        pages(stage, &client, &hosts, None, &[(red, "red-"), (blue, "blue-")])?;
        refused(stage, &hosts, "http://green.example.com/")
    });
    stage.apply("ingress-tls.yaml")?;
    let tls = addresses(stage, "tls")?;
    stage.step("TLS: the page comes with the certificate of the secret", |stage| {
        let url = format!("https://{HOST}/");
        pages(stage, &client, &tls, Some(&certificate), &[(&url, "blue-")])
    });
    stage.page = Some(hosts.external);
    Ok(())
}

/// A certificate that vouches for itself, in a secret that the load balancers' role may read.
fn secret(stage: &mut Stage<'_>) -> Result<PathBuf, ClusterError> {
    let failed = |source| ClusterError::Certificate { what: HOST.into(), source };
    let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).map_err(failed)?;
    let (certificate, key) =
        (stage.cluster.state().join("pages.pem"), stage.cluster.state().join("pages.key"));
    for (path, text) in [(&certificate, made.cert.pem()), (&key, made.signing_key.serialize_pem())]
    {
        std::fs::write(path, text).map_err(|source| skein_lab::LabError::File {
            action: "write",
            path: path.clone(),
            source,
        })?;
    }
    let files = [format!("--cert={}", certificate.display()), format!("--key={}", key.display())];
    let line = ["create", "secret", "tls", "pages", "-n", "web", &files[0], &files[1]];
    stage.kubectl(&line)?.success()?;
    let line = [
        "create",
        "rolebinding",
        "skein-ingress-secrets",
        "-n",
        "web",
        "--clusterrole=skein-ingress-secrets",
        "--serviceaccount=skein-system:skein-loadbalancer",
    ];
    stage.kubectl(&line)?.success()?;
    Ok(certificate)
}

/// A step: the status tells two addresses.
fn addresses(stage: &mut Stage<'_>, name: &str) -> Result<Addresses, ClusterError> {
    stage
        .screen
        .begin("its status has an address for clients outside, and one in the pods' network");
    let path = format!("/apis/networking.k8s.io/v1/namespaces/web/ingresses/{name}");
    let made = stage.cluster.api().wait("two addresses", &path, SETTLED, |object| {
        object["status"]["loadBalancer"]["ingress"][1]["ip"].is_string()
    })?;
    let told = &made["status"]["loadBalancer"]["ingress"];
    let [external, inner] = [0, 1].map(|at| told[at]["ip"].as_str().unwrap_or_default().to_owned());
    let held = external.starts_with("10.63.0.") && inner.starts_with("10.244.");
    stage.screen.end(held, &format!("{external}, {inner}"));
    Ok(Addresses { external, inner })
}

/// Each page comes from a pod whose name begins so, for a pod and for the host beyond the gateway.
fn pages(
    stage: &Stage<'_>,
    client: &KubePod,
    to: &Addresses,
    certificate: Option<&Path>,
    wanted: &[(&str, &str)],
) -> Seen {
    let sites: [(&dyn Site, &str); 2] =
        [(client, &to.inner), (stage.outside.world(), &to.external)];
    for (site, address) in sites {
        for (url, by) in wanted {
            let held = wait_for(&format!("{url} at {address}"), SETTLED, || {
                let page = Page::fetch(site, url, address, certificate);
                let page = page.map_err(|error| error.to_string())?;
                let right = page.said().is_some_and(|said| said.pod.starts_with(by));
                if right { Ok(()) } else { Err(format!("{page:?}")) }
            });
            held.map_err(|error| error.to_string())?;
        }
    }
    Ok("from a pod and from outside".into())
}

fn refused(stage: &Stage<'_>, to: &Addresses, url: &str) -> Seen {
    let held = wait_for(&format!("{url} to be refused"), SETTLED, || {
        let page = Page::fetch(stage.outside.world(), url, &to.external, None);
        let page = page.map_err(|error| error.to_string())?;
        if page.code == 404 {
            Ok("from a pod and from outside".into())
        } else {
            Err(format!("{page:?}"))
        }
    });
    held.map_err(|error| error.to_string())
}
