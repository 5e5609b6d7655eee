//! What holds for any input, as functions that panic where it does not. Two things feed them: the property tests of `make test`, with
//! input that was made up and with the corpus, and the fuzzer of `make fuzz`.

pub mod cmdline;
pub mod grammar;
pub mod message;
pub mod netlink;
pub mod words;

/// Whether a piece is what it should be: a part of the input.
pub fn is_part_of(input: &[u8], piece: &[u8]) -> bool {
    let (all, part) = (input.as_ptr_range(), piece.as_ptr_range());
    piece.is_empty() || (all.start <= part.start && part.end <= all.end)
}
