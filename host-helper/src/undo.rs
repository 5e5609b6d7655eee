//! Undo by guard: what a step leaves behind is taken back unless the whole succeeds.

/// Undo steps, run in reverse order when this is dropped before [`Undo::commit`].
#[derive(Default)]
pub struct Undo<'a>(Vec<Box<dyn FnOnce() + 'a>>);

impl<'a> Undo<'a> {
    /// Pushes the undo of a step that has just succeeded; it must not fail loudly: gone already is success.
    pub fn push(&mut self, undo: impl FnOnce() + 'a) {
        self.0.push(Box::new(undo));
    }

    /// Pushes what is to be run behind all others.
    pub fn push_last(&mut self, undo: impl FnOnce() + 'a) {
        self.0.insert(0, Box::new(undo));
    }

    /// Everything succeeded: forget the undo steps.
    pub fn commit(mut self) {
        self.0.clear();
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        while let Some(undo) = self.0.pop() {
            undo();
        }
    }
}
