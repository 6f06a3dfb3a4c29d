use super::{Outcome, Source, Table, key_of, path_of};
use crate::decode::tests::translated;
use crate::decode::{Translation, UDP};
use crate::probes::PROBES;
use bpf::conntrack::abi::{NAT_AMBIGUOUS, NAT_GONE, nat_key, nat_value};
use bpf::conntrack::{MAP, OBJECT};
use plugin_support::loader::{Facts, load};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const GRACE: Duration = Duration::from_secs(2);

fn table() -> Table {
    let loaded = load(Facts::of_this_host().unwrap(), OBJECT, &[], PROBES).unwrap();
    Table::new(loaded.map(MAP).unwrap(), GRACE)
}

fn udp() -> Translation {
    Translation { protocol: UDP, ..translated() }
}

/// What the map has in one namespace, or in any.
fn found(table: &Table, netns: u32, translation: &Translation) -> Option<nat_value> {
    table.map().get(&key_of(netns, translation)).unwrap()
}

fn of_any_port(mut translation: Translation) -> Translation {
    translation.from.src_port = 0;
    translation
}

/// Elements that are really in the map, which must be as many as the table believes.
fn elements(table: &Table) -> usize {
    let mut elements = 0;
    table.map().walk(|_: &nat_key, _| elements += 1).unwrap();
    assert_eq!(elements, table.elements);
    elements
}

#[test]
fn a_connection_is_found_in_its_namespace_and_without_knowing_it() {
    let mut table = table();
    assert_eq!(table.add(7, &translated(), Source::Event).unwrap(), Outcome::Kept);
    for netns in [7, 0] {
        assert_eq!(path_of(&found(&table, netns, &translated()).unwrap()), translated().to);
    }
    assert!(found(&table, 8, &translated()).is_none());
    assert_eq!((table.connections(), elements(&table)), (1, 2));
}

#[test]
fn what_is_gone_stays_for_the_grace_and_leaves_nothing_behind() {
    let mut table = table();
    let now = Instant::now();
    for translation in [translated(), udp()] {
        table.add(7, &translation, Source::Event).unwrap();
        table.end(7, &translation, now).unwrap();
    }
    table.expire(now).unwrap();
    assert_eq!(found(&table, 7, &udp()).unwrap().flags & NAT_GONE, NAT_GONE);
    assert_eq!((table.connections(), table.next_expiry()), (2, Some(now + GRACE)));
    table.expire(now + GRACE).unwrap();
    assert_eq!((table.connections(), elements(&table), table.next_expiry()), (0, 0, None));
}

#[test]
fn a_connection_that_comes_back_does_not_leave_with_the_old_one() {
    let mut table = table();
    let now = Instant::now();
    let mut elsewhere = translated();
    elsewhere.to.dst_port += 1;
    table.add(7, &translated(), Source::Event).unwrap();
    table.end(7, &translated(), now).unwrap();
    table.add(7, &elsewhere, Source::Event).unwrap();
    // The end of the old one, once more and late.
    table.end(7, &translated(), now).unwrap();
    table.expire(now + GRACE).unwrap();
    for netns in [7, 0] {
        assert_eq!(path_of(&found(&table, netns, &elsewhere).unwrap()), elsewhere.to);
    }
    assert_eq!((table.connections(), elements(&table)), (1, 2));
}

#[test]
fn the_same_ends_in_two_namespaces_say_nothing_without_the_namespace_if_they_differ() {
    let mut table = table();
    let mut other = translated();
    table.add(7, &translated(), Source::Event).unwrap();
    table.add(8, &translated(), Source::Event).unwrap();
    assert_eq!(found(&table, 0, &translated()).unwrap().flags & NAT_AMBIGUOUS, 0);
    other.to.dst_port += 1;
    table.add(9, &other, Source::Event).unwrap();
    assert_eq!(found(&table, 0, &translated()).unwrap().flags & NAT_AMBIGUOUS, NAT_AMBIGUOUS);
    assert_eq!(path_of(&found(&table, 9, &other).unwrap()), other.to);
    let now = Instant::now();
    for (netns, translation) in [(7, translated()), (8, translated()), (9, other)] {
        table.end(netns, &translation, now).unwrap();
    }
    table.expire(now + GRACE).unwrap();
    assert_eq!(elements(&table), 0);
}

#[test]
fn udp_is_also_found_without_its_source_port_unless_it_goes_to_different_places() {
    let mut table = table();
    let mut second = udp();
    (second.from.src_port, second.to.src_port) = (40001, 40001);
    table.add(7, &udp(), Source::Event).unwrap();
    table.add(7, &second, Source::Event).unwrap();
    for netns in [7, 0] {
        let value = found(&table, netns, &of_any_port(udp())).unwrap();
        assert_eq!((value.flags, value.holders), (0, 2));
        assert_eq!((path_of(&value).dst_addr, value.src_port), (udp().to.dst_addr, 0));
    }
    let mut third = udp();
    third.from.src_port = 40002;
    third.to.dst_addr = Ipv4Addr::new(10, 0, 0, 10).to_ipv6_mapped().octets();
    table.add(7, &third, Source::Event).unwrap();
    assert_eq!(found(&table, 7, &of_any_port(udp())).unwrap().flags, NAT_AMBIGUOUS);
}

#[test]
fn packets_from_loopback_are_found_in_their_namespace_only() {
    let mut table = table();
    let mut local = translated();
    local.from.src_addr = Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
    table.add(7, &local, Source::Event).unwrap();
    assert!(found(&table, 7, &local).is_some());
    assert!(found(&table, 0, &local).is_none());
}

#[test]
fn what_a_dump_does_not_have_any_more_leaves() {
    let mut table = table();
    let now = Instant::now();
    let mut other = translated();
    other.from.src_port += 1;
    table.add(7, &translated(), Source::Event).unwrap();
    table.add(7, &other, Source::Event).unwrap();
    table.add(8, &other, Source::Event).unwrap();
    let mark = table.mark();
    table.add(7, &other, Source::Dump).unwrap();
    assert!(!table.sweep(7, mark, now).unwrap(), "an event will tell of the end of what is left");
    table.expire(now + GRACE).unwrap();
    assert!(found(&table, 7, &translated()).is_none());
    assert!(found(&table, 7, &other).is_some() && found(&table, 8, &other).is_some());
}

#[test]
fn what_only_a_dump_has_told_of_needs_another_dump_until_an_event_tells_of_it() {
    let mut table = table();
    let mark = table.mark();
    table.add(7, &translated(), Source::Dump).unwrap();
    assert!(table.sweep(7, mark, Instant::now()).unwrap());
    table.add(7, &translated(), Source::Event).unwrap();
    assert!(!table.sweep(7, mark, Instant::now()).unwrap());
}

#[test]
fn a_full_table_refuses_unless_something_is_about_to_leave() {
    let mut table = table();
    table.room = 4;
    let mut more = [translated(); 3];
    for (translation, port) in more.iter_mut().zip(1..) {
        translation.from.src_port = port;
    }
    let now = Instant::now();
    assert_eq!(table.add(7, &more[0], Source::Event).unwrap(), Outcome::Kept);
    assert_eq!(table.add(7, &more[1], Source::Event).unwrap(), Outcome::Kept);
    assert_eq!(table.add(7, &more[2], Source::Event).unwrap(), Outcome::Refused);
    table.end(7, &more[0], now).unwrap();
    assert_eq!(table.add(7, &more[2], Source::Event).unwrap(), Outcome::Kept);
    assert!(found(&table, 7, &more[0]).is_none());
    assert_eq!((table.connections(), elements(&table)), (2, 4));
    table.expire(now + GRACE).unwrap();
    assert_eq!(elements(&table), 4);
}
