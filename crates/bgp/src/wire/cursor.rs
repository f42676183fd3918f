//! A copyable reader over received octets. Its offset counts from the start of the message, so a copy is a checkpoint
//! and an error can say where.

/// More octets were needed than there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Short {
    /// Where reading stopped.
    pub(crate) offset: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    /// A reader of `bytes`, the first of which is at `offset` of the message.
    pub(crate) fn new(bytes: &'a [u8], offset: usize) -> Self {
        Self { bytes, offset }
    }

    pub(crate) fn offset(self) -> usize {
        self.offset
    }

    pub(crate) fn len(self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    /// What has not been read yet.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Short> {
        let (head, tail) = self.bytes.split_at_checked(count).ok_or(Short { offset: self.offset })?;
        self.bytes = tail;
        self.offset += count;
        Ok(head)
    }

    /// A reader of the next `count` octets; this one goes on after them.
    pub(crate) fn sub(&mut self, count: usize) -> Result<Self, Short> {
        let offset = self.offset;
        Ok(Self::new(self.take(count)?, offset))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (head, tail) = self.bytes.split_first_chunk::<N>().ok_or(Short { offset: self.offset })?;
        self.bytes = tail;
        self.offset += N;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Short> {
        self.array::<1>().map(|[octet]| octet)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_a_checkpoint_and_offsets_are_absolute() {
        let mut cursor = Cursor::new(&[1, 2, 3, 4, 5], 19);
        let checkpoint = cursor;
        assert_eq!(cursor.u16(), Ok(0x0102));
        assert_eq!(cursor.offset(), 21);
        assert_eq!(checkpoint.offset(), 19);
        let mut inner = cursor.sub(2).unwrap();
        assert_eq!((inner.offset(), inner.u8(), inner.u16()), (21, Ok(3), Err(Short { offset: 22 })));
        assert_eq!((cursor.offset(), cursor.rest()), (23, &[5][..]));
        assert_eq!(cursor.u32(), Err(Short { offset: 23 }));
    }
}
