"""The original's own client, unmodified, against Skein. ../vnc_client.rs runs it with the API's port in SKEIN_API_PORT."""

import json
import os
import unittest
import uuid

import requests
from vnc_api import vnc_api
from vnc_api.exceptions import BadRequest, NoIdError, OverQuota, PermissionDenied, RefsExistError
from vnc_api.gen import resource_common
from vnc_api.gen.resource_client import (AliasIp, AliasIpPool, FloatingIp, FloatingIpPool, InstanceIp,
                                         NetworkIpam, NetworkPolicy, Project, SecurityGroup, Tag,
                                         VirtualMachine, VirtualMachineInterface, VirtualNetwork)
from vnc_api.gen.resource_xsd import (ActionListType, AddressType, IpamSubnetType, IpamSubnets, KeyValuePair,
                                      KeyValuePairs, PolicyEntriesType, PolicyRuleType, PortType, QuotaType,
                                      SequenceType, SubnetType, VirtualNetworkPolicyType, VirtualNetworkType,
                                      VnSubnetsType)


def subnets(*prefixes, **more):
    return VnSubnetsType([IpamSubnetType(subnet=SubnetType(*p.split('/')), **more) for p in prefixes])


def rule(**more):
    fields = dict(direction='<>', protocol='tcp', src_addresses=[AddressType(virtual_network='any')],
                  dst_addresses=[AddressType(virtual_network='any')], src_ports=[PortType(-1, -1)],
                  dst_ports=[PortType(80, 80)], action_list=ActionListType(simple_action='pass'))
    fields.update(more)
    return PolicyRuleType(**fields)


class Client(unittest.TestCase):
    """Each test works in a project of its own."""

    @classmethod
    def setUpClass(cls):
        cls.api = vnc_api.VncApi(api_server_host='127.0.0.1', api_server_port=os.environ['SKEIN_API_PORT'],
                                 auth_type='noauth', conf_file='/nonexistent')

    def setUp(self):
        name = self.id().rsplit('.', 1)[1]
        self.project = Project(name, self.api.domain_read(fq_name=['default-domain']))
        self.api.project_create(self.project)
        self.ipam = NetworkIpam('ipam', self.project)
        self.api.network_ipam_create(self.ipam)

    def network(self, name, *prefixes, **more):
        network = VirtualNetwork(name, self.project, **more)
        if prefixes:
            network.add_network_ipam(self.ipam, subnets(*prefixes))
        self.api.virtual_network_create(network)
        return self.api.virtual_network_read(id=network.uuid)

    def port(self, name, network, **more):
        port = VirtualMachineInterface(name, self.project, **more)
        port.set_virtual_network(network)
        self.api.virtual_machine_interface_create(port)
        return self.api.virtual_machine_interface_read(id=port.uuid)

    def ip(self, network, port=None, **more):
        ip = InstanceIp(str(uuid.uuid4()), **more)
        ip.set_virtual_network(network)
        if port is not None:
            ip.set_virtual_machine_interface(port)
        self.api.instance_ip_create(ip)
        return self.api.instance_ip_read(id=ip.uuid)

    def test_a_network_through_its_life(self):
        properties = VirtualNetworkType(forwarding_mode='l3')
        network = self.network('front', '10.1.1.0/24', 'fd00:1::/64', virtual_network_properties=properties)
        self.assertEqual(network.get_virtual_network_properties().get_forwarding_mode(), 'l3')
        self.assertGreater(network.get_virtual_network_network_id(), 0)
        self.assertEqual(network.display_name, 'front')
        link = network.get_network_ipam_refs()[0]
        self.assertEqual(link['to'], self.ipam.get_fq_name())
        first, second = link['attr'].get_ipam_subnets()
        self.assertEqual((first.default_gateway, first.dns_server_address), ('10.1.1.254', '10.1.1.253'))
        self.assertEqual(second.default_gateway, 'fd00:1::ffff:ffff:ffff:fffe')
        self.assertTrue(first.subnet_uuid)
        network.set_display_name('Front')
        network.set_mtu(1400) if hasattr(network, 'set_mtu') else None
        self.api.virtual_network_update(network)
        network = self.api.virtual_network_read(fq_name=network.get_fq_name())
        self.assertEqual(network.display_name, 'Front')
        self.assertEqual(len(network.get_routing_instances()), 1)
        self.api.virtual_network_delete(id=network.uuid)
        with self.assertRaises(NoIdError):
            self.api.virtual_network_read(id=network.uuid)
        with self.assertRaises(NoIdError):
            self.api.virtual_network_delete(id=network.uuid)

    def test_what_is_read_can_be_written_back(self):
        network = self.network('front', '10.1.1.0/24')
        before = self.api.virtual_network_read(id=network.uuid)
        before.set_network_ipam(self.ipam, before.get_network_ipam_refs()[0]['attr'])
        self.api.virtual_network_update(before)
        after = self.api.virtual_network_read(id=network.uuid)
        a, b = (n.get_network_ipam_refs()[0]['attr'].get_ipam_subnets()[0] for n in (before, after))
        self.assertEqual((a.subnet_uuid, a.default_gateway), (b.subnet_uuid, b.default_gateway))

    def test_ports_and_addresses(self):
        network = self.network('front', '10.1.1.0/24', 'fd00:1::/64')
        port = self.port('p1', network)
        mac = port.get_virtual_machine_interface_mac_addresses().get_mac_address()[0]
        self.assertEqual(mac.replace(':', ''), '02' + port.uuid.replace('-', '')[:10])
        self.assertEqual(len(port.get_routing_instance_refs()), 1)
        v4, v6 = self.ip(network, port), self.ip(network, port, instance_ip_family='v6')
        self.assertEqual(v4.get_instance_ip_address(), '10.1.1.252')
        self.assertEqual(v6.get_instance_ip_address(), 'fd00:1::ffff:ffff:ffff:fffc')
        self.assertEqual(self.ip(network, instance_ip_address='10.1.1.10').get_instance_ip_address(), '10.1.1.10')
        with self.assertRaises(RefsExistError):
            self.ip(network, instance_ip_address='10.1.1.10')
        with self.assertRaises(BadRequest):
            self.ip(network, instance_ip_address='192.0.2.1')
        port = self.api.virtual_machine_interface_read(id=port.uuid)
        self.assertEqual({r['uuid'] for r in port.get_instance_ip_back_refs()}, {v4.uuid, v6.uuid})
        v4.set_instance_ip_address('10.1.1.99')
        with self.assertRaises(BadRequest):
            self.api.instance_ip_update(v4)
        with self.assertRaises(RefsExistError):
            self.api.virtual_machine_interface_delete(id=port.uuid)
        for ip in (v4, v6):
            self.api.instance_ip_delete(id=ip.uuid)
        self.api.virtual_machine_interface_delete(id=port.uuid)
        self.assertEqual(self.ip(network).get_instance_ip_address(), '10.1.1.252')

    def test_subnets_come_and_go(self):
        network = self.network('front', '10.1.1.0/24')
        link = network.get_network_ipam_refs()[0]['attr']
        with self.assertRaises(BadRequest):
            network.set_network_ipam(self.ipam, subnets('10.1.1.0/24', '10.1.1.128/25'))
            self.api.virtual_network_update(network)
        both = VnSubnetsType(link.get_ipam_subnets() + subnets('10.1.2.0/24').get_ipam_subnets())
        network.set_network_ipam(self.ipam, both)
        self.api.virtual_network_update(network)
        used = self.ip(network, instance_ip_address='10.1.2.7')
        network.set_network_ipam(self.ipam, subnets('10.1.1.0/24'))
        with self.assertRaises(RefsExistError):
            self.api.virtual_network_update(network)
        self.api.instance_ip_delete(id=used.uuid)
        self.api.virtual_network_update(network)

    def test_flat_ipam(self):
        flat = NetworkIpam('flat', self.project, ipam_subnet_method='flat-subnet',
                           ipam_subnets=IpamSubnets([IpamSubnetType(subnet=SubnetType('10.9.0.0', 24))]))
        self.api.network_ipam_create(flat)
        names = ('a', 'b')
        addresses = []
        for name in names:
            network = VirtualNetwork(name, self.project,
                                     virtual_network_properties=VirtualNetworkType(forwarding_mode='l3'))
            network.add_network_ipam(flat, VnSubnetsType([]))
            self.api.virtual_network_create(network)
            addresses.append(self.ip(network).get_instance_ip_address())
        self.assertEqual(addresses, ['10.9.0.252', '10.9.0.251'])
        with self.assertRaises(BadRequest):
            network = VirtualNetwork('c', self.project)
            network.add_network_ipam(flat, VnSubnetsType([]))
            self.api.virtual_network_create(network)

    def test_policy_and_security_group(self):
        policy = NetworkPolicy('web', self.project, network_policy_entries=PolicyEntriesType([rule()]))
        self.api.network_policy_create(policy)
        policy = self.api.network_policy_read(id=policy.uuid)
        self.assertTrue(policy.get_network_policy_entries().get_policy_rule()[0].get_rule_uuid())
        network = self.network('front', '10.1.1.0/24')
        network.add_network_policy(policy, VirtualNetworkPolicyType(sequence=SequenceType(0, 0)))
        self.api.virtual_network_update(network)
        read = self.api.network_policy_read(id=policy.uuid)
        self.assertEqual(read.get_virtual_network_back_refs()[0]['uuid'], network.uuid)
        with self.assertRaises(RefsExistError):
            self.api.network_policy_delete(id=policy.uuid)
        with self.assertRaises(RefsExistError):
            policy.set_network_policy_entries(PolicyEntriesType([rule(), rule()]))
            self.api.network_policy_update(policy)
        with self.assertRaises(BadRequest):
            policy.set_network_policy_entries(PolicyEntriesType([rule(protocol='ipx')]))
            self.api.network_policy_update(policy)
        local = [AddressType(security_group='local')]
        entries = PolicyEntriesType([rule(src_addresses=local, ethertype='IPv4')])
        group = SecurityGroup('sg', self.project, security_group_entries=entries)
        self.api.security_group_create(group)
        group = self.api.security_group_read(id=group.uuid)
        self.assertGreaterEqual(group.get_security_group_id(), 8000001)
        port = self.port('p1', network)
        port.set_security_group(group)
        self.api.virtual_machine_interface_update(port)
        with self.assertRaises(RefsExistError):
            self.api.security_group_delete(id=group.uuid)
        port.set_security_group_list([])
        self.api.virtual_machine_interface_update(port)
        self.api.security_group_delete(id=group.uuid)

    def test_references_one_at_a_time(self):
        policy = NetworkPolicy('web', self.project)
        self.api.network_policy_create(policy)
        network = self.network('front', '10.1.1.0/24')
        attr = VirtualNetworkPolicyType(sequence=SequenceType(3, 1))
        add = lambda: self.api.ref_update('virtual-network', network.uuid, 'network-policy', policy.uuid,
                                          policy.get_fq_name(), 'ADD', attr)
        self.assertEqual(add(), network.uuid)
        add()
        refs = self.api.virtual_network_read(id=network.uuid).get_network_policy_refs()
        self.assertEqual([r['attr'].get_sequence().get_major() for r in refs], [3])
        self.api.ref_relax_for_delete(network.uuid, policy.uuid) if hasattr(
            self.api, 'ref_relax_for_delete') else self.api.ref_update(
            'virtual-network', network.uuid, 'network-policy', policy.uuid, None, 'DELETE')
        self.api.network_policy_delete(id=policy.uuid)
        self.assertIsNone(self.api.virtual_network_read(id=network.uuid).get_network_policy_refs())
        with self.assertRaises(NoIdError):
            self.api.ref_update('virtual-network', network.uuid, 'network-policy', str(uuid.uuid4()), None, 'ADD')
        other = self.network('back')
        network.add_virtual_network(other)
        self.api.virtual_network_update(network)
        other = self.api.virtual_network_read(id=other.uuid)
        self.assertEqual(other.get_virtual_network_refs()[0]['uuid'], network.uuid)

    def test_lists(self):
        for name in ('a', 'b', 'c'):
            self.network(name, is_shared=(name == 'b'))
        listed = self.api.virtual_networks_list(parent_id=self.project.uuid)['virtual-networks']
        self.assertEqual([n['fq_name'][-1] for n in listed], ['a', 'b', 'c'])
        by_name = self.api.virtual_networks_list(parent_fq_name=self.project.get_fq_name())['virtual-networks']
        self.assertEqual(by_name, listed)
        shared = self.api.virtual_networks_list(parent_id=self.project.uuid, filters={'is_shared': True})
        self.assertEqual([n['fq_name'][-1] for n in shared['virtual-networks']], ['b'])
        count = self.api.virtual_networks_list(parent_id=self.project.uuid, count=True)
        self.assertEqual(count['virtual-networks']['count'], 3)
        detail = self.api.virtual_networks_list(parent_id=self.project.uuid, detail=True)
        self.assertEqual([n.display_name for n in detail], ['a', 'b', 'c'])
        fields = self.api.virtual_networks_list(parent_id=self.project.uuid, fields=['display_name'])
        self.assertEqual([n['display_name'] for n in fields['virtual-networks']], ['a', 'b', 'c'])
        ids = [n['uuid'] for n in listed]
        many = ids + [str(uuid.uuid4()) for _ in range(40)]
        bulk = self.api.virtual_networks_list(obj_uuids=many)['virtual-networks']
        self.assertEqual(sorted(n['uuid'] for n in bulk), sorted(ids))
        named = self.api.virtual_networks_list(fq_names=[self.project.get_fq_name() + ['a']])['virtual-networks']
        self.assertEqual([n['uuid'] for n in named], ids[:1])
        self.assertEqual(self.api.virtual_networks_list(parent_id=str(uuid.uuid4()))['virtual-networks'], [])
        users = self.api.virtual_machine_interfaces_list(back_ref_id=ids)['virtual-machine-interfaces']
        self.assertEqual(users, [])

    def test_names_and_ids(self):
        network = self.network('front')
        name = network.get_fq_name()
        self.assertEqual(self.api.fq_name_to_id('virtual-network', name), network.uuid)
        self.assertEqual(self.api.fq_name_to_id('virtual_network', name), network.uuid)
        self.assertEqual(self.api.id_to_fq_name(network.uuid), name)
        self.assertEqual(self.api.id_to_fq_name_type(network.uuid), (name, 'virtual-network'))
        with self.assertRaises(NoIdError):
            self.api.fq_name_to_id('virtual-network', name[:-1] + ['none'])
        with self.assertRaises(NoIdError):
            self.api.id_to_fq_name(str(uuid.uuid4()))
        with self.assertRaises(RefsExistError):
            self.network('front')
        with self.assertRaises(RefsExistError):
            other = VirtualNetwork('other', self.project)
            other.uuid = network.uuid
            self.api.virtual_network_create(other)

    def test_key_value_store(self):
        key = self.id()
        self.api.kv_store(key, 'one')
        self.api.kv_store(key, 'two')
        self.assertEqual(self.api.kv_retrieve(key), 'two')
        self.assertIn({'key': key, 'value': 'two'}, self.api.kv_retrieve())
        self.api.kv_delete(key)
        with self.assertRaises(NoIdError):
            self.api.kv_retrieve(key)

    def test_bare_addresses(self):
        network = self.network('front', '10.1.1.0/28')
        got = self.api.virtual_network_ip_alloc(network, count=3)
        self.assertEqual(got, ['10.1.1.12', '10.1.1.11', '10.1.1.10'])
        subnet = network.get_network_ipam_refs()[0]['attr'].get_ipam_subnets()[0].subnet_uuid
        counts = self.api.virtual_network_subnet_ip_count(network, [subnet, 'unknown'])
        # The client hands out the text of this answer.
        self.assertEqual(json.loads(counts)['ip_count_list'], [7, 0])
        self.api.virtual_network_ip_free(network, ['10.1.1.12'])
        self.assertEqual(self.ip(network).get_instance_ip_address(), '10.1.1.12')
        self.api.virtual_network_ip_free(network, ['10.1.1.12'])
        with self.assertRaises(RefsExistError):
            self.ip(network, instance_ip_address='10.1.1.12')
        with self.assertRaises(RefsExistError):
            self.api.virtual_network_ip_alloc(network, count=30)

    def test_floating_and_alias_addresses(self):
        network = self.network('public', '10.1.1.0/24')
        pool = FloatingIpPool('pool', network)
        self.api.floating_ip_pool_create(pool)
        address = FloatingIp('fip', pool)
        address.set_project(self.project)
        self.api.floating_ip_create(address)
        self.assertEqual(self.api.floating_ip_read(id=address.uuid).get_floating_ip_address(), '10.1.1.252')
        taken = FloatingIp('taken', pool, '10.1.1.252')
        taken.set_project(self.project)
        with self.assertRaises(RefsExistError):
            self.api.floating_ip_create(taken)
        pool = AliasIpPool('pool', network)
        self.api.alias_ip_pool_create(pool)
        alias = AliasIp('alias', pool)
        alias.set_project(self.project)
        self.api.alias_ip_create(alias)
        self.assertEqual(self.api.alias_ip_read(id=alias.uuid).get_alias_ip_address(), '10.1.1.251')

    def test_elements_of_maps(self):
        network = self.network('front')
        port = self.port('p1', network)
        port.add_virtual_machine_interface_bindings(KeyValuePair('host_id', 'node-1'))
        self.api.virtual_machine_interface_update(port)
        port.add_annotations(KeyValuePair('colour', 'red'))
        self.api.virtual_machine_interface_update(port)
        port = self.api.virtual_machine_interface_read(id=port.uuid)
        bindings = {p.key: p.value for p in port.get_virtual_machine_interface_bindings().get_key_value_pair()}
        self.assertEqual((bindings['host_id'], bindings['vnic_type'], bindings['vif_type']),
                         ('node-1', 'normal', 'vrouter'))
        elements = self.api.prop_map_get(port.uuid, 'annotations')
        self.assertEqual(len(elements), 1)
        port.del_annotations(elem_position='colour')
        self.api.virtual_machine_interface_update(port)
        self.assertEqual(self.api.prop_map_get(port.uuid, 'annotations'), [])

    def test_elements_of_lists(self):
        field = 'virtual_machine_interface_fat_flow_protocols'
        port = self.port('p1', self.network('front'))
        for number in (80, 81, 82):
            self.api.prop_list_add_element(port.uuid, field, {'protocol': 'tcp', 'port': number})
        self.api.prop_list_modify_element(port.uuid, field, {'protocol': 'udp', 'port': 53}, '1')
        self.api.prop_list_delete_element(port.uuid, field, '0')
        elements = [(e['protocol'], e['port'], at) for e, at in self.api.prop_list_get(port.uuid, field)]
        self.assertEqual(elements, [('udp', 53, '0'), ('tcp', 82, '1')])
        self.assertEqual([e['port'] for e, _ in self.api.prop_list_get(port.uuid, field, '1')], [82])
        read = self.api.virtual_machine_interface_read(id=port.uuid)
        listed = read.get_virtual_machine_interface_fat_flow_protocols().get_fat_flow_protocol()
        self.assertEqual([p.port for p in listed], [53, 82])

    def test_every_field_of_its_schema_is_known(self):
        # A null is no value: the field must be known, and nothing is changed.
        uri = 'http://127.0.0.1:' + os.environ['SKEIN_API_PORT']
        types = {c.resource_type: c for c in vars(resource_common).values() if hasattr(c, 'resource_type')}
        self.assertGreater(len(types), 100)
        for kind, known in sorted(types.items()):
            fields = {f: None for f in set(known.prop_fields) | set(known.ref_fields)}
            answer = requests.post('%s/%ss' % (uri, kind), json={kind: fields})
            # What is missing is a name (or a singleton exists), not a field.
            self.assertEqual((answer.status_code, 'unknown' in answer.text), (400, False), kind + answer.text)
            fields['colour'] = None
            answer = requests.post('%s/%ss' % (uri, kind), json={kind: fields})
            self.assertTrue(answer.status_code == 400 and answer.text.startswith('colour: unknown field'), kind)

    def test_tags(self):
        tag = Tag(parent_obj=self.project, tag_type_name='tier', tag_value='web')
        self.api.tag_create(tag)
        tag = self.api.tag_read(id=tag.uuid)
        self.assertEqual(tag.get_fq_name(), self.project.get_fq_name() + ['tier=web'])
        self.assertTrue(tag.tag_id.startswith('0x0002'))
        network = self.network('front')
        self.api.set_tag(network, 'tier', 'web')
        network = self.api.virtual_network_read(id=network.uuid)
        self.assertEqual([r['uuid'] for r in network.get_tag_refs()], [tag.uuid])
        self.api.unset_tag(network, 'tier')
        self.assertFalse(self.api.virtual_network_read(id=network.uuid).get_tag_refs())
        with self.assertRaises(NoIdError):
            self.api.set_tag(network, 'tier', 'none')

    def test_refusals(self):
        with self.assertRaises(BadRequest):
            self.network('front', '10.1.1.0/33')
        with self.assertRaises(PermissionDenied):
            self.network('front', virtual_network_network_id=77)
        with self.assertRaises(BadRequest):
            self.network('a:b')
        port = VirtualMachineInterface('p', self.project)
        with self.assertRaises(BadRequest):
            self.api.virtual_machine_interface_create(port)
        ghost = VirtualNetwork('ghost', self.project)
        ghost.uuid = str(uuid.uuid4())
        port.set_virtual_network(ghost)
        with self.assertRaises(BadRequest):
            self.api.virtual_machine_interface_create(port)
        self.project.set_quota(QuotaType(virtual_network=1))
        self.api.project_update(self.project)
        self.network('one')
        with self.assertRaises(OverQuota):
            self.network('two')
        with self.assertRaises(RefsExistError):
            self.api.project_delete(id=self.project.uuid)

    def test_symmetric_sub_interfaces(self):
        network = self.network('front', '10.1.1.0/24')
        primary = self.port('primary', network)
        from vnc_api.gen.resource_xsd import VirtualMachineInterfacePropertiesType as Properties
        sub = VirtualMachineInterface('sub', self.project,
                                      virtual_machine_interface_properties=Properties(sub_interface_vlan_tag=100))
        sub.set_virtual_network(network)
        sub.set_virtual_machine_interface(primary)
        self.api.virtual_machine_interface_create(sub)
        primary = self.api.virtual_machine_interface_read(id=primary.uuid)
        self.assertEqual(primary.get_virtual_machine_interface_refs()[0]['uuid'], sub.uuid)
        with self.assertRaises(RefsExistError):
            self.api.virtual_machine_interface_delete(id=primary.uuid)
        self.api.virtual_machine_interface_delete(id=sub.uuid)
        self.api.virtual_machine_interface_delete(id=primary.uuid)

    def test_virtual_machines(self):
        machine = VirtualMachine(str(uuid.uuid4()))
        machine.uuid = machine.name
        self.api.virtual_machine_create(machine)
        port = self.port('p', self.network('front'))
        port.set_virtual_machine(machine)
        self.api.virtual_machine_interface_update(port)
        read = self.api.virtual_machine_read(id=machine.uuid)
        self.assertEqual(read.get_virtual_machine_interface_back_refs()[0]['uuid'], port.uuid)


if __name__ == '__main__':
    unittest.main()
