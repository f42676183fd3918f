//! Kernel settings as keys and values that take little room: every workload link has many of each, held in several tables.

use lasthop_net::IfName;
use std::fmt;

/// A kernel setting. Shown as its path under `/proc/sys`, e.g. `net/ipv4/conf/lh0/proxy_arp`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sysctl {
    /// One of the settings that every workload link has.
    OfLink {
        /// The link.
        link: IfName,
        /// Which.
        knob: Knob,
    },
    /// Any other, by its path.
    Path(Box<str>),
}

/// One of [`KNOBS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Knob(u8);

/// The settings of a workload link: the folder that has one folder a link, and the name in there.
const KNOBS: [(&str, &str); 17] = [
    ("net/ipv4/conf", "proxy_arp"),
    ("net/ipv4/conf", "forwarding"),
    ("net/ipv4/conf", "accept_source_route"),
    ("net/ipv4/conf", "accept_redirects"),
    ("net/ipv4/conf", "send_redirects"),
    ("net/ipv4/conf", "arp_accept"),
    ("net/ipv4/conf", "route_localnet"),
    ("net/ipv4/conf", "rp_filter"),
    ("net/ipv6/conf", "disable_ipv6"),
    ("net/ipv6/conf", "accept_ra"),
    ("net/ipv6/conf", "accept_dad"),
    ("net/ipv6/conf", "forwarding"),
    ("net/ipv6/conf", "proxy_ndp"),
    ("net/ipv6/conf", "accept_redirects"),
    ("net/ipv6/conf", "accept_source_route"),
    ("net/ipv4/neigh", "proxy_delay"),
    ("net/ipv6/neigh", "proxy_delay"),
];

/// Folders that have one folder a link.
const LINK_FOLDERS: [&str; 4] = ["net/ipv4/conf", "net/ipv6/conf", "net/ipv4/neigh", "net/ipv6/neigh"];

impl Knob {
    /// The first in order.
    pub const FIRST: Self = Self(0);

    /// The knob of this folder and name.
    pub(crate) fn named(folder: &str, name: &str) -> Option<Self> {
        let place = KNOBS.iter().position(|knob| *knob == (folder, name))?;
        u8::try_from(place).ok().map(Self)
    }
}

impl Sysctl {
    /// The setting at a path under `/proc/sys`.
    #[must_use]
    pub fn at(path: &str) -> Self {
        let of_link = || {
            let (folder, link, name) = parts(path)?;
            Some(Self::OfLink { link, knob: Knob::named(folder, name)? })
        };
        of_link().unwrap_or_else(|| Self::Path(path.into()))
    }

    /// The link that it is about.
    #[must_use]
    pub fn link(&self) -> Option<IfName> {
        match self {
            Self::OfLink { link, .. } => Some(link.clone()),
            Self::Path(path) => parts(path).map(|(_, link, _)| link),
        }
    }
}

/// Folder, link and name of a link's setting.
fn parts(path: &str) -> Option<(&'static str, IfName, &str)> {
    let within = |folder: &&'static str| Some((*folder, path.strip_prefix(*folder)?.strip_prefix('/')?));
    let (folder, rest) = LINK_FOLDERS.iter().find_map(within)?;
    let (link, name) = rest.split_once('/')?;
    if matches!(link, "all" | "default") {
        return None;
    }
    Some((folder, link.parse().ok()?, name))
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfLink { link, knob } => {
                let (folder, name) = KNOBS.get(usize::from(knob.0)).copied().unwrap_or_default();
                write!(f, "{folder}/{link}/{name}")
            }
            Self::Path(path) => f.write_str(path),
        }
    }
}

/// What a setting is set to. Shown as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SysctlValue {
    /// A number, as most are.
    Number(i32),
    /// Anything else.
    Text(Box<str>),
}

impl From<&str> for SysctlValue {
    fn from(text: &str) -> Self {
        match text.parse::<i32>() {
            // Only what is shown the same again: not `+1`, not `01`.
            Ok(number) if number.to_string() == text => Self::Number(number),
            _ => Self::Text(text.into()),
        }
    }
}

impl fmt::Display for SysctlValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_setting_is_shown_as_its_path_and_tells_its_link() {
        for (path, link) in [
            ("net/ipv4/conf/lh0.1/proxy_arp", Some("lh0.1")),
            ("net/ipv6/neigh/tap0/proxy_delay", Some("tap0")),
            ("net/ipv4/conf/lh0/no_such_knob", Some("lh0")),
            ("net/ipv4/ip_forward", None),
            ("net/ipv6/conf/all/forwarding", None),
            ("net/ipv4/conf/default/rp_filter", None),
            ("net/ipv4/conf/lh0", None),
        ] {
            let setting = Sysctl::at(path);
            assert_eq!(setting.to_string(), path);
            assert_eq!(setting.link().map(|name| name.to_string()).as_deref(), link, "{path}");
        }
    }

    #[test]
    fn a_link_s_settings_take_little_room_and_are_all_known() {
        let link: IfName = "lh0".parse().unwrap();
        let settings = crate::link_sysctls(&link);
        let all: BTreeSet<&Sysctl> = settings.iter().map(|(key, _)| key).collect();
        assert_eq!(all.len(), KNOBS.len());
        assert!(all.iter().all(|key| matches!(key, Sysctl::OfLink { .. }) && Sysctl::at(&key.to_string()) == **key));
        assert!(size_of::<Sysctl>() <= 24 && size_of::<SysctlValue>() <= 16);
    }

    #[test]
    fn a_value_is_shown_as_it_was_read() {
        for text in ["0", "1", "-1", "01", "+1", "4096\t87380\t6291456", "", "2147483648"] {
            assert_eq!(SysctlValue::from(text).to_string(), text);
        }
    }
}
