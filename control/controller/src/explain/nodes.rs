//! What the nodes have in force for a connection, and where that differs from what they were told.

use super::names::Author;
use super::names::Names;
use super::why::Why;
use crate::core::Core;
use crate::inquiry::Reply;
use serde::Serialize;
use skein_proto::session::{Look, Looked};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Ends that are asked about; a service may have more members.
const MOST: usize = 8;

/// A question to a node, and what it should answer.
#[derive(Clone, Debug)]
pub(crate) struct Inquiry {
    pub(crate) node: String,
    pub(crate) look: Look,
    pub(crate) expected: Expected,
}

/// What the node was told.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    /// The route leads to one of these nodes (none: it leads outside), or there is none; and the verdict.
    Way { route: bool, next_hops: BTreeSet<IpAddr>, pass: bool },
    /// New connections get one of these members. `all`: whatever prefers some of them, none is left out.
    Service { members: BTreeSet<(IpAddr, u16)>, all: bool },
}

/// A node's answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct NodeView {
    node: String,
    /// `leaving`, `arriving` or `service`.
    end: &'static str,
    /// Why there is nothing of it to tell.
    problem: Option<String>,
    /// Prefix of its route to the other end.
    route: Option<String>,
    via: Option<String>,
    /// Why its kernel drops it; `policy_deny`: the rule decides.
    dropped: Option<String>,
    #[serde(flatten)]
    author: Option<Author>,
    /// Of the service.
    members: Option<Vec<String>>,
    /// Against what it was told.
    differs: Vec<String>,
}

/// The questions of an answer, in its order.
pub(crate) fn questions(why: &Why) -> Vec<(String, Look)> {
    inquiries(why).map(|inquiry| (inquiry.node.clone(), inquiry.look.clone())).collect()
}

fn inquiries(why: &Why) -> impl Iterator<Item = &Inquiry> {
    let of_service = why.service.iter().filter_map(|service| service.inquiry.as_ref());
    of_service.chain(why.ways.iter().take(MOST).flat_map(|way| &way.inquiries))
}

/// Adds the nodes' replies, which are in the order of the questions.
pub(crate) fn add(core: &Core, why: &mut Why, replies: Vec<Reply>) {
    let names = Names::new(core.engine().graph());
    let views: Vec<NodeView> = inquiries(why)
        .zip(replies)
        .map(|(inquiry, reply)| {
            let mut view = compare(inquiry, reply);
            // Its author is who wrote the rule, not the node's number for it.
            if let Some(author) = &mut view.author
                && let Ok(rule) = author.rule.parse()
            {
                *author = names.author(rule);
            }
            view
        })
        .collect();
    why.differs = views.iter().any(|view| !view.differs.is_empty());
    if let Some(view) = views.iter().find(|view| !view.differs.is_empty()) {
        let text = format!("; but node {} {}", view.node, view.differs.join(", and "));
        why.summary.push_str(&text);
    }
    let mut views = views.into_iter();
    if let Some(service) = why.service.as_mut().filter(|service| service.inquiry.is_some()) {
        service.node = views.next();
    }
    for way in why.ways.iter_mut().take(MOST) {
        way.nodes = views.by_ref().take(way.inquiries.len()).collect();
    }
}

fn compare(inquiry: &Inquiry, reply: Reply) -> NodeView {
    let end = match (&inquiry.expected, inquiry.look.arriving) {
        (Expected::Service { .. }, _) => "service",
        (_, false) => "leaving",
        (_, true) => "arriving",
    };
    let mut view = NodeView { node: inquiry.node.clone(), end, ..NodeView::default() };
    let looked = match reply {
        Reply::Said(looked) => looked,
        Reply::NotConnected => {
            view.problem = Some("it has no session with this controller".into());
            return view;
        }
        Reply::Silent => {
            view.problem = Some("it did not answer in time; is its agent of this version?".into());
            return view;
        }
    };
    if !looked.problem.is_empty() {
        view.differs.push(format!("does not have the port in force: {}", looked.problem));
        view.problem = Some(looked.problem);
        return view;
    }
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    view.route = some(&looked.prefix);
    view.via = some(&looked.via);
    view.dropped = some(&looked.dropped);
    view.author = some(&looked.rule).map(|rule| Author { rule, ..Author::default() });
    match &inquiry.expected {
        Expected::Service { members, all } => of_service(&mut view, &looked, members, *all),
        Expected::Way { route, next_hops, pass } => {
            of_way(&mut view, &looked, *route, next_hops, *pass);
        }
    }
    view
}

fn of_service(view: &mut NodeView, looked: &Looked, expected: &BTreeSet<(IpAddr, u16)>, all: bool) {
    view.members = Some(looked.members.clone());
    if !looked.service {
        view.differs.push(match view.route {
            Some(_) => "has a route past the service to its address".into(),
            None => "has no route to the service".into(),
        });
        return;
    }
    if looked.served_here {
        return;
    }
    let read = |text: &String| {
        let (address, port) = text.split_once(' ')?;
        Some((address.parse().ok()?, port.parse().ok()?))
    };
    let has: BTreeSet<(IpAddr, u16)> = looked.members.iter().filter_map(read).collect();
    let text = |members: Vec<&(IpAddr, u16)>| {
        let all: Vec<String> = members.iter().map(|(a, port)| format!("{a} {port}")).collect();
        all.join(", ")
    };
    let more: Vec<_> = has.difference(expected).collect();
    if !more.is_empty() {
        view.differs.push(format!("still has members that are none: {}", text(more)));
    }
    let missing: Vec<_> = expected.difference(&has).collect();
    if !missing.is_empty() && (all || has.is_empty()) {
        view.differs.push(format!("does not have members: {}", text(missing)));
    }
}

fn of_way(
    view: &mut NodeView,
    looked: &Looked,
    route: bool,
    expected: &BTreeSet<IpAddr>,
    pass: bool,
) {
    let arriving = view.end == "arriving";
    let no_route =
        matches!(looked.dropped.as_str(), "no_route" | "source_address" | "discard_route");
    match looked.dropped.as_str() {
        _ if no_route && route => {
            let whom = if arriving { "the asker" } else { "it" };
            view.differs.push(format!("has no route to {whom}"));
        }
        _ if no_route => {}
        "" if !pass => view.differs.push("lets it pass by its policy".into()),
        "policy_deny" if pass => view.differs.push("denies it by its policy".into()),
        "" | "policy_deny" => {}
        reason => view.differs.push(format!("drops it: {reason}")),
    }
    if arriving || no_route {
        return;
    }
    if !route {
        view.differs.push(format!("has a route to it: {}", looked.via));
        return;
    }
    let leads = |text: &String| text.parse().is_ok_and(|to| expected.contains(&to));
    if !expected.is_empty() && !looked.next_hops.iter().all(leads) {
        let nodes: Vec<String> = expected.iter().map(ToString::to_string).collect();
        view.differs.push(format!(
            "has a route that leads elsewhere: {} instead of node {}",
            looked.via,
            nodes.join(" or ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|_| unreachable!("{text}"))
    }

    fn way(route: bool, pass: bool, arriving: bool) -> Inquiry {
        Inquiry {
            node: "one".into(),
            look: Look { arriving, ..Look::default() },
            expected: Expected::Way {
                route,
                next_hops: [address("192.0.2.2")].into_iter().filter(|_| route).collect(),
                pass,
            },
        }
    }

    fn differs(inquiry: &Inquiry, looked: Looked) -> String {
        compare(inquiry, Reply::Said(Box::new(looked))).differs.join("; ")
    }

    #[test]
    fn a_node_that_does_what_it_was_told_does_not_differ() {
        let there = Looked {
            prefix: "10.0.0.1/32".into(),
            next_hops: vec!["192.0.2.2".into()],
            ..Looked::default()
        };
        assert_eq!(differs(&way(true, true, false), there.clone()), "");
        let denied = Looked { dropped: "policy_deny".into(), ..there.clone() };
        assert_eq!(differs(&way(true, false, false), denied.clone()), "");
        let none = Looked { dropped: "no_route".into(), ..Looked::default() };
        assert_eq!(differs(&way(false, true, false), none.clone()), "");
        assert_eq!(differs(&way(true, true, true), there.clone()), "");

        assert_eq!(differs(&way(true, true, false), denied), "denies it by its policy");
        assert_eq!(differs(&way(true, false, true), there.clone()), "lets it pass by its policy");
        assert_eq!(differs(&way(true, true, false), none), "has no route to it");
        let away = Looked { next_hops: vec!["192.0.2.3".into()], via: "there".into(), ..there };
        let told = "has a route that leads elsewhere: there instead of node 192.0.2.2";
        assert_eq!(differs(&way(true, true, false), away.clone()), told);
        assert_eq!(differs(&way(false, true, false), away), "has a route to it: there");
        let gone = Looked { dropped: "no_interface".into(), ..Looked::default() };
        assert!(differs(&way(true, true, true), gone).starts_with("drops it: no_interface"));
        let problem = Looked { problem: "it is off".into(), ..Looked::default() };
        let told = "does not have the port in force: it is off";
        assert_eq!(differs(&way(true, true, true), problem), told);
        let silent = compare(&way(true, true, true), Reply::Silent);
        assert!(silent.differs.is_empty() && silent.problem.is_some());
    }

    #[test]
    fn members_are_compared_as_far_as_the_node_may_not_choose() {
        let members = BTreeSet::from([(address("10.0.0.1"), 80), (address("10.0.0.2"), 80)]);
        let inquiry = |all| Inquiry {
            node: "one".into(),
            look: Look::default(),
            expected: Expected::Service { members: members.clone(), all },
        };
        let service = |members: &[&str]| Looked {
            service: true,
            members: members.iter().map(|member| (*member).to_owned()).collect(),
            ..Looked::default()
        };
        assert_eq!(differs(&inquiry(true), service(&["10.0.0.1 80", "10.0.0.2 80"])), "");
        assert_eq!(differs(&inquiry(false), service(&["10.0.0.1 80"])), "");
        let missing = "does not have members: 10.0.0.2 80";
        assert_eq!(differs(&inquiry(true), service(&["10.0.0.1 80"])), missing);
        assert!(differs(&inquiry(false), service(&[])).starts_with("does not have members"));
        let more = "still has members that are none: 10.0.0.9 80";
        assert_eq!(differs(&inquiry(false), service(&["10.0.0.1 80", "10.0.0.9 80"])), more);
        let here = Looked { served_here: true, ..service(&["169.254.0.53 16001"]) };
        assert_eq!(differs(&inquiry(true), here), "");
        assert_eq!(differs(&inquiry(true), Looked::default()), "has no route to the service");
    }
}
