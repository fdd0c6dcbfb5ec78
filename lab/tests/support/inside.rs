//! Pods inside machines: the CNI plugin in a guest, called as a container runtime calls it.

use super::Bed;
use serde_json::{Value, json};
use skein_lab::{Machine, Said};
use std::time::Instant;

/// What a machine's CNI plugin is told of the node's agent.
pub fn link_local(bed: &Bed) {
    let name = ["default-global-system-config", "default-global-vrouter-config"];
    let uuid = bed.uuid("global-vrouter-config", &name);
    let entry = json!({
        "linklocal_service_name": "vrouter-agent",
        "linklocal_service_ip": "10.10.10.2", "linklocal_service_port": 9091,
        "ip_fabric_service_ip": ["127.0.0.1"], "ip_fabric_service_port": 9091,
    });
    let entries = json!({"linklocal_services": {"linklocal_service_entry": [entry]}});
    bed.put("global-vrouter-config", &uuid, &entries);
}

/// The configuration of the plugin in the machines; one kind in the original's form.
pub fn config(kind: &str) -> Value {
    if kind == "macvlan" {
        return json!({"cniVersion": "1.1.0", "name": "nested", "type": "skein", "contrail": {
            "cluster-name": "k8s", "vif-type": "macvlan", "parent-interface": "eth0",
            "vrouter-ip": "10.10.10.2", "vrouter-port": 9091, "mode": "k8s"}});
    }
    json!({"cniVersion": "1.1.0", "name": "nested", "type": "skein", "vifType": kind,
           "parentInterface": "eth0"})
}

/// A pod in a machine.
#[derive(Clone, Debug)]
pub struct Inside {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// `macvlan` or `vlan`.
    pub kind: &'static str,
    /// Its address, once it is attached.
    pub ipv4: String,
}

impl Inside {
    pub fn new(namespace: &str, name: &str, uid: &str, kind: &'static str) -> Inside {
        let text = str::to_owned;
        Inside {
            namespace: text(namespace),
            name: text(name),
            uid: text(uid),
            kind,
            ipv4: String::new(),
        }
    }

    /// The sandbox that it has if nobody says otherwise.
    pub fn container(&self) -> String {
        format!("c-{}", self.name)
    }

    fn arguments(&self) -> String {
        let Inside { namespace, name, uid, .. } = self;
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}"
        )
    }

    fn namespace_path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Calls the plugin for a sandbox of this pod.
    pub fn call(&self, machine: &mut Machine, command: &str, container: &str) -> Said {
        self.call_with(machine, command, container, &config(self.kind))
    }

    fn call_with(
        &self,
        machine: &mut Machine,
        command: &str,
        container: &str,
        config: &Value,
    ) -> Said {
        let (path, arguments) = (self.namespace_path(), self.arguments());
        machine.cni(command, config, container, &path, &arguments).unwrap()
    }

    /// CHECK wants what ADD said.
    pub fn check(&self, machine: &mut Machine, container: &str) -> Said {
        let said = self.call(machine, "ADD", container);
        let mut with = config(self.kind);
        with["prevResult"] = serde_json::from_str(&said.text).unwrap();
        self.call_with(machine, "CHECK", container, &with)
    }

    /// Makes its namespace in the machine and attaches it.
    pub fn add(mut self, machine: &mut Machine) -> Inside {
        let name = &self.name;
        machine
            .must(&format!(
                "touch /run/netns/{name}; unshare --net=/run/netns/{name} ip link set lo up"
            ))
            .unwrap();
        let start = Instant::now();
        let said = self.call(machine, "ADD", &self.container());
        assert_eq!(said.code, 0, "ADD of {name}: {}", said.text);
        let result: Value =
            serde_json::from_str(&said.text).unwrap_or_else(|e| panic!("{e}: {}", said.text));
        println!("ADD of {name} as {} took {:?}", self.kind, start.elapsed());
        let address = result["ips"][0]["address"].as_str().unwrap();
        self.ipv4 = address.split('/').next().unwrap().to_owned();
        self
    }

    pub fn run(&self, machine: &mut Machine, command: &str) -> Said {
        machine.run(&format!("nsenter --net=/run/netns/{} {command}", self.name)).unwrap()
    }

    pub fn pings(&self, machine: &mut Machine, to: &str) -> bool {
        // A second is little in an emulated machine: the first answer of three ends it.
        let ping = format!("ping -c 1 -W 1 {to}");
        self.run(machine, &format!("sh -c '{ping} || {ping} || {ping}'")).code == 0
    }
}
