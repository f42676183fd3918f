//! Names of links and MAC addresses that are made from names of workloads, the same on every host.

use lasthop_model::EndpointKey;
use lasthop_net::Mac;

/// A short stable digest of a name (FNV-1a, 64 bits).
#[must_use]
pub fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The digest of a workload's name, stirred until every bit depends on every other (the finisher of MurmurHash3).
fn hash(key: &EndpointKey) -> u64 {
    let sum = digest(&key.to_string());
    let once = (sum ^ (sum >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let twice = (once ^ (once >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    twice ^ (twice >> 33)
}

/// The host's end of a workload's veth: the first guarded prefix and eleven digits of the name's hash.
pub(crate) fn link_name(prefixes: &[String], key: &EndpointKey) -> String {
    let prefix = prefixes.first().map_or("lh", String::as_str);
    let digits = format!("{:016x}", hash(key));
    format!("{prefix}{}", &digits[..11.min(15_usize.saturating_sub(prefix.len()))])
}

/// A locally administered MAC address that a workload keeps wherever it runs.
pub(crate) fn workload_mac(key: &EndpointKey) -> Mac {
    let [_, _, _, a, b, c, d, e] = hash(key).to_be_bytes();
    Mac([0x02, a, b, c, d, e])
}

#[cfg(test)]
mod tests {
    use super::*;
    use lasthop_net::IfName;
    use std::collections::BTreeSet;

    #[test]
    fn names_and_addresses_made_from_a_workload_are_stable_and_fit() {
        let key = EndpointKey { namespace: "default".into(), name: "w1".into() };
        let name = link_name(&["lh".into(), "tap".into()], &key);
        assert!(name.parse::<IfName>().is_ok() && name.starts_with("lh") && name.len() == 13, "{name}");
        assert!(link_name(&["averylongprefix".into()], &key).len() <= 15);
        assert!(workload_mac(&key).is_unicast());
        let other = EndpointKey { namespace: "default".into(), name: "w2".into() };
        assert_ne!(workload_mac(&key), workload_mac(&other));
        let many = (0..20_000).map(|n| EndpointKey { namespace: "default".into(), name: format!("w{n}") });
        let (names, macs): (BTreeSet<String>, BTreeSet<Mac>) =
            many.map(|key| (link_name(&["lh".into()], &key), workload_mac(&key))).unzip();
        assert_eq!((names.len(), macs.len()), (20_000, 20_000), "no two share a link name or a MAC address");
    }
}
