//! The iptables dataplane with real packets of both families, on both backends.

mod netns;
mod probes;
mod tables;

use lasthop_compute::EndpointToHost;
use lasthop_kernel::iptables::{Backend, Config, Iptables};
use lasthop_kernel::nft::{Decider, PolicyKey, PolicyScope};
use lasthop_kernel::reconcile::Scope;
use lasthop_net::{Family, Prefix};
use lasthop_policy::ir::*;
use netns::Netns;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use tables::*;

/// What is said, the rules, and who sends what and whether it passes.
type Case = (&'static str, Vec<Rule>, Vec<(u8, Probe, bool)>);

#[allow(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<Case> {
    let one_and_three = |family: Family| -> BTreeSet<Prefix> {
        let three = Prefix::host(address(family, 3));
        [three, Prefix::host(underlay(family, 9))].into()
    };
    let nets = |nets: BTreeSet<Prefix>| Side { nets: Some(nets), ..Side::default() };
    let both: BTreeSet<Prefix> = Family::ALL.into_iter().flat_map(one_and_three).collect();
    // Eighteen ports and ranges: more than one multiport match takes.
    let many: Vec<(u16, u16)> = (0..18).map(|n| (1000 + n * 10, 1000 + n * 10 + n % 2)).collect();
    vec![
        ("silence denies", vec![], vec![(1, tcp(80), false)]),
        (
            "allow all",
            vec![rule(Action::Allow)],
            vec![
                (1, tcp(80), true),
                (3, (17, 5, 6), true),
                (1, (132, 7, 8), true),
                (1, (136, 7, 8), true),
                (1, (200, 0, 0), true),
            ],
        ),
        (
            "ports beyond one match",
            vec![Rule {
                protocol: Some(6),
                destination: Side { ports: ports(&many), ..Side::default() },
                ..rule(Action::Allow)
            }],
            vec![
                (1, tcp(1000), true),
                (1, tcp(1170), true),
                (1, tcp(1171), true),
                (1, tcp(1160), true),
                (1, tcp(1161), false),
                (1, (17, 4, 1000), false),
            ],
        ),
        (
            "none of many ports",
            vec![Rule {
                protocol: Some(17),
                destination: Side { not_ports: ports(&many), ..Side::default() },
                ..rule(Action::Allow)
            }],
            vec![(1, (17, 4, 1000), false), (1, (17, 4, 1171), false), (1, (17, 4, 1172), true), (1, tcp(9), false)],
        ),
        (
            "none of the ports, of any protocol",
            vec![Rule {
                destination: Side { not_ports: ports(&[(80, 81)]), ..Side::default() },
                ..rule(Action::Allow)
            }],
            vec![
                (1, tcp(80), false),
                (1, (17, 4, 81), false),
                (1, (132, 4, 80), false),
                (1, (136, 4, 80), false),
                (1, tcp(82), true),
                (1, (132, 4, 79), true),
                (1, (200, 0, 0), true),
            ],
        ),
        (
            "ports of any protocol",
            vec![Rule { source: Side { ports: ports(&[(7, 7)]), ..Side::default() }, ..rule(Action::Allow) }],
            vec![
                (1, (6, 7, 1), true),
                (1, (17, 7, 1), true),
                (1, (132, 7, 1), true),
                (1, (136, 7, 1), true),
                (1, (6, 8, 7), false),
                (1, (200, 0, 0), false),
            ],
        ),
        (
            "a list of prefixes",
            vec![Rule { source: nets(both.clone()), ..rule(Action::Allow) }],
            vec![(1, tcp(80), false), (3, tcp(80), true)],
        ),
        (
            "none of a list",
            vec![Rule { source: Side { not_nets: both.clone(), ..Side::default() }, ..rule(Action::Allow) }],
            vec![(1, tcp(80), true), (3, tcp(80), false)],
        ),
        (
            "everything but one",
            vec![Rule {
                source: Side {
                    nets: Some(["0.0.0.0/0", "::/0"].map(|p| p.parse().expect("a prefix")).into()),
                    not_nets: Family::ALL.map(|f| Prefix::host(address(f, 3))).into(),
                    ..Side::default()
                },
                ..rule(Action::Allow)
            }],
            vec![(1, tcp(80), true), (3, tcp(80), false)],
        ),
        (
            "the first that matches decides",
            vec![Rule { protocol: Some(6), ..rule(Action::Deny) }, rule(Action::Allow)],
            vec![(1, tcp(80), false), (1, (17, 1, 1), true)],
        ),
        (
            "any protocol but one",
            vec![Rule { not_protocol: Some(17), ..rule(Action::Allow) }],
            vec![(1, tcp(80), true), (1, (17, 1, 1), false)],
        ),
        (
            "log is not final",
            vec![rule(Action::Log), Rule { protocol: Some(6), ..rule(Action::Allow) }],
            vec![(1, tcp(80), true), (1, (17, 1, 1), false)],
        ),
    ]
}

#[test]
fn rules_mean_what_they_say() {
    let world = World::new();
    let cases = cases();
    for backend in BACKENDS {
        let mut iptables = driver(&world, backend, &Made::rules(vec![]));
        for (what, rules, packets) in &cases {
            apply(&world, &mut iptables, &Made::rules(rules.clone()));
            for family in Family::ALL {
                for (from, packet, passes) in packets {
                    let seen = world.between((*from, 2), family, &[*packet]);
                    assert_eq!(seen, [*passes], "{what}: {packet:?} from {from}, {family}, {backend:?}");
                }
            }
        }
        for (family, protocol, kind) in [(Family::V4, 1, 8), (Family::V6, 58, 128)] {
            let icmp = |icmp| vec![Rule { protocol: Some(protocol), icmp, ..rule(Action::Allow) }];
            for (wanted, passes) in
                [((kind, None), true), ((kind, Some(0)), true), ((kind, Some(3)), false), ((3, None), false)]
            {
                let (kind, code) = wanted;
                apply(&world, &mut iptables, &Made::rules(icmp(Some(Icmp { kind, code }))));
                let echo = if family == Family::V4 { 8 } else { 128 };
                assert_eq!(
                    world.between((1, 2), family, &[(protocol, echo, 0)]),
                    [passes],
                    "{wanted:?} {family} {backend:?}"
                );
                let not_icmp = Some(Icmp { kind, code });
                apply(
                    &world,
                    &mut iptables,
                    &Made::rules(vec![Rule { protocol: Some(protocol), not_icmp, ..rule(Action::Allow) }]),
                );
                assert_eq!(
                    world.between((1, 2), family, &[(protocol, echo, 0)]),
                    [!passes],
                    "not {wanted:?} {family} {backend:?}"
                );
            }
        }
        world.host.enter(|| iptables.remove_all()).expect("removed");
    }
}

#[test]
fn tiers_pass_profiles_and_both_ends() {
    let world = World::new();
    for backend in BACKENDS {
        let mut made = Made::default();
        let (inward, on) = (Direction::Ingress, Force::Enforced);
        let only = |port: u16, action| Rule {
            protocol: Some(6),
            destination: Side { ports: ports(&[(port, port)]), ..Side::default() },
            ..rule(action)
        };
        let staged = made.program(("staged", inward, Force::Staged), vec![only(1, Action::Deny), rule(Action::Allow)]);
        let excepted = Side { not_ports: ports(&[(1, 9)]), ..Side::default() };
        let odd = vec![Rule { destination: excepted, ..rule(Action::Deny) }];
        let staged_odd = made.program(("staged odd", inward, Force::Staged), odd);
        let first = made
            .program(("first", inward, on), vec![only(1, Action::Allow), only(2, Action::Pass), only(3, Action::Deny)]);
        let second = made.program(
            ("second", inward, on),
            vec![only(2, Action::Deny), only(4, Action::Pass), only(5, Action::Allow)],
        );
        let third = made
            .program(("third", inward, on), vec![only(2, Action::Allow), only(4, Action::Deny), only(6, Action::Pass)]);
        let profile = made.program(("profile", inward, on), vec![only(6, Action::Allow), only(7, Action::Allow)]);
        let to = made.stack(
            vec![
                (vec![staged, staged_odd, first, second], TierDefault::Pass),
                (vec![third], TierDefault::Deny),
                (vec![profile], TierDefault::Pass),
            ],
            End::Deny,
        );
        let not_outward =
            made.program(("out", Direction::Egress, on), vec![only(1, Action::Deny), rule(Action::Allow)]);
        let from = made.stack(vec![(vec![not_outward], TierDefault::Deny)], End::Deny);
        let open = made.open();
        made.workload(1, open, open);
        made.workload(2, open, to);
        made.workload(3, from, open);
        let mut iptables = driver(&world, backend, &made.0);
        for family in Family::ALL {
            let packets: Vec<_> = (1..=8).map(tcp).collect();
            let seen = world.between((1, 2), family, &packets);
            assert_eq!(seen, [true, true, false, false, true, true, false, false], "{family} {backend:?}");
            let seen = world.between((3, 2), family, &packets);
            assert_eq!(seen, [false, true, false, false, true, true, false, false], "both ends {family} {backend:?}");
            assert_eq!(world.between((3, 1), family, &packets[..2]), [false, true], "{family} {backend:?}");
        }
        let counters = world.host.enter(|| iptables.policy_counters()).expect("counters");
        let packets =
            |id: ProgramId, index: usize| counters.get(&Decider::Rule(id, index)).map_or(0, |(packets, _)| *packets);
        assert_eq!([packets(staged, 0), packets(staged, 1)], [2, 28], "staged rules are counted");
        assert_eq!([packets(first, 0), packets(first, 1), packets(first, 2)], [2, 4, 4], "{backend:?}");
        assert_eq!(packets(staged_odd, 0), 0, "ports 1 to 8 are excepted, whoever has them");
        assert_eq!(packets(profile, 0), 4);
        // A link that is not in policy passes nothing, and neither does a forged source.
        made.0.workloads.remove(&name("lhw1"));
        apply(&world, &mut iptables, &made.0);
        assert_eq!(world.between((1, 2), Family::V4, &[tcp(2)]), [false]);
        assert_eq!(world.between((2, 1), Family::V6, &[tcp(2)]), [false]);
        let drops = world.host.enter(|| iptables.drops()).expect("drops");
        assert_eq!([drops["no_policy_from"], drops["no_policy_to"], drops["spoofed"]], [1, 1, 0]);
        world.guest(2).sh("ip addr add 10.65.0.99/32 dev lo; ip -6 addr add fd00:65::99/128 dev lo nodad
            ping -c1 -W1 -I 10.65.0.99 10.65.0.3 || ping -6 -c1 -W1 -I fd00:65::99 fd00:65::3 || true
            ip addr del 10.65.0.99/32 dev lo; ip -6 addr del fd00:65::99/128 dev lo");
        assert_eq!(world.host.enter(|| iptables.drops()).expect("drops")["spoofed"], 2);
        world.host.enter(|| iptables.remove_all()).expect("removed");
    }
}

#[test]
fn members_come_and_go_without_a_word_to_iptables() {
    let world = World::new();
    for backend in BACKENDS {
        let mut made = Made::default();
        let (addresses, nets, named) = (digest(1), digest(2), digest(3));
        let set = |kind| Set { kind, members: BTreeSet::new() };
        made.0.sets.insert(addresses, set(SetKind::Addresses));
        made.0.sets.insert(nets, set(SetKind::Nets));
        made.0.sets.insert(named, set(SetKind::Ports));
        let within = |id| Side { within: BTreeSet::from([id]), ..Side::default() };
        let by_name = Ports { ranges: vec![PortRange::one(9)], sets: BTreeSet::from([named]) };
        let mut policy = made.one(vec![
            Rule {
                source: Side { not_within: [addresses].into(), ..Side::default() },
                protocol: Some(6),
                destination: Side { ports: ports(&[(1, 1)]), ..Side::default() },
                ..rule(Action::Allow)
            },
            Rule {
                source: within(addresses),
                protocol: Some(6),
                destination: Side { ports: ports(&[(2, 2)]), ..Side::default() },
                ..rule(Action::Allow)
            },
            Rule { source: within(nets), protocol: Some(17), ..rule(Action::Allow) },
            Rule { destination: Side { ports: Some(by_name), ..Side::default() }, ..rule(Action::Allow) },
        ]);
        let mut config = Config::find(backend).expect("installed");
        config.capacity = 2;
        let mut iptables = Iptables::new(config);
        world.host.enter(|| {
            iptables.sync_skeleton(&guard(EndpointToHost::Drop), &nat()).expect("the skeleton");
            iptables.sync_sources(&sources(), Scope::All);
        });
        apply(&world, &mut iptables, &policy);
        let packets = [tcp(1), tcp(2), (17, 3, 4), (132, 5, 6), tcp(9), (1, 8, 0)];
        for family in Family::ALL {
            assert_eq!(world.between((1, 2), family, &packets[..5]), [true, false, false, false, true], "{family}");
        }
        let before =
            world.host.sh("iptables-legacy-save -c; iptables-nft-save -c 2>/dev/null | grep -v '^#'; true").len();
        let mut members = BTreeSet::new();
        for family in Family::ALL {
            members.insert((addresses, Member::Net(Prefix::host(address(family, 1)))));
            members.insert((nets, Member::Net(Prefix::default_route(family))));
            members.insert((named, Member::Port(address(family, 2), 132, 6)));
        }
        let change = |policy: &mut HostPolicy, there: bool| {
            for (id, member) in &members {
                let set = policy.sets.get_mut(id).expect("a set");
                if there {
                    set.members.insert(*member)
                } else {
                    set.members.remove(member)
                };
            }
        };
        let changes = PolicyChanges { members: members.clone(), ..PolicyChanges::default() };
        for round in 0..2 {
            change(&mut policy, true);
            let outcome = world.host.enter(|| iptables.sync_policy(&policy, PolicyScope::Changed(&changes)));
            assert!(outcome.failed.is_empty() && outcome.writes == 8, "{round}: {outcome:?}");
            for family in Family::ALL {
                assert_eq!(world.between((1, 2), family, &packets[..5]), [false, true, true, true, true], "{family}");
            }
            change(&mut policy, false);
            let outcome = world.host.enter(|| iptables.sync_policy(&policy, PolicyScope::Changed(&changes)));
            assert!(outcome.failed.is_empty() && outcome.writes == 8, "{round}: {outcome:?}");
            for family in Family::ALL {
                assert_eq!(world.between((1, 2), family, &packets[..5]), [true, false, false, false, true], "{family}");
            }
        }
        let after =
            world.host.sh("iptables-legacy-save -c; iptables-nft-save -c 2>/dev/null | grep -v '^#'; true").len();
        assert!(before.abs_diff(after) < 200, "chains were not written anew: counters only grew");
        // More members than the set was made for.
        let set = policy.sets.get_mut(&addresses).expect("a set");
        set.members = (0..100).map(|n| Member::Net(Prefix::host(IpAddr::from([10, 99, 0, n])))).collect();
        set.members.insert(Member::Net(Prefix::host(address(Family::V4, 1))));
        let members = set.members.iter().map(|member| (addresses, *member)).collect();
        let changes = PolicyChanges { members, ..PolicyChanges::default() };
        let outcome = world.host.enter(|| iptables.sync_policy(&policy, PolicyScope::Changed(&changes)));
        assert!(outcome.failed.is_empty(), "{outcome:?}");
        assert_eq!(world.between((1, 2), Family::V4, &packets[..2]), [false, true]);
        world.host.enter(|| iptables.remove_all()).expect("removed");
    }
}

#[test]
fn a_restart_writes_nothing_and_drift_is_put_right() {
    let world = World::new();
    for backend in BACKENDS {
        let (program, suffix) = match backend {
            Backend::Nft => ("iptables-nft", "-nft"),
            _ => ("iptables-legacy", "-legacy"),
        };
        let before = everything_saved(&world.host, suffix);
        // Others' rules, before us and after us, and a set of theirs.
        world.host.sh(&format!(
            "{program} -N THEIRS; {program} -A THEIRS -d 10.65.0.2 -m comment --comment 'lh:not ours' -j RETURN
             {program} -A FORWARD -j THEIRS; {program} -t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE; {program} -P FORWARD DROP
             ipset create theirs hash:ip; ipset add theirs 192.0.2.1; {program} -A THEIRS -m set --match-set theirs src -j DROP"
        ));
        let theirs = everything_saved(&world.host, suffix);
        let mut made = Made::default();
        made.0.sets.insert(
            digest(1),
            Set {
                kind: SetKind::Nets,
                members: [
                    Member::Net("10.65.0.0/16".parse().expect("a prefix")),
                    Member::Net("fd00::/8".parse().expect("a prefix")),
                ]
                .into(),
            },
        );
        let excepted = Side { not_ports: ports(&[(80, 81)]), within: [digest(1)].into(), ..Side::default() };
        let policy = made.one(vec![
            Rule { protocol: Some(17), ..rule(Action::Log) },
            Rule { protocol: Some(17), ..rule(Action::Deny) },
            Rule { destination: excepted, ..rule(Action::Pass) },
            Rule {
                source: Side {
                    nets: Some(
                        ["10.65.0.0/24", "10.66.0.0/16", "fd00::/16"].map(|p| p.parse().expect("a prefix")).into(),
                    ),
                    ..Side::default()
                },
                ..rule(Action::Allow)
            },
        ]);
        let mut first = driver(&world, backend, &policy);
        assert_eq!(world.between((1, 2), Family::V4, &[tcp(80), tcp(82), (17, 1, 1)]), [true, false, false]);
        let rules = everything_saved(&world.host, suffix);
        let mut second = Iptables::new(Config::find(backend).expect("installed"));
        let check = |iptables: &mut Iptables| {
            world.host.enter(|| {
                let changed = iptables.read_back().expect("read back");
                let skeleton = iptables.sync_skeleton(&guard(EndpointToHost::Drop), &nat()).expect("the skeleton");
                let sources = iptables.sync_sources(&sources(), Scope::All);
                let outcome = iptables.sync_policy(&policy, PolicyScope::All);
                assert!(outcome.failed.is_empty() && sources.failed.is_empty(), "{outcome:?}");
                (changed, skeleton.changes, sources.writes + outcome.writes)
            })
        };
        assert_eq!(check(&mut second).1, [""; 0], "{backend:?}");
        assert_eq!(check(&mut second), (false, vec![], 0), "{backend:?}");
        let (changed, changes, writes) = check(&mut first);
        assert!(changes.is_empty() && writes == 0 && !changed, "{changes:?}");
        assert_same(&everything_saved(&world.host, suffix), &rules, "two drivers");
        // Whatever somebody does to us is noticed and put right; what is theirs stays.
        for tampering in [
            format!("{program} -I FORWARD -j THEIRS; {program} -D FORWARD 1; {program} -I FORWARD -j ACCEPT"),
            format!(
                "{program} -D FORWARD -m comment --comment nothing -j ACCEPT 2>/dev/null; {program} -F FORWARD; {program} -A FORWARD -j THEIRS"
            ),
            format!("{program} -t raw -F LASTHOP-source"),
            format!("{program} -D LASTHOP-from-workload 1"),
            format!("{program} -I LASTHOP-forward -j ACCEPT"),
            format!(
                "line=$({program}-save -t filter | grep no_policy_to); {program} -R LASTHOP-to 4 -m comment --comment \"$(echo \"$line\" | grep -o 'lh:no_policy_to:[a-z0-9]*')\" -j ACCEPT"
            ),
            "set=$(ipset list -n | grep lh-4n); ipset del $set 10.65.0.0/16; ipset add $set 10.1.0.0/16".to_owned(),
            "ipset flush lh-src4".to_owned(),
            format!("{program} -t mangle -N LASTHOP-stray; ipset create lh-stray hash:ip"),
        ] {
            world.host.sh(&tampering);
            let (changed, changes, writes) = check(&mut first);
            assert!(changed && (!changes.is_empty() || writes > 0), "{tampering}: {changed} {changes:?} {writes}");
            if tampering.contains("-j ACCEPT") && tampering.contains("-I FORWARD") {
                world.host.sh(&format!("{program} -D FORWARD -j ACCEPT"));
                check(&mut first);
            }
            assert_same(&everything_saved(&world.host, suffix), &rules, &format!("{tampering} {backend:?}"));
            assert_eq!(check(&mut first), (false, vec![], 0), "{tampering}");
        }
        world.host.enter(|| first.remove_all()).expect("removed");
        assert_same(&everything_saved(&world.host, suffix), &theirs, &format!("{backend:?}"));
        world.host.sh(&format!("{program} -F FORWARD; {program} -P FORWARD ACCEPT; {program} -F THEIRS; {program} -X THEIRS; {program} -t nat -F POSTROUTING
            for i in 1 2 3 4 5 6 7 8 9; do ipset destroy theirs && break; sleep 0.1; done"));
        assert_same(&everything_saved(&world.host, suffix), &before, "as before all of us");
    }
}

fn assert_same(now: &str, before: &str, what: &str) {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (now_lines, before_lines) = (lines(now), lines(before));
    let differ: Vec<_> = now_lines.symmetric_difference(&before_lines).collect();
    assert!(now == before, "{what}: {differ:#?}");
}

/// All rules and sets without counters, in an order that does not depend on when they were made.
fn everything_saved(host: &Netns, suffix: &str) -> String {
    let saved = host.sh(&format!(
        "for f in iptables ip6tables; do $f{suffix}-save 2>/dev/null; done; ipset save | sed 's/ initval.*//' | sort"
    ));
    let mut chains: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    let (mut table, mut family) = (String::new(), 0);
    for line in saved.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('*') {
            family += usize::from(name == "filter" && chains.keys().any(|(t, _)| t == "filter 0"));
            table = format!("{name} {family}");
        }
        let chain = line.strip_prefix("-A ").or(line.strip_prefix(':')).and_then(|l| l.split(' ').next()).unwrap_or("");
        let line = line.split(" [").next().unwrap_or(line);
        chains.entry((table.clone(), chain.to_owned())).or_default().push(line);
    }
    let line =
        |((table, chain), lines): (&(String, String), &Vec<&str>)| format!("{table} {chain}\n{}\n", lines.join("\n"));
    chains
        .iter()
        .filter(|((_, chain), lines)| {
            !chain.is_empty() && !lines.iter().all(|line| *line == format!(":{chain} ACCEPT"))
        })
        .map(line)
        .collect::<String>()
        + &saved
            .lines()
            .filter(|l| l.starts_with("add") || l.starts_with("create"))
            .fold(String::new(), |all, l| all + l + "\n")
}

fn link(text: &str) -> PolicyKey {
    PolicyKey::Link(name(text))
}

#[test]
fn one_bad_object_stops_no_other() {
    let world = World::new();
    for backend in BACKENDS {
        for (what, script) in [
            (
                "a line",
                "n=$(grep -n ' 4444 ' $f | head -1 | cut -d: -f1); [ -n \"$n\" ] && { echo \"Error occurred at line: $n\" >&2; exit 2; }",
            ),
            ("a table", "grep -q ' 4444 ' $f && { echo \"iptables-restore: line $(wc -l <$f) failed\" >&2; exit 1; }"),
        ] {
            let mut config = Config::find(backend).expect("installed");
            let wrapper = format!("/tmp/{}-restore-{}", world.host.name, what.replace(' ', "-"));
            let real = config.tools.restore.clone();
            for (path, real, suffix) in
                config.tools.restore.iter_mut().zip(&real).zip(["4", "6"]).map(|((a, b), c)| (a, b, c))
            {
                let file = format!("{wrapper}{suffix}");
                let text = format!(
                    "#!/bin/bash\nf=$(mktemp); trap 'rm -f $f' EXIT; cat >$f\n{script}\n{} \"$@\" <$f\n",
                    real.display()
                );
                std::fs::write(&file, text).expect("written");
                std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                    .expect("executable");
                *path = file.into();
            }
            let mut made = Made::default();
            let on = |port, protocol| Rule {
                protocol: Some(protocol),
                destination: Side { ports: ports(&[(port, port)]), ..Side::default() },
                ..rule(Action::Allow)
            };
            let good: Vec<ProgramId> = (0..9)
                .map(|n| made.program((&n.to_string(), Direction::Ingress, Force::Enforced), vec![on(80 + n, 6)]))
                .collect();
            let bad = made.program(("bad", Direction::Ingress, Force::Enforced), vec![on(80, 6), on(4444, 17)]);
            let odd_set = digest(9);
            made.0.sets.insert(
                odd_set,
                Set { kind: SetKind::Addresses, members: [Member::Port(address(Family::V4, 1), 6, 80)].into() },
            );
            let odd = made.program(
                ("odd", Direction::Egress, Force::Enforced),
                vec![
                    Rule { destination: Side { within: [odd_set].into(), ..Side::default() }, ..rule(Action::Deny) },
                    rule(Action::Allow),
                ],
            );
            let open = made.open();
            let to_good = made.stack(vec![(good, TierDefault::Deny)], End::Deny);
            let to_bad = made.stack(vec![(vec![bad], TierDefault::Deny)], End::Deny);
            let from_odd = made.stack(vec![(vec![odd], TierDefault::Deny)], End::Deny);
            made.workload(1, open, open);
            made.workload(2, open, to_good);
            made.workload(3, from_odd, to_bad);
            let mut iptables = Iptables::new(config);
            let outcome = world.host.enter(|| {
                iptables.sync_skeleton(&guard(EndpointToHost::Drop), &nat()).expect("the skeleton");
                iptables.sync_sources(&sources(), Scope::All);
                iptables.sync_policy(&made.0, PolicyScope::All)
            });
            let failed: BTreeSet<&PolicyKey> = outcome.failed.keys().collect();
            let parts = failed.iter().filter(|key| matches!(key, PolicyKey::Part(_))).count();
            assert_eq!(parts, 2, "the programs: {what}: {outcome:?}");
            for key in [PolicyKey::Stack(to_bad), PolicyKey::Stack(from_odd), PolicyKey::Set(odd_set), link("lhw3")] {
                assert!(failed.contains(&key), "{what} {backend:?}: {key:?}: {outcome:?}");
            }
            assert_eq!(failed.len(), 6, "{outcome:?}");
            assert!(outcome.done.contains(&link("lhw1")) && outcome.done.contains(&link("lhw2")), "{outcome:?}");
            for family in Family::ALL {
                assert_eq!(world.between((1, 2), family, &[tcp(80), tcp(88), tcp(89)]), [true, true, false], "{what}");
                assert_eq!(world.between((1, 3), family, &[tcp(80)]), [false], "its endpoints pass nothing: {what}");
                assert_eq!(world.between((3, 1), family, &[tcp(80)]), [false], "nor do those of the odd set: {what}");
            }
            let outcome = world.host.enter(|| iptables.sync_policy(&made.0, PolicyScope::All));
            assert_eq!(outcome.writes, 0, "what was refused is not tried over and over");
            world.host.enter(|| iptables.remove_all()).expect("removed");
            for suffix in ["4", "6"] {
                std::fs::remove_file(format!("{wrapper}{suffix}")).expect("removed");
            }
        }
    }
}
