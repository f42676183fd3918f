//! Tables by hand to measure beside: the single rule, and the shape in which an agent of the rule-by-rule kind programs nft.
//!
//! That shape: hooks in raw, mangle, filter and nat order, each with a call for its purpose and one counter a rule; links
//! dispatched by a verdict map; a chain an endpoint and direction that looks at the connection's state first and then calls
//! the policy's chain; a policy's chain sets a bit of the mark where a rule matches, and the next rule returns if it is set.

use super::world::{self, POOL, SETS, World};
use std::fmt::Write as _;

/// Policies that endpoints have one of in this shape.
const POLICIES: usize = 10;
/// Bits of the mark: allowed, passed on, and two for the way of the packet.
const ALLOWED: u32 = 1 << 16;
const PASSED: u32 = 1 << 17;
const FROM: u32 = 1 << 18;
const SPARE: u32 = 1 << 19;

/// One rule, and nothing else.
pub(super) const SINGLE: &str = "
table inet single {
    chain forward {
        type filter hook forward priority 0; policy accept;
        ct state established accept
    }
}
";

/// Drops in a receiving workload what comes for ports that nobody has.
pub(super) const SINK: &str = "
table netdev sink {
    chain arriving { type filter hook ingress device eth0 priority 0; policy accept; udp dport >= 20000 drop; }
}
";

fn set(bits: u32) -> String {
    format!("meta mark set mark or {bits:#x}")
}

fn clear(bits: u32) -> String {
    format!("meta mark set mark and {:#x}", !bits)
}

fn if_set(bits: u32) -> String {
    format!("meta mark & {bits:#x} == {bits:#x}")
}

fn if_clear(bits: u32) -> String {
    format!("meta mark & {bits:#x} == 0")
}

fn chain(text: &mut String, name: &str, rules: &[String]) {
    let _ = writeln!(text, "chain {name} {{\n{}\n}}", rules.join("\n"));
}

/// The table for a world.
pub(super) fn rule_by_rule(world: World) -> String {
    let mut text = "table ip beside {\n".to_owned();
    sets(&mut text);
    let empty = ["host-forward-in", "host-forward-out", "blocked", "rpf-skip", "host-in", "host-out", "dscp"];
    let profiles = ["egress-ns", "egress-sa", "ingress-ns", "ingress-sa", "fip-in", "fip-out"];
    empty.iter().chain(&profiles).for_each(|name| chain(&mut text, name, &[]));
    for number in 0..POLICIES {
        for (direction, side) in [("egress", "daddr"), ("ingress", "saddr")] {
            let mut rules = Vec::new();
            for asked in world.asked() {
                let protocol = asked.protocol.to_lowercase();
                let world::Asked { set: from, port, .. } = asked;
                let asks = format!("meta l4proto {protocol} ip {side} @s{from} {protocol} dport {port}");
                rules.extend([format!("{asks} counter {}", set(ALLOWED)), done("return")]);
            }
            rules.extend([format!("ip {side} @me counter {}", set(ALLOWED)), done("return")]);
            chain(&mut text, &format!("{direction}-p{number}"), &rules);
        }
    }
    endpoints(&mut text, world);
    hooks(&mut text);
    text.push_str("}\n");
    text
}

/// What a rule after one that may have set the mark does.
fn done(verdict: &str) -> String {
    format!("{} counter {verdict}", if_set(ALLOWED))
}

fn sets(text: &mut String) {
    let mut add = |name: &str, elements: &[String]| {
        let list = elements.join(", ");
        let elements = if list.is_empty() { list } else { format!("elements = {{ {list} }};") };
        let _ = writeln!(text, "set {name} {{ type ipv4_addr; flags interval; {elements} }}");
    };
    for number in 0..SETS {
        add(&format!("s{number}"), &world::members(number).map(|address| address.to_string()).collect::<Vec<_>>());
    }
    for name in ["me", "translated", "pools"] {
        add(name, &[POOL.to_owned()]);
    }
    add("this-host", &["172.18.203.31".to_owned()]);
    add("classed", &[]);
}

fn endpoints(text: &mut String, world: World) {
    for number in 0..world.endpoints {
        for direction in ["egress", "ingress"] {
            let mut rules = vec![
                "ct state established,related counter accept".to_owned(),
                "ct state invalid counter drop".to_owned(),
                format!("counter {}", clear(ALLOWED | PASSED)),
            ];
            if direction == "egress" {
                let tunnels = ["meta l4proto udp udp dport 4789 counter drop", "meta l4proto 4 counter drop"];
                rules.extend(tunnels.map(str::to_owned));
            }
            rules.extend([
                format!("counter {}", clear(PASSED)),
                format!("{} counter jump {direction}-p{}", if_clear(PASSED), number % POLICIES),
                done("return"),
                format!("{} counter drop", if_clear(PASSED)),
            ]);
            for profile in ["ns", "sa"] {
                rules.extend([format!("counter jump {direction}-{profile}"), done("return")]);
            }
            rules.push("counter drop".to_owned());
            chain(text, &format!("{direction}-{}", world::link(number)), &rules);
        }
    }
    for (direction, link) in [("egress", "iifname"), ("ingress", "oifname")] {
        let to = |number: usize| format!("\"{0}\" : goto {direction}-{0}", world::link(number));
        let elements: Vec<String> = (0..world.endpoints).map(to).collect();
        let _ =
            writeln!(text, "map {direction} {{ type ifname : verdict; elements = {{ {} }}; }}", elements.join(", "));
        chain(text, &format!("{direction}-of"), &[format!("{link} vmap @{direction}"), "counter drop".to_owned()]);
    }
}

fn hooks(text: &mut String) {
    let ways = ALLOWED | PASSED | FROM | SPARE;
    let base =
        |kind: &str, hook: &str, priority: i32| format!("type {kind} hook {hook} priority {priority}; policy accept;");
    let calls = [
        format!("counter {}", clear(PASSED | FROM | SPARE)),
        format!("{} counter jump host-forward-in", if_clear(ALLOWED)),
        "iifname \"lh*\" counter jump egress-of".to_owned(),
        "oifname \"lh*\" counter jump ingress-of".to_owned(),
        "counter jump host-forward-out".to_owned(),
        "counter jump blocked".to_owned(),
    ];
    chain(text, "all-forwarded", &calls);
    let forward = [
        base("filter", "forward", 0),
        "counter jump all-forwarded".to_owned(),
        done("accept"),
        format!("counter {}", set(ALLOWED)),
    ];
    chain(text, "forward", &forward);
    let raw = [
        base("filter", "prerouting", -300),
        format!("counter {}", clear(ways)),
        format!("iifname \"lh*\" counter {}", set(FROM)),
        format!("{} counter jump rpf-skip", if_set(FROM)),
        format!("{} fib saddr . mark . iif oif 0 counter drop", if_set(FROM)),
        format!("{} counter jump host-in", if_clear(FROM)),
        done("accept"),
    ];
    chain(text, "raw-prerouting", &raw);
    let mangle = [
        base("filter", "prerouting", -150),
        "ct state established,related counter accept".to_owned(),
        done("accept"),
        "counter jump host-in".to_owned(),
        done("accept"),
    ];
    chain(text, "mangle-prerouting", &mangle);
    let after = [
        base("filter", "postrouting", -150),
        "ip saddr @classed ip daddr != @pools ip daddr != @this-host counter jump dscp".to_owned(),
        done("return"),
        format!("counter {}", clear(ways)),
        "ct status dnat counter jump host-out".to_owned(),
    ];
    chain(text, "mangle-postrouting", &after);
    chain(text, "nat-prerouting", &[base("nat", "prerouting", -100), "counter jump fip-in".to_owned()]);
    let translate = "ip saddr @translated ip daddr != @pools counter masquerade".to_owned();
    chain(text, "nat-outgoing", &[translate]);
    let nat =
        [base("nat", "postrouting", 100), "counter jump fip-out".to_owned(), "counter jump nat-outgoing".to_owned()];
    chain(text, "nat-postrouting", &nat);
}
