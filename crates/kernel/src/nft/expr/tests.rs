//! What is written is read.

use super::*;
use proptest::prelude::*;

fn verdict() -> impl Strategy<Value = Verdict> {
    let chain = "[a-z_]{1,12}";
    prop_oneof![
        Just(Verdict::Accept),
        Just(Verdict::Drop),
        Just(Verdict::Continue),
        Just(Verdict::Return),
        chain.prop_map(Verdict::Jump),
        chain.prop_map(Verdict::Goto),
    ]
}

fn expr() -> impl Strategy<Value = Expr> {
    let reg = || prop::sample::select(Reg::ALL.to_vec());
    let base = prop::sample::select(vec![Base::Link, Base::Network, Base::Transport]);
    let key =
        prop::sample::select(vec![Meta::Mark, Meta::InputName, Meta::OutputName, Meta::Protocol, Meta::Transport]);
    let op = prop::sample::select(vec![Compare::Eq, Compare::Ne, Compare::Lt, Compare::Le, Compare::Gt]);
    let find = prop::sample::select(vec![Find::Present, Find::Absent, Find::Verdict, Find::Value(Reg::R2)]);
    let header = prop::sample::select(vec![Header::Extension, Header::Option]);
    let bytes = || prop::collection::vec(any::<u8>(), 1..16);
    prop_oneof![
        (base, 0u32..64, 1u32..16, reg()).prop_map(|(base, offset, len, to)| Expr::Payload { base, offset, len, to }),
        (key.clone(), reg()).prop_map(|(key, to)| Expr::Meta { key, to }),
        (key, reg()).prop_map(|(key, from)| Expr::SetMeta { key, from }),
        Just(Expr::Untrack),
        "[a-z ]{0,20}".prop_map(|prefix| Expr::Note { prefix }),
        reg().prop_map(|to| Expr::CtState { to }),
        (header, any::<u8>(), reg()).prop_map(|(header, number, to)| Expr::HasHeader { header, number, to }),
        (op, reg(), bytes()).prop_map(|(op, from, value)| Expr::Cmp { op, from, value }),
        (reg(), bytes()).prop_map(|(reg, mask)| Expr::Bitwise { reg, xor: mask.clone(), mask }),
        ("[a-z]{1,9}", reg(), find).prop_map(|(set, from, find)| Expr::Lookup { set, from, find }),
        verdict().prop_map(Expr::Verdict),
        Just(Expr::Counter),
        Just(Expr::Masquerade),
        Just(Expr::Reject(Reject::Prohibited)),
        Just(Expr::Reject(Reject::Reset)),
        (any::<u16>(), "[a-z ]{0,20}").prop_map(|(group, prefix)| Expr::Log { group, prefix }),
        (any::<u64>(), any::<u64>(), any::<u32>()).prop_map(|(rate, seconds, burst)| Expr::Limit {
            rate,
            seconds,
            burst
        }),
        "[a-z]{1,9}".prop_map(Expr::CounterNamed),
    ]
}

fn written(expr: &Expr) -> Message {
    let mut message = Message::new(0, 0);
    expr.put(&mut message);
    message
}

fn read(bytes: &[u8]) -> Vec<Expr> {
    Attributes::after(bytes, 0).map(Expr::get).collect()
}

proptest! {
    #[test]
    fn what_is_written_is_read(expr in expr()) {
        prop_assert_eq!(read(written(&expr).payload()), vec![expr]);
    }

    #[test]
    fn no_bytes_make_it_panic(expr in expr(), at in any::<prop::sample::Index>(), byte: u8, cut: prop::sample::Index) {
        let mut bytes = written(&expr).payload().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let cut = cut.index(bytes.len());
        let _ = read(&bytes);
        let _ = read(&bytes[..cut]);
    }
}

#[test]
fn a_field_that_we_do_not_write_makes_it_foreign() {
    for (name, kind) in [("masq", 1), ("payload", 5), ("ct", 3), ("lookup", 9)] {
        let mut message = Message::new(0, 0);
        message.nest(LIST_ELEM, |m| {
            m.put_str(NAME, name);
            m.nest(DATA, |m| {
                m.put_u32_be(kind, 7);
            });
        });
        assert_eq!(read(message.payload()), vec![Expr::Foreign(name.to_owned())], "{name}");
    }
}
