//! Which Kubernetes types are served, in which version.

use crate::objects::Resource;
use kube::Client;
use kube::api::{Api, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::json;

/// Where to look for a type: group, version, in order of preference.
fn places(resource: Resource) -> &'static [(&'static str, &'static str)] {
    match resource {
        Resource::Namespace
        | Resource::Node
        | Resource::Pod
        | Resource::Service
        | Resource::Endpoints => &[("", "v1")],
        Resource::EndpointSlice => &[("discovery.k8s.io", "v1"), ("discovery.k8s.io", "v1beta1")],
        Resource::Ingress | Resource::IngressClass | Resource::NetworkPolicy => {
            &[("networking.k8s.io", "v1")]
        }
        Resource::Nad => &[("k8s.cni.cncf.io", "v1")],
        Resource::MultiNetworkPolicy => {
            &[("k8s.cni.cncf.io", "v1beta2"), ("k8s.cni.cncf.io", "v1beta1")]
        }
        Resource::VirtualNetwork => &[("skein.io", "v1alpha1")],
        Resource::ClusterNetworkPolicy => {
            &[("policy.networking.k8s.io", "v1alpha2"), ("policy.networking.k8s.io", "v1beta1")]
        }
        Resource::AdminNetworkPolicy | Resource::BaselineAdminNetworkPolicy => {
            &[("policy.networking.k8s.io", "v1alpha1")]
        }
    }
}

/// How a type is served here; none if it is not.
///
/// # Errors
/// The API server cannot be asked.
pub(super) async fn find(
    client: &Client,
    resource: Resource,
) -> Result<Option<ApiResource>, kube::Error> {
    for (group, version) in places(resource) {
        let list = if group.is_empty() {
            client.list_core_api_resources(version).await
        } else {
            client.list_api_group_resources(&format!("{group}/{version}")).await
        };
        let list = match list {
            Ok(list) => list,
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => continue,
            Err(error) => return Err(error),
        };
        let kind = resource.kind();
        let served = list.resources.iter().find(|r| r.kind == kind && !r.name.contains('/'));
        if let Some(served) = served {
            let gvk = GroupVersionKind::gvk(group, version, kind);
            return Ok(Some(ApiResource::from_gvk_with_plural(&gvk, &served.name)));
        }
    }
    Ok(None)
}

/// Makes the definition of network attachments, if it is missing: other plugins use the same one.
///
/// # Errors
/// The API server refuses.
pub(super) async fn ensure_nad(client: &Client) -> Result<(), kube::Error> {
    let gvk = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "customresourcedefinitions");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let name = "network-attachment-definitions.k8s.cni.cncf.io";
    if api.get_opt(name).await?.is_some() {
        return Ok(());
    }
    let config = json!({"type": "object", "properties": {"config": {"type": "string"}}});
    let schema = json!({
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"}, "kind": {"type": "string"},
            "metadata": {"type": "object"}, "spec": config,
        },
    });
    let definition = DynamicObject::new(name, &resource).data(json!({"spec": {
        "group": "k8s.cni.cncf.io", "scope": "Namespaced",
        "names": {
            "plural": "network-attachment-definitions", "singular": "network-attachment-definition",
            "kind": "NetworkAttachmentDefinition", "shortNames": ["net-attach-def"],
        },
        "versions": [{
            "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
        }],
    }}));
    match api.create(&PostParams::default(), &definition).await {
        // Another one was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(drop),
    }
}
