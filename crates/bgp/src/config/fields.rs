//! What a change of a field does to a session that is up, declared field by field.

/// What a change of a field does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// It takes effect at once; no session is touched.
    Hot,
    /// No session is touched; it takes effect when the session comes up the next time.
    NextSession,
    /// The session cannot go on under it, and is reset (NOTIFICATION 6/6).
    Reset,
}

/// A field that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its name as in the type.
    pub field: &'static str,
    /// What the change does.
    pub effect: Effect,
}

/// Declares the effect of every field of a type. The pattern names them all: a field that was forgotten does not compile.
macro_rules! declare {
    ($type:ident { $($field:ident: $effect:ident),* $(,)? }) => {
        impl $type {
            /// Every field, and what a change of it does.
            pub const FIELDS: &'static [(&'static str, crate::config::Effect)] =
                &[$((stringify!($field), crate::config::Effect::$effect)),*];

            /// The fields in which `new` differs.
            #[must_use]
            pub fn changes(&self, new: &Self) -> Vec<crate::config::Changed> {
                let Self { $($field),* } = self;
                let mut changed = Vec::new();
                $(if *$field != new.$field {
                    let effect = crate::config::Effect::$effect;
                    changed.push(crate::config::Changed { field: stringify!($field), effect });
                })*
                changed
            }
        }
    };
}

pub(super) use declare;
