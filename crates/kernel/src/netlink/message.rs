//! Building one message: `struct nlmsghdr`, the family's fixed part, attributes.

use super::align;
use std::net::IpAddr;

/// Length of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
/// Set in the type of an attribute that holds attributes (`NLA_F_NESTED`).
const NESTED: u16 = 1 << 15;

/// A request in the making. Numbers are in host byte order unless the method says `be`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Header (length, sequence and port are filled in when it is sent), fixed part, attributes; aligned.
    bytes: Vec<u8>,
}

impl Message {
    /// A request of type `kind` (`RTM_NEWROUTE`, …) with `NLM_F_*` flags; `NLM_F_REQUEST` is implied.
    #[must_use]
    pub fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Self { bytes }
    }

    /// The family's fixed part (`struct rtmsg`, `struct nfgenmsg`, …), padded.
    #[must_use]
    pub fn fixed(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// An attribute with any payload.
    pub fn put(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        let length = u16::try_from(4 + payload.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&payload[..usize::from(length) - 4]);
        self.pad();
        self
    }

    /// An attribute without payload, true by being there.
    pub fn put_flag(&mut self, kind: u16) -> &mut Self {
        self.put(kind, &[])
    }

    /// One byte.
    pub fn put_u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.put(kind, &[value])
    }

    /// Two bytes, host order.
    pub fn put_u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Four bytes, host order.
    pub fn put_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Two bytes, network order.
    pub fn put_u16_be(&mut self, kind: u16, value: u16) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Four bytes, network order.
    pub fn put_u32_be(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Eight bytes, network order.
    pub fn put_u64_be(&mut self, kind: u16, value: u64) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Text, with the closing NUL.
    pub fn put_str(&mut self, kind: u16, text: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// An address: 4 or 16 bytes.
    pub fn put_ip(&mut self, kind: u16, address: IpAddr) -> &mut Self {
        match address {
            IpAddr::V4(a) => self.put(kind, &a.octets()),
            IpAddr::V6(a) => self.put(kind, &a.octets()),
        }
    }

    /// An attribute that holds what `fill` puts into it.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.nest_raw(kind | NESTED, fill)
    }

    /// As [`Self::nest`], but without marking the type as nested, for the old families that compare types exactly.
    pub fn nest_raw(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Raw bytes inside a [`Self::nest`]: a fixed part (`struct rtnexthop`, `struct ifinfomsg` of a peer), padded.
    pub fn put_fixed(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Overwrites bytes of the fixed part, from its byte `at` on. What lies outside is left alone.
    pub fn set_fixed(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        if let Some(place) = self.bytes.get_mut(HEADER + at..HEADER + at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        self
    }

    /// Type of the message.
    #[must_use]
    pub fn kind(&self) -> u16 {
        u16::from_ne_bytes([self.bytes[4], self.bytes[5]])
    }

    /// What follows the header: the fixed part and the attributes.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }

    /// Length on the wire.
    pub(super) fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the message to a datagram, with its length, sequence number and further flags filled in.
    pub(super) fn append_to(&self, datagram: &mut Vec<u8>, sequence: u32, flags: u16) {
        let start = datagram.len();
        datagram.extend_from_slice(&self.bytes);
        let header = &mut datagram[start..start + HEADER];
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        header[..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([header[6], header[7]]) | flags;
        header[6..8].copy_from_slice(&flags.to_ne_bytes());
        header[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(align(self.bytes.len()), 0);
    }
}
