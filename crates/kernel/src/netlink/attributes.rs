//! Reading attributes: every access is bounds-checked, whatever the bytes are.

use super::align;
use std::net::IpAddr;

/// Takes the flags (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`) off an attribute's type.
const TYPE: u16 = 0x3fff;

/// The attributes in some bytes, in order. Ends at the first one that does not fit.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

/// One attribute. Readers give `None` if the payload has not the length asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// The type, without flags.
    pub kind: u16,
    /// The payload, without padding.
    pub payload: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Attributes that begin `fixed` bytes (rounded up) into `bytes`; none if it is shorter.
    #[must_use]
    pub fn after(bytes: &'a [u8], fixed: usize) -> Self {
        Self { rest: bytes.get(align(fixed)..).unwrap_or_default() }
    }

    /// The first attribute of this type.
    #[must_use]
    pub fn get(&self, kind: u16) -> Option<Attribute<'a>> {
        self.clone().find(|attribute| attribute.kind == kind)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let header = self.rest.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE;
        let payload = self.rest.get(4..length)?;
        self.rest = self.rest.get(align(length)..).unwrap_or_default();
        Some(Attribute { kind, payload })
    }
}

impl<'a> Attribute<'a> {
    fn array<const N: usize>(self) -> Option<[u8; N]> {
        self.payload.try_into().ok()
    }

    /// One byte.
    #[must_use]
    pub fn u8(self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes, host order.
    #[must_use]
    pub fn u16(self) -> Option<u16> {
        self.array().map(u16::from_ne_bytes)
    }

    /// Four bytes, host order.
    #[must_use]
    pub fn u32(self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    /// Two bytes, network order.
    #[must_use]
    pub fn u16_be(self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes, network order.
    #[must_use]
    pub fn u32_be(self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes, network order.
    #[must_use]
    pub fn u64_be(self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Text up to the first NUL, if it is UTF-8.
    #[must_use]
    pub fn str(self) -> Option<&'a str> {
        let end = self.payload.iter().position(|byte| *byte == 0).unwrap_or(self.payload.len());
        std::str::from_utf8(&self.payload[..end]).ok()
    }

    /// An address of 4 or 16 bytes.
    #[must_use]
    pub fn ip(self) -> Option<IpAddr> {
        match self.payload.len() {
            4 => self.array::<4>().map(IpAddr::from),
            16 => self.array::<16>().map(IpAddr::from),
            _ => None,
        }
    }

    /// The attributes in the payload.
    #[must_use]
    pub fn nested(self) -> Attributes<'a> {
        Attributes { rest: self.payload }
    }
}
