//! Connections: looking at them and letting them age.

use crate::abi::{FLOW_OF_REMOTE, FORM_FABRIC, FORM_PLAIN, ip_from_abi, ip_to_abi, types};
use crate::{Age, Datapath, Flow, FlowFilter, Result, Swept, Timeouts, Translated};
use skein_policy::Direction;
use std::collections::BTreeMap;
use std::net::IpAddr;

pub(crate) fn direction(number: u8) -> Direction {
    if number == 0 { Direction::Egress } else { Direction::Ingress }
}

/// The clock flows are stamped with: monotonic, to a few milliseconds.
fn now() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE)
        .map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Whose it is: what the node's own address stands in for has a key of nobody's.
fn owner(key: &types::flow_key, flow: &types::flow) -> u32 {
    if key.vif == 0 { flow.mate.vif } else { key.vif }
}

fn decode(key: &types::flow_key, flow: &types::flow, now: u64) -> Flow {
    let family = u32::from(key.family);
    Flow {
        vif: owner(key, flow),
        local: ip_from_abi(family, &key.local),
        remote: ip_from_abi(family, &key.remote),
        protocol: key.protocol,
        local_port: key.local_port,
        remote_port: key.remote_port,
        direction: direction(flow.direction & !FLOW_OF_REMOTE),
        policy: flow.policy,
        identity: flow.identity,
        rule: flow.rule,
        next_hop: flow.next_hop,
        tcp_state: flow.tcp,
        packets_out: flow.packets[0],
        bytes_out: flow.bytes[0],
        packets_in: flow.packets[1],
        bytes_in: flow.bytes[1],
        idle_ns: now.saturating_sub(flow.last_seen),
        context: flow.context,
        translated: (flow.form != FORM_PLAIN).then(|| Translated {
            local: ip_from_abi(family, &flow.mate.local),
            local_port: flow.mate.local_port,
            remote: ip_from_abi(family, &flow.mate.remote),
            remote_port: flow.mate.remote_port,
        }),
    }
}

impl Datapath {
    /// Connections that match, in no particular order. Changes meanwhile may hide or repeat some.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`].
    pub fn flows(&self, filter: FlowFilter) -> Result<Vec<Flow>> {
        let now = now();
        let mut found = Vec::new();
        self.flows.each(|key, flow| {
            // A translated connection shows once, as its workload sees it.
            if flow.form != FORM_FABRIC && filter.vif.is_none_or(|vif| vif == owner(&key, &flow)) {
                found.push(self.whole(&key, &flow, now));
            }
            filter.limit == 0 || found.len() < filter.limit
        })?;
        Ok(found)
    }

    /// With what the entry of its other form counted.
    fn whole(&self, key: &types::flow_key, flow: &types::flow, now: u64) -> Flow {
        let mut whole = decode(key, flow, now);
        if flow.form != FORM_PLAIN
            && let Ok(Some(mate)) = self.flows.get(&flow.mate)
        {
            let mate = decode(&flow.mate, &mate, now);
            whole.packets_out += mate.packets_out;
            whole.bytes_out += mate.bytes_out;
            whole.packets_in += mate.packets_in;
            whole.bytes_in += mate.bytes_in;
            whole.tcp_state |= mate.tcp_state;
            whole.idle_ns = whole.idle_ns.min(mate.idle_ns);
        }
        whole
    }

    pub(crate) fn flow(
        &self,
        vif: u32,
        protocol: u8,
        local: (IpAddr, u16),
        remote: (IpAddr, u16),
    ) -> Result<Option<Flow>> {
        let (family, local_ip) = ip_to_abi(local.0);
        let key = types::flow_key {
            vif,
            local: local_ip,
            remote: ip_to_abi(remote.0).1,
            local_port: local.1,
            remote_port: remote.1,
            family: family as u8,
            protocol,
            pad: [0; 2],
        };
        Ok(self.flows.get(&key)?.map(|flow| self.whole(&key, &flow, now())))
    }

    /// Whether connections that a reset has ended stay in the table for [`Timeouts::closed`], as those that end otherwise do: for
    /// who looks at connections now and then and wants to miss none. Ports that are used again cost more then.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`].
    pub fn keep_ended(&mut self, keep: bool) -> Result<()> {
        if self.keeps_ended.get(&0)? == Some(u32::from(keep)) {
            return Ok(());
        }
        self.keeps_ended.set(&0, &u32::from(keep))
    }

    /// Has connections of some protocols and ports age in their own way, instead of those of an earlier call. Of two for the same port the
    /// last counts.
    ///
    /// # Errors
    /// [`crate::Error::Full`] beyond 1,024; [`crate::Error::Kernel`].
    pub fn set_ages(&mut self, ages: &[Age]) -> Result<()> {
        let wanted: BTreeMap<(u8, u16), u64> = ages
            .iter()
            .map(|age| {
                // 0 is the table's word for ever.
                let life = age.idle.map_or(0, |idle| nanoseconds(idle).max(1));
                ((age.protocol, age.port), life)
            })
            .collect();
        for key in self.ages.keys() {
            if !wanted.contains_key(&(key.protocol, key.port)) {
                self.ages.remove(&key)?;
            }
        }
        for ((protocol, port), life) in &wanted {
            let key = types::age_key { port: *port, protocol: *protocol, pad: 0 };
            self.ages.set(&key, life)?;
        }
        self.listed_ages = wanted.len() as u32;
        Ok(())
    }

    /// What [`Datapath::set_ages`] said last, here or in an earlier process.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`].
    pub fn ages(&self) -> Result<Vec<Age>> {
        let age = |(key, life): (types::age_key, u64)| Age {
            protocol: key.protocol,
            port: key.port,
            idle: (life != 0).then(|| std::time::Duration::from_nanos(life)),
        };
        Ok(self.ages.entries()?.into_iter().map(age).collect())
    }

    /// Forgets connections that have been idle too long, and gives their interfaces room for others. Walks the whole
    /// table in the kernel: about 50 ns a flow.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`].
    pub fn sweep(&mut self, timeouts: &Timeouts) -> Result<Swept> {
        let mut sweep = types::sweep {
            now: now(),
            idle: nanoseconds(timeouts.idle),
            brief: nanoseconds(timeouts.brief.min(timeouts.idle)),
            closed: nanoseconds(timeouts.closed),
            ages: self.listed_ages,
            ..types::sweep::default()
        };
        self.run_sweep(&mut sweep)?;
        Ok(Swept { live: sweep.live, removed: sweep.removed })
    }
}
