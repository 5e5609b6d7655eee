//! What the fuzz targets have in common: the rules that the property tests hold too.

#[path = "../../tests/properties/rules/mod.rs"]
pub mod rules;

// init's own parser of its command line, which is in the program and not in the library.
#[path = "../../src/error.rs"]
#[allow(dead_code, reason = "init uses all of it")]
mod error;
#[path = "../../src/machine.rs"]
#[allow(dead_code, reason = "init uses all of it")]
mod machine;
#[path = "../../src/options.rs"]
#[allow(dead_code, reason = "init uses all of it")]
mod options;
#[path = "../../src/peers.rs"]
mod peers;
#[path = "../../tests/properties/sys.rs"]
mod sys;
