//! Who asks: read off the certificate that TLS has verified, or off a unix socket's peer.
//!
//! A certificate of ours has one common name, `node:<name>`, `admin:<name>` or `server:<name>`. Only the subject is
//! read here (RFC 5280 section 4.1); signature, chain, time and key usage were verified before.

use lasthop_model::NodeName;
use std::fmt;

/// Who asks, and so what they may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A host: reads everything, writes its own Node and its own workload endpoints.
    Node(NodeName),
    /// May do everything.
    Admin(String),
    /// May read everything.
    Reader(String),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node:{name}"),
            Self::Admin(name) => write!(f, "admin:{name}"),
            Self::Reader(name) => write!(f, "reader:{name}"),
        }
    }
}

/// Why a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// There is no single common name in it.
    #[error("the certificate has no common name: issue one with `lasthop certs issue`")]
    Unnamed,
    /// The common name is not of ours.
    #[error("the certificate is for '{0}', not for node:<name> or admin:<name>: issue one with `lasthop certs issue`")]
    Unknown(String),
}

impl Identity {
    /// Who a verified certificate is for.
    ///
    /// # Errors
    /// If it is not for a node or an admin.
    pub fn of_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        Self::of_common_name(&common_name(der).ok_or(IdentityError::Unnamed)?)
    }

    fn of_common_name(name: &str) -> Result<Self, IdentityError> {
        let unknown = || IdentityError::Unknown(name.chars().take(80).filter(|c| !c.is_control()).collect());
        match name.split_once(':') {
            Some(("node", node)) => node.parse().map(Self::Node).map_err(|_| unknown()),
            Some(("admin", admin)) if !admin.is_empty() && !admin.contains(char::is_control) => {
                Ok(Self::Admin(admin.to_owned()))
            }
            _ => Err(unknown()),
        }
    }
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
/// id-at-commonName, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// A DER element (ITU-T X.690 section 8.1): tag, contents, what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

fn of(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, contents, rest) = element(bytes)?;
    (found == tag).then_some((contents, rest))
}

/// The only common name of a certificate's subject.
fn common_name(der: &[u8]) -> Option<String> {
    let (certificate, _) = of(SEQUENCE, der)?;
    let (mut fields, _) = of(SEQUENCE, certificate)?;
    if let Some((_, rest)) = of(0xa0, fields) {
        fields = rest; // version
    }
    // Serial number, signature algorithm, issuer, validity.
    for _ in 0..4 {
        fields = element(fields)?.2;
    }
    let (mut subject, _) = of(SEQUENCE, fields)?;
    let mut found = None;
    while !subject.is_empty() {
        let (mut attributes, rest) = of(SET, subject)?;
        subject = rest;
        while !attributes.is_empty() {
            let (attribute, rest) = of(SEQUENCE, attributes)?;
            attributes = rest;
            let (kind, value) = of(OID, attribute)?;
            if kind == COMMON_NAME {
                let (tag, text, _) = element(value)?;
                // UTF8String or PrintableString; and never two names to choose from.
                if ![0x0c, 0x13].contains(&tag) || found.is_some() {
                    return None;
                }
                found = Some(std::str::from_utf8(text).ok()?.to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn certificate(names: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::OrganizationName, "Lasthop");
        for name in names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_common_name_tells_who_asks() {
        let node = Identity::Node("compute-1".parse().unwrap());
        assert_eq!(Identity::of_certificate(&certificate(&["node:compute-1"])), Ok(node));
        assert_eq!(Identity::of_certificate(&certificate(&["admin:eve"])), Ok(Identity::Admin("eve".into())));
        assert_eq!(Identity::of_certificate(&certificate(&[])), Err(IdentityError::Unnamed));
        for name in ["server:a", "node:", "node:A", "admin:", "root", "node:a/../b", "reader:x", "NODE:a"] {
            let error = Identity::of_certificate(&certificate(&[name])).unwrap_err();
            assert_eq!(error, IdentityError::Unknown(name.into()), "{name}");
        }
        let long = "x".repeat(300);
        assert!(Identity::of_certificate(&certificate(&[&long])).unwrap_err().to_string().len() < 250);
    }

    proptest! {
        #[test]
        fn a_damaged_certificate_never_panics(at in 0..1000usize, byte: u8, cut in 0..1000usize) {
            let mut der = certificate(&["node:compute-1"]);
            let length = der.len();
            der[at % length] = byte;
            let _ = Identity::of_certificate(&der[..cut % length]);
            let _ = Identity::of_certificate(&der);
        }
    }
}
