//! How `init` is linked for musl: small. Unoptimized or on other targets it is an ordinary program, for tests.

use std::env;
use std::path::Path;

/// For GNU ld and lld alike.
const ARGUMENTS: [&str; 7] = [
    // Where sys.rs begins, without libc's start.
    "--entry=hawser_start",
    "--gc-sections",
    "--build-id=none",
    "--no-eh-frame-hdr",
    // link.ld says what is in which segment; no second look at the writable one.
    "-znoseparate-code",
    "-znorelro",
    // The linker pads up to this much in the file, to save a page of memory that is not saved here.
    "-zcommon-page-size=512",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=link.ld");
    let is = |variable: &str, value: &str| env::var(variable).as_deref() == Ok(value);
    if !is("CARGO_CFG_TARGET_ENV", "musl") || !is("PROFILE", "release") {
        return;
    }
    let manifest = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = Path::new(&manifest).join("link.ld");
    let script = format!("--script={}", script.display());
    // A linker that is called directly takes arguments as they are, a compiler hands them on.
    let linker = env::var("RUSTC_LINKER").unwrap_or_default();
    let prefix = if linker.contains("ld") { "" } else { "-Wl," };
    // A segment begins on a page of its own: they are larger on some machines of ARM's.
    let page_size = if is("CARGO_CFG_TARGET_ARCH", "aarch64") {
        "-zmax-page-size=65536"
    } else {
        "-zmax-page-size=4096"
    };
    for argument in ARGUMENTS
        .iter()
        .copied()
        .chain([page_size, script.as_str()])
    {
        println!("cargo::rustc-link-arg-bin=init={prefix}{argument}");
    }
}
