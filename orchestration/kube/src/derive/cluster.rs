//! What every cluster has: spec section 1.1.

use super::networks::attached;
use super::{Context, dns, nested};
use crate::desired::{Derived, Desired, Link, Ref};
use crate::key::Key;
use ipnet::IpNet;
use serde_json::{Value, json};
use skein_model::{FqName, Kind};

/// Places of the policies that are always there, in the application-policy-set.
pub(super) const INGRESS_PLACE: &str = "00000.0";
const DENY_PLACE: &str = "99998.0";
const ALLOW_PLACE: &str = "99999.0";

pub(super) fn derive(cx: &Context<'_>, key: &Key) -> Derived {
    let mut out = Derived::default();
    projects(cx, key, &mut out);
    out.objects.extend(dns::server(cx, key));
    ipams(cx, key, &mut out);
    firewall(cx, key, &mut out);
    networks(cx, key, &mut out);
    super::node::derive(cx, &mut out);
    for provider in ["native", "opencontrail"] {
        let name = FqName::single("default-global-system-config").child(provider);
        let mut set =
            Desired::new(Kind::SERVICE_APPLIANCE_SET, Some(Kind::GLOBAL_SYSTEM_CONFIG), name);
        set.shared = true;
        out.objects.push(set);
    }
    out
}

fn projects(cx: &Context<'_>, key: &Key, out: &mut Derived) {
    if cx.names.is_shared() {
        let mut project =
            Desired::new(Kind::PROJECT, Some(Kind::DOMAIN), cx.names.cluster_project());
        project.shared = true;
        out.objects.push(project);
        return;
    }
    for namespace in ["default", "kube-system"] {
        let name = cx.names.project(namespace);
        out.objects.push(cx.owned(key, Kind::PROJECT, Some(Kind::DOMAIN), name, &[]));
    }
}

fn ipams(cx: &Context<'_>, key: &Key, out: &mut Derived) {
    let settings = cx.settings;
    for (name, prefixes) in [
        ("pod-ipam", &settings.pod_subnets),
        ("service-ipam", &settings.service_subnets),
        ("ip-fabric-ipam", &settings.ip_fabric_subnets),
    ] {
        let subnets: Vec<Value> =
            prefixes.iter().map(|net| json!({"subnet": subnet(net)})).collect();
        let ipam = cx
            .owned(key, Kind::NETWORK_IPAM, Some(Kind::PROJECT), cx.names.shared_object(name), &[])
            .set("ipam_subnet_method", "flat-subnet")
            .set("ipam_subnets", json!({ "subnets": subnets }));
        out.objects.push(dns::link(cx, ipam));
    }
}

pub(super) fn subnet(net: &IpNet) -> Value {
    json!({"ip_prefix": net.network().to_string(), "ip_prefix_len": net.prefix_len()})
}

fn firewall(cx: &Context<'_>, key: &Key, out: &mut Derived) {
    let mut tag = Desired::new(Kind::TAG, None, FqName::single(&cx.names.application_tag()))
        .set("tag_type_name", "application")
        .set("tag_value", cx.names.aps().name());
    tag.shared = true;
    out.objects.push(tag);
    let management = Some(Kind::POLICY_MANAGEMENT);
    let mut references = Vec::new();
    for (name, place, mark) in [
        ("Ingress", INGRESS_PLACE, None),
        ("denyall", DENY_PLACE, Some(("tail", "True"))),
        ("allowall", ALLOW_PLACE, Some(("after_tail", "True"))),
    ] {
        let name = cx.names.policy_object(&cx.names.of(name));
        // Their rules belong to policies and namespaces, who link them.
        let policy =
            cx.owned(key, Kind::FIREWALL_POLICY, management, name.clone(), mark.as_slice());
        out.objects.push(policy);
        references.push(Ref { name, attr: json!({ "sequence": place }) });
    }
    let set = cx
        .owned(key, Kind::APPLICATION_POLICY_SET, management, cx.names.aps(), &[])
        .refer(Kind::TAG, [FqName::single(&cx.names.application_tag())]);
    out.objects.push(set);
    for reference in references {
        out.links.push(Link {
            holder: (Kind::APPLICATION_POLICY_SET, cx.names.aps()),
            target: (Kind::FIREWALL_POLICY, reference.name),
            attr: reference.attr,
            optional: false,
        });
    }
}

fn networks(cx: &Context<'_>, key: &Key, out: &mut Derived) {
    let (pods, services) = (cx.names.pod_network(), cx.names.service_network());
    let fabric = cx.names.ip_fabric();
    let fabric_policy = cx.names.shared_object("default-ip-fabric-np");
    let service_policy = cx.names.shared_object("default-service-np");
    let both_policy = cx.names.shared_object("default-pod-service-np");
    // Isolated namespaces' networks, which are attached to the cluster's policies.
    let mut everything = vec![pods.clone(), services.clone()];
    let mut isolated_pods = Vec::new();
    for name in cx.cache.namespaces.keys() {
        if cx.isolated(name) {
            isolated_pods.push(cx.names.namespaced(name, "pod-network"));
            everything.push(cx.names.namespaced(name, "pod-network"));
            everything.push(cx.names.namespaced(name, "service-network"));
        }
    }
    let both = "<>";
    out.objects.push(cx.network_policy(
        key,
        fabric_policy.clone(),
        &everything,
        std::slice::from_ref(&fabric),
        both,
    ));
    let mut to_services = isolated_pods;
    to_services.push(services.clone());
    out.objects.push(cx.network_policy(
        key,
        service_policy.clone(),
        &to_services,
        std::slice::from_ref(&services),
        both,
    ));
    out.objects.push(cx.network_policy(
        key,
        both_policy.clone(),
        std::slice::from_ref(&pods),
        std::slice::from_ref(&services),
        both,
    ));
    let underlay = nested::underlay(cx, key, &everything, out);
    let wishes = cx.wishes("default");
    let forwarding = wishes.forwarding.unwrap_or(cx.settings.ip_fabric_forwarding);
    let snat = wishes.snat.unwrap_or(cx.settings.ip_fabric_snat);
    let mut on_pods = vec![fabric_policy.clone(), both_policy.clone()];
    on_pods.extend(underlay.clone());
    out.objects.push(cx.pod_network(key, pods, forwarding, snat, on_pods));
    let mut on_services = vec![fabric_policy.clone(), service_policy, both_policy];
    on_services.extend(underlay);
    out.objects.push(cx.service_network(key, services, on_services));
    let on_fabric = attached(fabric_policy);
    out.links.push(Link {
        holder: (Kind::VIRTUAL_NETWORK, fabric),
        target: (Kind::NETWORK_POLICY, on_fabric.name),
        attr: on_fabric.attr,
        optional: true,
    });
}
