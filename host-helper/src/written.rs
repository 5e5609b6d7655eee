//! A file of a container that is written from outside.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::sys;

/// A file of the container's that we have written.
pub struct Written {
    file: File,
    text: String,
}

impl AsFd for Written {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Written {
    /// `text` is what it holds.
    pub fn new(file: File, text: String) -> Self {
        Written { file, text }
    }

    /// Replaces it in place, unless the container has changed it.
    ///
    /// In one write, which a shorter text fills with empty lines: whoever reads meanwhile finds no old line's end in
    /// it, and never an empty file, as a truncation before would leave. Room for a longer text is made before, or none of it is
    /// written: a full file system would take its beginning.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn write(&mut self, text: String) -> io::Result<()> {
        if text == self.text || !self.is_ours()? {
            return Ok(());
        }
        let old = self.text.len();
        if old < text.len() {
            let (kept, length) = (FallocateFlags::FALLOC_FL_KEEP_SIZE, text.len());
            let length = libc::off_t::try_from(length).unwrap_or(libc::off_t::MAX);
            match sys::again(|| fallocate(&self.file, kept, 0, length)) {
                // Not every file system makes room ahead.
                Err(Errno::EOPNOTSUPP) => {}
                made => made?,
            }
        }
        let mut bytes = text.clone().into_bytes();
        bytes.resize(old.max(text.len()), b'\n');
        self.file.write_all_at(&bytes, 0)?;
        if old > text.len() {
            self.file.set_len(text.len() as u64)?;
        }
        self.text = text;
        Ok(())
    }

    fn is_ours(&self) -> io::Result<bool> {
        if self.file.metadata()?.len() != self.text.len() as u64 {
            return Ok(false);
        }
        let mut now = vec![0; self.text.len()];
        self.file.read_exact_at(&mut now, 0)?;
        Ok(now == self.text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_in_place_until_somebody_else_has_written_it() {
        let path = std::env::temp_dir().join(format!("hawser-written-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut written = Written::new(file, String::new());
        for text in ["a longer line\n", "short\n", "", "a line\n"] {
            written.write(text.to_string()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        std::fs::write(&path, "theirs\n").unwrap();
        written.write("ours\n".to_string()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs\n");
        std::fs::remove_file(path).unwrap();
    }
}
