//! What is there because someone needs it: tags and address-groups. They are global, as the original's are, and so
//! other clusters may use the same ones: they are made when they are missing, and go when nobody refers to them.

use super::Context;
use super::firewall::group_name;
use crate::desired::Derived;
use crate::key::Key;
use ipnet::IpNet;
use serde_json::json;
use skein_model::{FqName, Kind};

pub(super) fn tag(cx: &Context<'_>, key: &Key) -> Derived {
    let mut out = Derived::default();
    let Some((kind, value)) = key.name.split_once('=') else { return out };
    if cx.tags.is_needed(&key.name) {
        let selector = cx.tags.selector_text(&key.name);
        let more: Vec<_> = selector.as_deref().map(|text| ("selector", text)).into_iter().collect();
        let mut tag = cx
            .owned(key, Kind::TAG, None, FqName::single(&key.name), &more)
            .set("tag_type_name", kind)
            .set("tag_value", value);
        tag.shared = true;
        out.objects.push(tag);
    }
    out
}

pub(super) fn address_group(cx: &Context<'_>, key: &Key) -> Derived {
    let mut out = Derived::default();
    let Ok(net) = key.name.parse::<IpNet>() else { return out };
    if cx.tags.is_prefix_needed(&key.name) {
        let name = cx.names.policy_object(&group_name(&net));
        let mut group = cx
            .owned(key, Kind::ADDRESS_GROUP, Some(Kind::POLICY_MANAGEMENT), name, &[])
            .set("address_group_prefix", json!({"subnet": [super::cluster::subnet(&net)]}));
        group.shared = true;
        out.objects.push(group);
    }
    out
}
