//! The words behind options, read: each function is a value parser, whose error is the cause in a sentence of clap's.

#![allow(missing_docs, reason = "each reads what its name says")]

use std::env::VarError;
use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::path::{Component, PathBuf};

use crate::link;
use crate::request::{NetworkChoice, check_name};
use crate::rootfs::Volume;

pub fn no_utf8(words: &[OsString]) -> String {
    let mut bad = words.iter().filter(|word| word.to_str().is_none());
    let word = bad.next().map_or(OsStr::new(""), OsString::as_os_str);
    format!("read the command line: {word:?}: it is no UTF-8; see --help")
}

pub fn parse_network(text: &str) -> Result<NetworkChoice, String> {
    match text.split_once(':') {
        None => match text {
            "bridge" => Ok(NetworkChoice::Bridge),
            "ptp" => Ok(NetworkChoice::PointToPoint),
            "none" => Ok(NetworkChoice::None),
            "host" => Ok(NetworkChoice::Host),
            _ => Err("not one of bridge, ptp, none, host, container:NAME, ns:PATH".into()),
        },
        Some(("container", name)) => {
            check_name(name).map(|()| NetworkChoice::Container(name.into()))
        }
        Some(("ns", path)) if !path.is_empty() => Ok(NetworkChoice::Path(path.into())),
        Some(_) => Err("not one of bridge, ptp, none, host, container:NAME, ns:PATH".into()),
    }
}

pub fn parse_connect(text: &str) -> Result<String, String> {
    let is_plain = |b: u8| b.is_ascii_graphic() && b != b'/';
    let is_link = !text.is_empty() && text.len() < libc::IFNAMSIZ && text.bytes().all(is_plain);
    let is_subnet = text
        .parse::<ipnet::Ipv4Net>()
        .is_ok_and(|net| net.addr() == net.network());
    if is_link || is_subnet {
        return Ok(text.to_string());
    }
    Err("not a network: write a bridge's name, ptp, or a point-to-point network's subnet".into())
}

pub fn parse_interface(name: &str) -> Result<String, String> {
    link::check_name(name).map(|()| name.to_string())
}

pub fn parse_absolute(path: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    if path.is_absolute() && path.file_name().is_some() {
        return Ok(path);
    }
    Err("not an absolute path: where a hook is called is its runtime's choice".into())
}

pub fn parse_name(name: &str) -> Result<String, String> {
    check_name(name).map(|()| name.to_string())
}

pub fn parse_volume(text: &str) -> Result<Volume, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, is_read_only) = match parts[..] {
        ["", ..] => return Err("it names nothing of the host".into()),
        [source, destination] | [source, destination, "rw"] => (source, destination, false),
        [source, destination, "ro"] => (source, destination, true),
        _ => return Err("write it as /on/the/host:/inside, with :ro or :rw behind it".into()),
    };
    let source = PathBuf::from(source)
        .canonicalize()
        .map_err(|error| format!("{source}: {}", crate::error::Refusal::from(error)))?;
    Ok(Volume {
        source,
        destination: parse_inside(destination)?,
        is_read_only,
    })
}

pub fn parse_inside(path: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    let is_root = path.components().count() < 2;
    let leads_up = path.components().any(|part| part == Component::ParentDir);
    if !path.is_absolute() || is_root || leads_up {
        return Err("a place inside is an absolute path without .., and not /".into());
    }
    // What other tools take options behind: it would be a directory of that name.
    if path.as_os_str().as_encoded_bytes().contains(&b':') {
        return Err("a place inside has no : and no options behind it".into());
    }
    Ok(path)
}

pub fn parse_workdir(path: &str) -> Result<String, String> {
    const LONGEST: usize = 4095; // PATH_MAX - 1, linux/limits.h
    if !path.starts_with('/') {
        return Err("a working directory is an absolute path".into());
    }
    if path.len() > LONGEST {
        return Err(format!(
            "it is longer than the {LONGEST} bytes that a path may have"
        ));
    }
    // Init's message takes no others.
    if path.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
        return Err("it holds a control character (a CR of a script with CRLF?), which cannot be passed to init: name it without, or rename the directory".into());
    }
    // In init's message a line ends with its last word.
    if path.ends_with([' ', '\t']) {
        return Err("it ends in a blank, which is lost on the way to init: name it without, or rename the directory".into());
    }
    Ok(path.into())
}

pub fn parse_variable(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("", _)) => Err("a variable has a name".into()),
        Some(_) => Ok(text.into()),
        None if text.is_empty() => Err("a variable has a name".into()),
        None => std::env::var(text)
            .map(|value| format!("{text}={value}"))
            .map_err(|error| match error {
                VarError::NotPresent => "not set here; give it a value with =".into(),
                VarError::NotUnicode(_) => {
                    "its value here is no UTF-8; give it another with =".into()
                }
            }),
    }
}

pub fn parse_hostname(text: &str) -> Result<String, String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let is_name = !text.is_empty() && text.len() <= 64 && text.bytes().all(is_plain);
    if is_name {
        Ok(text.into())
    } else {
        Err("a host name has 1 to 64 letters, digits, - . _".into())
    }
}

/// A word of resolv.conf, where `#` and `;` begin a comment.
pub fn parse_word(text: &str) -> Result<String, String> {
    let is_plain = |b: u8| b.is_ascii_graphic() && b != b'#' && b != b';';
    if !text.is_empty() && text.bytes().all(is_plain) {
        Ok(text.into())
    } else {
        Err("one word of ASCII without blanks, # and ;".into())
    }
}

pub fn parse_host(text: &str) -> Result<(IpAddr, String), String> {
    let (name, address) = text.split_once(':').ok_or("write it as NAME:ADDR")?;
    let address = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    let address = address
        .parse()
        .map_err(|_| format!("{address}: not an address"))?;
    Ok((address, parse_hostname(name)?))
}

pub fn parse_sysctl(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("write it as net.ipv4.ip_forward=1")?;
    let path = key.replace('.', "/");
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'/');
    if !path.starts_with("net/")
        || path.split('/').any(str::is_empty)
        || !path.bytes().all(is_plain)
    {
        return Err("only switches of the container's own network can be set: net.*".into());
    }
    if value.is_empty() {
        return Err("it has no value: the kernel would take that, and change nothing".into());
    }
    Ok((path, value.into()))
}

pub fn parse_capability(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_prefix("cap_").unwrap_or(&lower);
    if name == "all" || hawser::capability::Capability::from_name(name).is_some() {
        return Ok(name.into());
    }
    Err("unknown capability; capabilities(7) lists them, written net_raw or CAP_NET_RAW".into())
}
