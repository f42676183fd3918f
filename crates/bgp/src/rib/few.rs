//! A list that mostly has one element, which is held in place.

use std::mem;
use std::ops::{Deref, DerefMut};

/// None, one or several.
#[derive(Clone, Debug, Default)]
pub(crate) enum Few<T> {
    #[default]
    None,
    One(T),
    /// Two or more. The box keeps the common case small.
    #[expect(clippy::box_collection, reason = "a bare Vec would make each of a million lists 16 octets larger")]
    Several(Box<Vec<T>>),
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(all) => all,
        }
    }
}

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::None => &mut [],
            Self::One(one) => std::slice::from_mut(one),
            Self::Several(all) => all,
        }
    }
}

impl<T> Few<T> {
    pub(crate) fn push(&mut self, value: T) {
        *self = match mem::take(self) {
            Self::None => Self::One(value),
            Self::One(one) => Self::Several(Box::new(vec![one, value])),
            Self::Several(mut all) => {
                all.push(value);
                Self::Several(all)
            }
        };
    }

    /// Takes one out; the last one takes its place.
    pub(crate) fn swap_remove(&mut self, place: usize) -> Option<T> {
        match mem::take(self) {
            Self::One(one) if place == 0 => Some(one),
            Self::Several(mut all) if place < all.len() => {
                let gone = all.swap_remove(place);
                *self = match all.len() {
                    1 => all.pop().map_or(Self::None, Self::One),
                    _ => Self::Several(all),
                };
                Some(gone)
            }
            other => {
                *self = other;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_list() {
        let mut few = Few::default();
        assert_eq!(few.swap_remove(0), None);
        for value in 1..=3 {
            few.push(value);
        }
        assert_eq!(few[..], [1, 2, 3]);
        assert_eq!(few.swap_remove(3), None);
        assert_eq!(few.swap_remove(0), Some(1));
        assert_eq!(few[..], [3, 2]);
        few[1] = 7;
        assert_eq!(few.swap_remove(0), Some(3));
        assert!(matches!(few, Few::One(7)));
        assert_eq!((few.swap_remove(0), few.len()), (Some(7), 0));
    }
}
