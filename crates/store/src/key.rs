//! Keys as bytes, in the order in which listings give them: kind, namespace, name, each ended by a zero byte
//! (no name has one).

use lasthop_model::{Key, Kind};

/// The kind as keys write it: no other has the same.
pub(crate) fn kind_name(kind: Kind) -> &'static str {
    kind.name()
}

/// The kind of that name.
pub(crate) fn kind_of(name: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.name() == name)
}

/// Why a key cannot be stored, if it cannot.
pub(crate) fn refuse(key: &Key) -> Option<&'static str> {
    let parts = [key.namespace.as_deref().unwrap_or("-"), &key.name];
    if parts.iter().any(|part| part.is_empty()) {
        Some("its name or namespace is empty")
    } else if parts.iter().any(|part| part.len() > 253) {
        Some("its name or namespace is longer than 253 bytes")
    } else if parts.iter().any(|part| part.bytes().any(|b| b < b' ')) {
        Some("its name or namespace has a control character")
    } else {
        None
    }
}

/// A key as bytes.
pub(crate) fn encode(key: &Key) -> Vec<u8> {
    let mut bytes = prefix(key.kind);
    bytes.extend(key.namespace.as_deref().unwrap_or_default().bytes());
    bytes.push(0);
    bytes.extend(key.name.bytes());
    bytes.push(0);
    bytes
}

/// What all keys of a kind begin with, and no other.
pub(crate) fn prefix(kind: Kind) -> Vec<u8> {
    let mut bytes = kind_name(kind).as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// A key from bytes; `None` if these are not a key of a kind known here.
pub(crate) fn decode(bytes: &[u8]) -> Option<Key> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut parts = text.split('\0');
    let kind = kind_of(parts.next()?)?;
    let namespace = parts.next()?;
    let name = parts.next()?.to_owned();
    (parts.next() == Some("") && parts.next().is_none()).then_some(())?;
    Some(Key { kind, namespace: (!namespace.is_empty()).then(|| namespace.to_owned()), name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_survive_and_keep_their_order(
            a in ("[a-z0-9.-]{1,12}", proptest::option::of("[a-z0-9.-]{1,12}"), 0..Kind::ALL.len()),
            b in ("[a-z0-9.-]{1,12}", proptest::option::of("[a-z0-9.-]{1,12}"), 0..Kind::ALL.len()),
        ) {
            let [a, b] = [a, b].map(|(name, namespace, kind)| Key { kind: Kind::ALL[kind], namespace, name });
            prop_assert_eq!(decode(&encode(&a)), Some(a.clone()));
            let order = |k: &Key| (kind_name(k.kind), k.namespace.clone(), k.name.clone());
            prop_assert_eq!(encode(&a).cmp(&encode(&b)), order(&a).cmp(&order(&b)));
            prop_assert_eq!(encode(&a).starts_with(&prefix(b.kind)), a.kind == b.kind);
        }

        #[test]
        fn bytes_that_are_no_key_are_none(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(key) = decode(&bytes) {
                prop_assert_eq!(encode(&key), bytes);
            }
        }
    }
}
