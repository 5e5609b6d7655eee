//! Puts `init` into `host-helper`: builds it for musl, or takes the one that `HAWSER_INIT` names, and leaves it as
//! `$OUT_DIR/init`. A program that needs an interpreter is refused: it would run here and in no container.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Program header type of the interpreter's path, elf(5).
const PT_INTERP: u32 = 3;

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed=HAWSER_INIT");
    match embed_init() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error=build init: {error}");
            ExitCode::FAILURE
        }
    }
}

fn embed_init() -> Result<()> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let built = match env::var_os("HAWSER_INIT") {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            path
        }
        None => build_init(&out.join("init-target"))?,
    };
    let bytes = fs::read(&built).map_err(|error| format!("read {}: {error}", built.display()))?;
    refuse_interpreter(&bytes).map_err(|error| format!("{}: {error}", built.display()))?;
    fs::write(out.join("init"), bytes)?;
    Ok(())
}

/// Runs a second cargo, in a target directory of its own: the first holds the lock of the usual one.
fn build_init(target_dir: &Path) -> Result<PathBuf> {
    let workspace = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    for input in ["init", "Cargo.toml", "Cargo.lock", ".cargo"] {
        let input = workspace.join(input);
        println!("cargo::rerun-if-changed={}", input.display());
    }
    let target = format!("{}-unknown-linux-musl", variable("CARGO_CFG_TARGET_ARCH")?);
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .args([
            "build",
            "--locked",
            "--package=init",
            "--bin=init",
            "--profile=init",
        ])
        .arg(format!("--target={target}"))
        .arg("--target-dir")
        .arg(target_dir)
        .current_dir(&workspace);
    for (name, _) in env::vars_os() {
        if is_of_outer_build(&name.to_string_lossy()) {
            cargo.env_remove(name);
        }
    }
    if !cargo.status()?.success() {
        return Err(format!(
            "cargo cannot build it for {target}; run `make build`, or `rustup target add {target}`, \
             or set HAWSER_INIT to an init that is built already"
        )
        .into());
    }
    Ok(target_dir.join(target).join("init/init"))
}

/// What the outer cargo and its caller say about `host-helper` must not reach `init`: flags, wrappers (clippy), targets.
fn is_of_outer_build(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "CARGO_MANIFEST_DIR",
        "CARGO_MAKEFLAGS",
    ];
    const PREFIXES: [&str; 5] = [
        "CARGO_CFG_",
        "CARGO_PKG_",
        "CARGO_FEATURE_",
        "CARGO_PROFILE_",
        "CLIPPY_",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Reads the program headers of a 64-bit little-endian ELF file, elf(5).
fn refuse_interpreter(elf: &[u8]) -> Result<()> {
    if elf.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err("not a 64-bit little-endian ELF program".into());
    }
    let start = u64::from_le_bytes(bytes_at(elf, 32)?) as usize;
    let size = u16::from_le_bytes(bytes_at(elf, 54)?) as usize;
    let count = u16::from_le_bytes(bytes_at(elf, 56)?) as usize;
    for index in 0..count {
        if u32::from_le_bytes(bytes_at(elf, start + index * size)?) == PT_INTERP {
            return Err(
                "it has an interpreter, so it is not static; build it with `make build`".into(),
            );
        }
    }
    Ok(())
}

fn bytes_at<const N: usize>(elf: &[u8], offset: usize) -> Result<[u8; N]> {
    let bytes = elf
        .get(offset..offset + N)
        .ok_or("a truncated ELF program")?;
    Ok(bytes.try_into()?)
}

fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|_| format!("{name} is not set; cargo runs this program").into())
}
