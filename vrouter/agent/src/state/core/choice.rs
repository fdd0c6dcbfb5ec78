//! Which members of a service the clients of this node get.

use super::Core;
use crate::state::spec::{MemberSpec, ServiceSpec};
use skein_proto::session::Distribution;
use std::collections::BTreeSet;
use std::net::IpAddr;

impl Core {
    /// Members with whether each is left to the connections it has. `only`: those of this node.
    pub(super) fn choose(
        &self,
        service: &ServiceSpec,
        only: Option<&str>,
    ) -> BTreeSet<(IpAddr, u16, bool)> {
        let usable = || service.members.iter().filter(|m| only.is_none_or(|node| m.node == node));
        let ready: Vec<&MemberSpec> = usable().filter(|member| !member.draining).collect();
        let preferred =
            if only.is_some() { ready } else { self.preferred(service.distribution, ready) };
        // When all are on their way out, they are what there is.
        let some = !preferred.is_empty();
        usable()
            .map(|one| {
                let chosen = preferred.iter().any(|member| std::ptr::eq(*member, one));
                (one.address, self.member_port(service, one), some && !chosen)
            })
            .collect()
    }

    /// Of ready members those that this node's clients should use: by hints, if all have some, else by distribution.
    fn preferred<'a>(
        &self,
        distribution: Distribution,
        ready: Vec<&'a MemberSpec>,
    ) -> Vec<&'a MemberSpec> {
        let zone = self.nodes.get(&self.node).map(|node| node.zone.as_str()).unwrap_or_default();
        let narrowed = |fits: &dyn Fn(&MemberSpec) -> bool| -> Option<Vec<&'a MemberSpec>> {
            let those: Vec<_> = ready.iter().copied().filter(|member| fits(member)).collect();
            (!those.is_empty()).then_some(those)
        };
        let all = |has: fn(&MemberSpec) -> bool| ready.iter().all(|member| has(member));
        let here = |member: &MemberSpec| member.node == self.node;
        let near = |member: &MemberSpec| !zone.is_empty() && member.zone == zone;
        let mut found = None;
        if all(|member| !member.hint_nodes.is_empty()) {
            found = narrowed(&|member| member.hint_nodes.contains(&self.node));
        }
        if found.is_none() && !zone.is_empty() && all(|member| !member.hint_zones.is_empty()) {
            found = narrowed(&|member| member.hint_zones.iter().any(|hint| hint == zone));
        }
        if found.is_none() && distribution == Distribution::SameNode {
            found = narrowed(&here);
        }
        if found.is_none() && distribution != Distribution::Any {
            found = narrowed(&near);
        }
        found.unwrap_or(ready)
    }
}
