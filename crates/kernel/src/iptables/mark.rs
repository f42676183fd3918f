//! The three bits of the packet mark in which a verdict is kept while chains return.
//!
//! iptables has no verdict that ends only our chains, and a chain that is called returns to its caller, whatever it found. So
//! a program notes `allowed` or `pass` in the mark and returns; its callers look. Both are cleared before the next stack and
//! before a packet leaves us. `settled` lives from the raw or mangle table to the filter table: policy before connection
//! tracking or DNAT has allowed the packet, and it meets no further policy of the host's interfaces.

use super::Error;
use super::rule::{Rule, Target};

/// Our bits of the packet mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask {
    allowed: u32,
    pass: u32,
    settled: u32,
}

impl Default for Mask {
    /// Bits 25 to 27, which neither kube-proxy (14, 15), nor Tailscale (16 to 23), nor the incumbent's first bits (16 to 20) use.
    fn default() -> Self {
        Self { allowed: 1 << 25, pass: 1 << 26, settled: 1 << 27 }
    }
}

impl Mask {
    /// The three lowest bits of `bits`.
    pub fn new(bits: u32) -> Result<Self, Error> {
        let mut rest = bits;
        let mut lowest = || {
            let bit = rest & rest.wrapping_neg();
            rest &= !bit;
            bit
        };
        let mask = Self { allowed: lowest(), pass: lowest(), settled: lowest() };
        if mask.settled == 0 {
            return Err(Error::Invalid(format!("mark mask {bits:#x} has fewer than 3 bits: give e.g. 0xe000000")));
        }
        Ok(mask)
    }

    fn verdict(self) -> u32 {
        self.allowed | self.pass
    }

    fn all(self) -> u32 {
        self.verdict() | self.settled
    }

    fn set(value: u32, mask: u32) -> Target {
        Target::Other(format!("MARK --set-xmark {value:#x}/{mask:#x}"))
    }

    fn is(value: u32, mask: u32) -> String {
        format!(" -m mark --mark {value:#x}/{mask:#x}")
    }

    /// Notes that the packet is allowed.
    pub(super) fn allow(self) -> Target {
        Self::set(self.allowed, self.verdict())
    }

    /// Notes that the rest of the step is skipped.
    pub(super) fn pass(self) -> Target {
        Self::set(self.pass, self.verdict())
    }

    /// Notes that no further policy of interfaces is asked.
    pub(super) fn settle(self) -> Target {
        Self::set(self.settled, self.all())
    }

    /// Forgets `pass`.
    pub(super) fn unpass(self) -> Target {
        Self::set(0, self.pass)
    }

    /// Forgets the verdict.
    pub(super) fn unjudge(self) -> Target {
        Self::set(0, self.verdict())
    }

    /// Forgets all of ours.
    pub(super) fn clear_rule(self) -> Rule {
        Rule::new("-", "", Self::set(0, self.all()))
    }

    pub(super) fn is_allowed(self) -> String {
        Self::is(self.allowed, self.allowed)
    }

    pub(super) fn is_passed(self) -> String {
        Self::is(self.pass, self.pass)
    }

    /// Allowed or passed.
    pub(super) fn is_judged(self) -> String {
        format!(" -m mark ! --mark 0x0/{:#x}", self.verdict())
    }

    pub(super) fn is_settled(self) -> String {
        Self::is(self.settled, self.settled)
    }

    pub(super) fn is_not_settled(self) -> String {
        format!(" -m mark ! --mark {0:#x}/{0:#x}", self.settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_gives_its_three_lowest_bits_or_says_what_is_missing() {
        assert_eq!(Mask::new(0xe00_0000).expect("three bits"), Mask::default());
        assert_eq!(Mask::new(0xf0f0).expect("more than three").all(), 0x70);
        for few in [0, 1, 0x8001] {
            let error = Mask::new(few).expect_err("too few").to_string();
            assert!(error.contains("fewer than 3 bits"), "{error}");
        }
    }
}
