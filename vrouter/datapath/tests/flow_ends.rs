//! How entries of flows end: by what both ends say, by their age.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says by panicking"
)]

mod bed;
use bed::balanced::*;
use bed::whole::{Whole, whole};
use bed::*;
use skein_datapath::*;
use std::time::Duration;

#[test]
fn a_connection_ends_when_both_forms_have_seen_its_end() {
    let mut bed = with_services();
    bed.datapath.set_service(&service(key(WEB, TCP, 80), many(1))).unwrap();
    let asked = whole(TCP, (ALICE, 1000), (WEB, 80));
    let seen = asked.between((ALICE, 1000), ([10, 2, 0, 1], 8001));
    let closed = Timeouts { closed: Duration::ZERO, ..Timeouts::default() };
    let swept = |bed: &mut Bed| {
        std::thread::sleep(Duration::from_millis(20));
        bed.datapath.sweep(&closed).unwrap()
    };
    alice_sends(&bed, &asked.kind(SYN));
    far_sends(&bed, &seen.back().kind(SYN | ACK));
    alice_sends(&bed, &asked.kind(FIN | ACK));
    assert_eq!(swept(&mut bed).removed, 0, "half closed");
    far_sends(&bed, &seen.back().kind(FIN | ACK));
    assert_eq!(swept(&mut bed), Swept { live: 0, removed: 2 });
}

#[test]
fn a_reset_that_will_be_believed_ends_both_forms_at_once_and_no_other_does() {
    let mut bed = with_services();
    bed.datapath.set_service(&service(key(WEB, TCP, 80), many(1))).unwrap();
    let asked = whole(TCP, (ALICE, 1000), (WEB, 80));
    let seen = asked.between((ALICE, 1000), ([10, 2, 0, 1], 8001));
    let open = |bed: &Bed| {
        assert_eq!(alice_sends(bed, &asked.kind(SYN).numbers(99, 0)).outcome, bed.tunnel_out());
        far_sends(bed, &seen.back().kind(SYN | ACK).numbers(499, 100));
        alice_sends(bed, &asked.numbers(100, 500));
        assert_eq!(bed.datapath.vif_counters(ALICE_ID).unwrap().flows, 2);
    };
    let flows = |bed: &Bed| {
        let counted = bed.datapath.vif_counters(ALICE_ID).unwrap().flows;
        let there = bed.datapath.flows(FlowFilter::default()).unwrap().len();
        assert_eq!(counted as usize, 2 * there);
        there
    };
    open(&bed);
    for wrong in [0, 100, 499, 501, 500 + (1 << 31)] {
        let ran = far_sends(&bed, &seen.back().kind(RST).numbers(wrong, 0));
        assert_eq!(ran.outcome, bed.delivered(bed.alice), "who gets it knows better");
        assert_eq!(flows(&bed), 1, "{wrong}");
    }
    // Translated like any packet, though its entries are gone by then.
    let reset = seen.back().kind(RST | ACK).numbers(500, 100);
    let ran = far_sends(&bed, &reset);
    assert_eq!(ran.outcome, bed.delivered(bed.alice));
    assert_eq!(ran.frame[14..], reset.between((WEB, 80), (ALICE, 1000)).packet());
    assert_eq!(flows(&bed), 0);
    // The client's own, by what the server acknowledged.
    open(&bed);
    let ran = alice_sends(&bed, &asked.kind(RST).numbers(100, 0));
    assert_eq!(ran.frame[VXLAN..], seen.kind(RST).numbers(100, 0).hops_less(1).packet());
    assert_eq!(flows(&bed), 0);
    // A port where nobody listens.
    alice_sends(&bed, &asked.kind(SYN).numbers(99, 0));
    far_sends(&bed, &seen.back().kind(RST | ACK).numbers(0, 100));
    assert_eq!(flows(&bed), 0);
    // Somebody looks at what has ended.
    bed.datapath.keep_ended(true).unwrap();
    open(&bed);
    far_sends(&bed, &reset);
    assert_eq!(flows(&bed), 1);
    bed.datapath.keep_ended(false).unwrap();
    far_sends(&bed, &reset);
    assert_eq!(flows(&bed), 0);
    // Without a service, in both directions.
    let plain = whole(TCP, (ALICE, 1000), (FAR, 80));
    for (ends, way) in [(plain, alice_sends as fn(&Bed, &Whole) -> Ran), (plain.back(), far_sends)]
    {
        alice_sends(&bed, &plain.kind(SYN).numbers(7, 0));
        far_sends(&bed, &plain.back().kind(SYN | ACK).numbers(7, 8));
        alice_sends(&bed, &plain.numbers(8, 8));
        way(&bed, &ends.kind(RST).numbers(9, 0));
        assert_eq!(bed.datapath.flows(FlowFilter::default()).unwrap().len(), 1);
        way(&bed, &ends.kind(RST).numbers(8, 0));
        assert_eq!(bed.datapath.flows(FlowFilter::default()).unwrap().len(), 0);
    }
}

#[test]
fn an_answered_question_is_forgotten_soon_and_a_conversation_is_not() {
    let mut bed = with_services();
    bed.datapath.set_service(&service(key(WEB, UDP, 53), many(1))).unwrap();
    let question = |port| whole(UDP, (ALICE, port), (WEB, 53));
    let seen = |port| question(port).between((ALICE, port), ([10, 2, 0, 1], 8001));
    let exchange = |bed: &Bed, port| {
        assert_eq!(alice_sends(bed, &question(port)).outcome, bed.tunnel_out());
        assert_eq!(far_sends(bed, &seen(port).back()).outcome, bed.delivered(bed.alice));
    };
    // A connection is not meant by it.
    alice_sends(&bed, &whole(TCP, (ALICE, 1), (FAR, 80)).kind(SYN));
    let brief = Timeouts { brief: Duration::ZERO, ..Timeouts::default() };
    exchange(&bed, 1000);
    alice_sends(&bed, &question(1001));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(bed.datapath.sweep(&Timeouts::default()).unwrap(), Swept { live: 5, removed: 0 });
    assert_eq!(bed.datapath.sweep(&brief).unwrap(), Swept { live: 1, removed: 4 });
    exchange(&bed, 1002);
    alice_sends(&bed, &question(1003));
    std::thread::sleep(Duration::from_millis(2100));
    alice_sends(&bed, &question(1002));
    alice_sends(&bed, &question(1003));
    std::thread::sleep(Duration::from_millis(20));
    // Who was never answered has no conversation, however long it asks.
    assert_eq!(bed.datapath.sweep(&brief).unwrap(), Swept { live: 3, removed: 2 });
    let flows = bed.datapath.flows(FlowFilter::default()).unwrap();
    assert!(flows.iter().any(|flow| flow.local_port == 1002), "{flows:?}");
}

#[test]
fn connections_age_by_protocol_and_port_as_the_list_says() {
    let mut bed = with_services();
    bed.datapath.set_service(&service(key(WEB, TCP, 80), many(1))).unwrap();
    let opened = [
        whole(TCP, (ALICE, 1000), (WEB, 80)),
        whole(TCP, (ALICE, 1001), (FAR, 81)),
        whole(TCP, (ALICE, 1002), (FAR, 82)),
        whole(UDP, (ALICE, 1003), (FAR, 81)),
        whole(1, (ALICE, 1004), (FAR, 1004)).kind(8),
    ];
    let age = |protocol, port, idle| Age { protocol, port, idle };
    let (soon, late) = (Some(Duration::from_nanos(1)), Some(Duration::from_secs(3600)));
    let zero = Timeouts { idle: Duration::ZERO, ..Timeouts::default() };
    let mut left = |ages: &[Age], timeouts: &Timeouts| -> Vec<u16> {
        for packet in &opened {
            let kind = if packet.protocol == TCP { SYN } else { packet.kind };
            assert_eq!(alice_sends(&bed, &packet.kind(kind)).outcome, bed.tunnel_out());
        }
        bed.datapath.set_ages(ages).unwrap();
        assert_eq!(bed.datapath.ages().unwrap().len(), ages.len());
        std::thread::sleep(Duration::from_millis(20));
        let swept = bed.datapath.sweep(timeouts).unwrap();
        let flows = bed.datapath.flows(FlowFilter::default()).unwrap();
        let mut ports: Vec<u16> = flows.iter().map(|flow| flow.local_port).collect();
        ports.sort_unstable();
        let forms: u64 = ports.iter().map(|port| 1 + u64::from(*port == 1000)).sum();
        assert_eq!(swept.live, forms);
        ports
    };
    let usual = Timeouts::default();
    assert_eq!(left(&[], &usual), [1000, 1001, 1002, 1003, 1004]);
    // A service's port, not its member's.
    assert_eq!(left(&[age(TCP, 8001, soon)], &usual).len(), 5);
    assert_eq!(left(&[age(TCP, 80, soon)], &usual), [1001, 1002, 1003, 1004]);
    // The opener's port before the other, a port before the protocol.
    assert_eq!(left(&[age(TCP, 0, soon), age(TCP, 82, late)], &usual), [1002, 1003, 1004]);
    assert_eq!(left(&[age(TCP, 81, soon), age(TCP, 1001, None)], &usual).len(), 5);
    assert_eq!(left(&[age(TCP, 81, late), age(UDP, 81, soon)], &usual), [1000, 1001, 1002, 1004]);
    // For ever; in place of the short time of what is no connection, too.
    assert_eq!(
        left(&[age(TCP, 80, None), age(UDP, 81, late), age(1, 0, None)], &zero),
        [1000, 1003, 1004]
    );
    assert_eq!(left(&[], &zero), [0; 0]);
    // An agent that starts finds them.
    bed.datapath.set_ages(&[age(TCP, 0, None), age(UDP, 53, late)]).unwrap();
    let next = Datapath::open(&Config::new(bed.pin_dir())).unwrap();
    let mut found = next.ages().unwrap();
    found.sort_unstable();
    assert_eq!(found, [age(TCP, 0, None), age(UDP, 53, late)]);
}
