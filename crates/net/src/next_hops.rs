//! The next hops of a route.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

/// Equal next hops: ascending, each once. Nearly always there is one, which is held in place; several are shared by copies.
#[derive(Clone, Default)]
pub struct NextHops(Held);

#[derive(Clone, Default)]
enum Held {
    #[default]
    None,
    One(IpAddr),
    Several(Arc<[IpAddr]>),
}

impl Deref for NextHops {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        match &self.0 {
            Held::None => &[],
            Held::One(hop) => std::slice::from_ref(hop),
            Held::Several(hops) => hops,
        }
    }
}

impl From<IpAddr> for NextHops {
    fn from(hop: IpAddr) -> Self {
        Self(Held::One(hop))
    }
}

impl FromIterator<IpAddr> for NextHops {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(hops: I) -> Self {
        let mut hops = hops.into_iter();
        let Some(first) = hops.next() else { return Self::default() };
        let Some(second) = hops.next() else { return first.into() };
        let mut all = vec![first, second];
        all.extend(hops);
        all.sort_unstable();
        all.dedup();
        match all[..] {
            [one] => one.into(),
            _ => Self(Held::Several(all.into())),
        }
    }
}

impl PartialEq for NextHops {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for NextHops {}

impl PartialOrd for NextHops {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for NextHops {
    fn cmp(&self, other: &Self) -> Ordering {
        self[..].cmp(&other[..])
    }
}

impl fmt::Debug for NextHops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self[..].fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_repetition_make_no_difference() {
        let hop = |n: u8| IpAddr::from([10, 0, 0, n]);
        let hops = |of: &[u8]| of.iter().map(|n| hop(*n)).collect::<NextHops>();
        assert_eq!(hops(&[]), NextHops::default());
        assert_eq!(hops(&[1, 1, 1]), NextHops::from(hop(1)));
        assert_eq!(hops(&[3, 1, 2, 1]), hops(&[1, 2, 3]));
        assert_eq!(hops(&[3, 1, 2, 1])[..], [hop(1), hop(2), hop(3)]);
        assert!(hops(&[1, 2]) < hops(&[1, 3]) && hops(&[1]) < hops(&[1, 2]) && hops(&[]) < hops(&[1]));
        assert!(size_of::<NextHops>() <= 24);
    }
}
