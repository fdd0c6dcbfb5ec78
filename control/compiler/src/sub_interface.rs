//! VLAN sub-interfaces: ports without a device of their own, on that of another one (spec/vrouter.md section 2, VIRTUAL_VLAN).

use crate::engine::Engine;
use crate::interface::bound_to;
use skein_model::values::VirtualMachineInterfacePropertiesType;
use skein_model::views::VirtualMachineInterface;
use skein_model::{Kind, Object};
use uuid::Uuid;

fn tag(port: &Object) -> Option<u16> {
    let properties: VirtualMachineInterfacePropertiesType =
        port.property("virtual_machine_interface_properties")?;
    let tag = u16::try_from(properties.sub_interface_vlan_tag?).ok()?;
    (1..=4094).contains(&tag).then_some(tag)
}

/// The port whose device a port shares, and its tag there.
pub(crate) fn parent(engine: &mut Engine, port: &Object) -> Option<(Uuid, u16)> {
    let tag = tag(port)?;
    let parent = port.reference_to(Kind::VIRTUAL_MACHINE_INTERFACE)?.uuid;
    let parent = engine.get(Kind::VIRTUAL_MACHINE_INTERFACE, parent)?;
    // No deeper: a sub-interface has no device to share.
    self::tag(&parent).is_none().then_some((parent.uuid, tag))
}

/// Ports that share a port's device, sorted. Either end may refer to the other.
pub(crate) fn children(engine: &mut Engine, port: &Object) -> Vec<Uuid> {
    if tag(port).is_some() {
        return Vec::new();
    }
    let named: Vec<Uuid> =
        port.references_to(Kind::VIRTUAL_MACHINE_INTERFACE).map(|link| link.uuid).collect();
    let mut all = engine.back_references(port.uuid, Kind::VIRTUAL_MACHINE_INTERFACE);
    all.extend(named.iter().filter_map(|one| engine.get(Kind::VIRTUAL_MACHINE_INTERFACE, *one)));
    let mut children: Vec<Uuid> = all
        .iter()
        .filter(|one| parent(engine, one).is_some_and(|(parent, _)| parent == port.uuid))
        .map(|one| one.uuid)
        .collect();
    children.sort_unstable();
    children.dedup();
    children
}

/// The node that a port is bound to: a sub-interface is where its parent is.
pub(crate) fn node(engine: &mut Engine, port: &Object) -> Option<String> {
    let holder = match parent(engine, port) {
        Some((parent, _)) => engine.get(Kind::VIRTUAL_MACHINE_INTERFACE, parent)?,
        None => return bindings(port),
    };
    bindings(&holder)
}

fn bindings(port: &Object) -> Option<String> {
    let view = VirtualMachineInterface::of(port)?;
    bound_to(&view.virtual_machine_interface_bindings().unwrap_or_default())
}
