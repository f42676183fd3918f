//! Kernel settings that we keep, and what they were before, so that they can be put back.
//!
//! A former value is recorded before a setting is first changed, in a file of one line a setting that only grows
//! (and is tidied up when opened). It belongs under /run: settings do not outlive a reboot either.

use crate::netlink::Received;
use crate::reconcile::{Plan, Table};
use crate::{Error, sysctl};
use lasthop_compute::{Knob, Sysctl, SysctlValue};
use lasthop_net::IfName;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Length of `struct netconfmsg`, padded.
const NETCONFMSG: usize = 4;
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
const NETCONFA_RP_FILTER: u16 = 3;
const NETCONFA_PROXY_NEIGH: u16 = 5;

/// The settings we keep.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Where former values are recorded; `None` keeps them in memory only.
    record: Option<PathBuf>,
    /// What settings were before we changed them.
    former: BTreeMap<Sysctl, SysctlValue>,
    /// Settings to read, whether we changed them or found them right.
    kept: BTreeSet<Sysctl>,
}

/// What a setting is now; `None` if there is none of this name, e.g. because its link is absent.
pub(crate) fn read(setting: &Sysctl) -> Result<Option<SysctlValue>, Error> {
    Ok(sysctl::read(&setting.to_string())?.map(|text| text.as_str().into()))
}

/// Settings among `of` that are about a link.
pub(crate) fn of_link<V>(of: &BTreeMap<Sysctl, V>, link: &IfName) -> Vec<Sysctl> {
    let first = Sysctl::OfLink { link: link.clone(), knob: Knob::FIRST };
    let is_its = |key: &&Sysctl| matches!(key, Sysctl::OfLink { link: other, .. } if other == link);
    let known = of.range(first..).map(|(key, _)| key).take_while(is_its);
    // Those that are known by their path alone are few.
    let others = of.range(Sysctl::Path(Box::default())..).map(|(key, _)| key);
    known.chain(others.filter(|key| key.link().as_ref() == Some(link))).cloned().collect()
}

/// Reads an `RTM_NEWNETCONF`: the link's index (negative: all, default), and what its settings are.
pub(crate) fn parse_netconf(message: Received<'_>) -> Option<(i32, Vec<(&'static str, SysctlValue)>)> {
    let &[family] = message.fixed::<1>()?;
    let names: &[(u16, &'static str)] = match i32::from(family) {
        libc::AF_INET => &[
            (NETCONFA_FORWARDING, "net/ipv4/conf/*/forwarding"),
            (NETCONFA_RP_FILTER, "net/ipv4/conf/*/rp_filter"),
            (NETCONFA_PROXY_NEIGH, "net/ipv4/conf/*/proxy_arp"),
        ],
        libc::AF_INET6 => {
            &[(NETCONFA_FORWARDING, "net/ipv6/conf/*/forwarding"), (NETCONFA_PROXY_NEIGH, "net/ipv6/conf/*/proxy_ndp")]
        }
        _ => return None,
    };
    let attributes = message.attributes(NETCONFMSG);
    let number = |kind| attributes.get(kind).and_then(|a| a.u32()).map(u32::cast_signed);
    let values = names.iter().filter_map(|(kind, name)| Some((*name, SysctlValue::Number(number(*kind)?)))).collect();
    Some((number(NETCONFA_IFINDEX)?, values))
}

impl Settings {
    /// Reads what was recorded.
    pub(crate) fn open(record: Option<&Path>) -> Result<Self, Error> {
        let mut former = BTreeMap::new();
        if let Some(path) = record {
            match std::fs::read_to_string(path) {
                Ok(text) => former.extend(text.lines().filter_map(parse_line)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(format!("read {}", path.display()), &error)),
            }
        }
        Ok(Self { record: record.map(Path::to_owned), former, kept: BTreeSet::new() })
    }

    /// Has this setting read from now on; its value, or `None` if there is no such setting now.
    pub(crate) fn keep(&mut self, setting: &Sysctl) -> Result<Option<SysctlValue>, Error> {
        self.kept.insert(setting.clone());
        read(setting)
    }

    /// The link is gone, its settings with it.
    pub(crate) fn forget_link(&mut self, link: &IfName) {
        for setting in of_link(&self.former, link) {
            self.former.remove(&setting);
        }
    }

    /// Writes the record anew without what is no longer of use.
    pub(crate) fn tidy(&self) -> Result<(), Error> {
        let Some(path) = &self.record else { return Ok(()) };
        let failed = |error: std::io::Error| Error::io(format!("write {}", path.display()), &error);
        if self.former.is_empty() {
            return match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            };
        }
        let new = path.with_extension("new");
        let text: String = self.former.iter().map(line).collect();
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path)).map_err(failed)
    }

    /// Records what settings are before they are changed: as known, or as read.
    fn remember(
        &mut self,
        settings: &[(Sysctl, SysctlValue)],
        actual: &BTreeMap<Sysctl, SysctlValue>,
    ) -> Result<(), Error> {
        let mut lines = String::new();
        for (setting, _) in settings {
            if self.former.contains_key(setting) {
                continue;
            }
            let known = actual.get(setting).cloned();
            if let Some(value) = known.map_or_else(|| read(setting), |value| Ok(Some(value)))? {
                lines.push_str(&line((setting, &value)));
                self.former.insert(setting.clone(), value);
            }
        }
        let Some(path) = self.record.as_ref().filter(|_| !lines.is_empty()) else { return Ok(()) };
        let append = || File::options().append(true).create(true).open(path)?.write_all(lines.as_bytes());
        append().map_err(|error| Error::io(format!("write {}", path.display()), &error))
    }

    fn restore(&mut self, setting: &Sysctl) -> Result<(), Error> {
        self.kept.remove(setting);
        if let Some(value) = self.former.get(setting) {
            sysctl::write_if_present(&setting.to_string(), &value.to_string())?;
            self.former.remove(setting);
        }
        Ok(())
    }
}

fn line((setting, value): (&Sysctl, &SysctlValue)) -> String {
    format!("{setting}={value}\n")
}

fn parse_line(line: &str) -> Option<(Sysctl, SysctlValue)> {
    let (setting, value) = line.split_once('=')?;
    Some((Sysctl::at(setting), value.into()))
}

/// Settings of the whole host come first: the kernel spreads some of them over all links.
fn rank(setting: &Sysctl) -> u8 {
    match setting {
        setting if setting.link().is_some() => 2,
        Sysctl::Path(path) if path.contains("/conf/") => 1,
        _ => 0,
    }
}

impl Table for Settings {
    type Key = Sysctl;
    type Value = SysctlValue;

    fn read_back(&mut self) -> Result<BTreeMap<Sysctl, SysctlValue>, Error> {
        let mut actual = BTreeMap::new();
        let keys: BTreeSet<Sysctl> = self.kept.iter().chain(self.former.keys()).cloned().collect();
        for setting in keys {
            match read(&setting)? {
                Some(value) => {
                    actual.insert(setting, value);
                }
                None => {
                    self.former.remove(&setting);
                }
            }
        }
        Ok(actual)
    }

    fn write(
        &mut self,
        plan: &Plan<Sysctl, SysctlValue>,
        actual: &BTreeMap<Sysctl, SysctlValue>,
    ) -> Vec<(Sysctl, Result<(), Error>)> {
        let mut results: Vec<(Sysctl, Result<(), Error>)> =
            plan.remove.iter().map(|setting| (setting.clone(), self.restore(setting))).collect();
        if let Err(error) = self.remember(&plan.upsert, actual) {
            // Without a record of what it was nothing is changed.
            results.extend(plan.upsert.iter().map(|(setting, _)| (setting.clone(), Err(error.clone()))));
            return results;
        }
        let mut order: Vec<&(Sysctl, SysctlValue)> = plan.upsert.iter().collect();
        order.sort_by_key(|(setting, _)| rank(setting));
        results.extend(order.into_iter().map(|(setting, value)| {
            self.kept.insert(setting.clone());
            (setting.clone(), sysctl::write(&setting.to_string(), &value.to_string()))
        }));
        results
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_a_link_are_found_known_or_not() {
        let keys = [
            "net/ipv4/conf/lh1/forwarding",
            "net/ipv4/conf/lh10/forwarding",
            "net/ipv6/conf/lh1/former_knob",
            "net/ipv6/neigh/lh1/proxy_delay",
            "net/ipv4/ip_forward",
        ];
        let map: BTreeMap<Sysctl, ()> = keys.iter().map(|key| (Sysctl::at(key), ())).collect();
        let of: BTreeSet<String> = of_link(&map, &"lh1".parse().unwrap()).iter().map(ToString::to_string).collect();
        assert_eq!(of, BTreeSet::from([keys[0], keys[2], keys[3]].map(str::to_owned)));
    }
}
