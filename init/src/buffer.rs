//! Bytes put one behind another into a space that the caller owns: requests, files, paths, sentences.

/// A growing piece of a fixed space. Nothing is written past it: what does not fit is noticed at the end.
pub struct Buffer<'a> {
    space: &'a mut [u8],
    len: usize,
    overflow: bool,
}

impl<'a> Buffer<'a> {
    /// An empty one in `space`.
    pub fn new(space: &'a mut [u8]) -> Self {
        Buffer {
            space,
            len: 0,
            overflow: false,
        }
    }

    /// What was put so far.
    pub fn bytes(&self) -> &[u8] {
        self.space.get(..self.len).unwrap_or(&[])
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True before the first byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends.
    #[inline(never)]
    pub fn put(&mut self, data: &[u8]) {
        let end = self.len + data.len();
        match self.space.get_mut(self.len..end) {
            Some(space) if !self.overflow => {
                space.copy_from_slice(data);
                self.len = end;
            }
            _ => self.overflow = true,
        }
    }

    /// Writes over what is there.
    #[inline(never)]
    pub fn patch(&mut self, at: usize, data: &[u8]) {
        if let Some(space) = self.space.get_mut(at..at + data.len()) {
            space.copy_from_slice(data);
        }
    }

    /// What was put, or `None` when something did not fit.
    pub fn finish(self) -> Option<&'a [u8]> {
        let Buffer {
            space,
            len,
            overflow,
        } = self;
        if overflow { None } else { space.get(..len) }
    }
}
