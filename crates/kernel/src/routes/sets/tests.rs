use super::*;
use lasthop_net::IfIndex;

fn ip(n: u8) -> IpAddr {
    IpAddr::from([172, 31, 0, n])
}

fn prefix(n: u8) -> Prefix {
    Prefix::host(IpAddr::from([10, 65, 0, n]))
}

fn egress(n: u8) -> Egress {
    Egress { gateway: ip(n), link: IfIndex(2) }
}

fn set(hops: &[u8]) -> NextHops {
    hops.iter().map(|n| ip(*n)).collect()
}

fn nothing() -> InPlace<'static> {
    static OURS: BTreeMap<u32, NextHop> = BTreeMap::new();
    static TAKEN: BTreeSet<u32> = BTreeSet::new();
    InPlace { ours: &OURS, taken: &TAKEN }
}

/// What the kernel would hold after writing all that is wanted.
fn written(sets: &mut Sets, mut actual: BTreeMap<u32, NextHop>) -> BTreeMap<u32, NextHop> {
    for id in sets.take_touched() {
        match sets.content(id) {
            Some(content) => actual.insert(id, content),
            None => actual.remove(&id),
        };
    }
    actual
}

#[test]
fn routes_with_the_same_next_hops_share_an_object() {
    let mut sets = Sets::default();
    for n in 1..=3 {
        sets.assign(prefix(n), Some(&set(&[2])));
    }
    sets.assign(prefix(4), Some(&set(&[2, 3])));
    assert_eq!(sets.fresh_hops(), set(&[2, 3]).iter().copied().collect());
    assert_eq!(sets.set_egress(ip(2), Ok(egress(2))).len(), 4);
    sets.number(nothing(), |_| None);
    let object = |sets: &Sets, n| sets.object(prefix(n)).unwrap().unwrap();
    assert_eq!(object(&sets, 1), object(&sets, 3));
    assert_ne!(object(&sets, 1), object(&sets, 4));
    let actual = written(&mut sets, BTreeMap::new());
    assert_eq!(actual.len(), 2, "the unreached next hop has no object: {actual:?}");
    assert_eq!(actual[&object(&sets, 4)], NextHop::Group([object(&sets, 1)].into()));
    // The second next hop comes: only the group and its new member are written, no route is looked at.
    assert!(sets.set_egress(ip(3), Ok(egress(3))).is_empty());
    assert_eq!(sets.touched.len(), 2);
    let actual = written(&mut sets, actual);
    assert_eq!(actual.len(), 3);
    // Both go.
    assert_eq!(sets.set_egress(ip(2), Err("gone".to_owned())).len(), 3, "the group still leads somewhere");
    assert_eq!(sets.set_egress(ip(3), Err("gone".to_owned())), [prefix(4)].into());
    assert_eq!(sets.object(prefix(4)), Some(Err((ip(2), "gone".to_owned()))));
    assert!(written(&mut sets, actual).is_empty());
}

#[test]
fn an_object_without_users_is_given_up() {
    let mut sets = Sets::default();
    sets.assign(prefix(1), Some(&set(&[2])));
    sets.set_egress(ip(2), Ok(egress(2)));
    sets.number(nothing(), |_| None);
    let actual = written(&mut sets, BTreeMap::new());
    sets.assign(prefix(1), Some(&set(&[3])));
    assert!(!sets.is_owned(*actual.keys().next().unwrap()));
    sets.assign(prefix(1), None);
    assert!(written(&mut sets, actual).is_empty());
    assert!(sets.hops.is_empty() && sets.sets.is_empty() && sets.numbers.is_empty() && sets.owners.is_empty());
}

#[test]
fn objects_in_place_are_taken_over_by_what_they_hold() {
    // Two next hops behind the same gateway, so that content alone does not tell the objects apart.
    let behind = Ok(egress(9));
    let first = *IDS.start();
    let actual = BTreeMap::from([
        (first, NextHop::Single(egress(9))),
        (first + 1, NextHop::Single(egress(9))),
        (first + 2, NextHop::Group([first, first + 1].into())),
        (first + 3, NextHop::Single(egress(5))),
    ]);
    let routes =
        BTreeMap::from([(prefix(1), first + 1), (prefix(2), first), (prefix(3), first + 2), (prefix(4), first + 3)]);
    let mut sets = Sets::default();
    sets.assign(prefix(1), Some(&set(&[2])));
    sets.assign(prefix(2), Some(&set(&[3])));
    sets.assign(prefix(3), Some(&set(&[2, 3])));
    sets.assign(prefix(4), Some(&set(&[4])));
    for hop in [2, 3] {
        sets.set_egress(ip(hop), behind.clone());
    }
    sets.set_egress(ip(4), Ok(egress(4)));
    let taken = [first + 4].into();
    sets.number(InPlace { ours: &actual, taken: &taken }, |prefix| routes.get(prefix).copied());
    for n in 1..=3 {
        assert_eq!(sets.object(prefix(n)).unwrap().unwrap(), routes[&prefix(n)], "route {n}");
        assert_eq!(sets.content(routes[&prefix(n)]).as_ref(), actual.get(&routes[&prefix(n)]));
    }
    assert_eq!(sets.object(prefix(4)), Some(Ok(first + 5)), "holds another way: a new object, past one that is taken");
}
