//! docs/protocol.md a second time, written for clarity and with the standard library's parsers: what the reader is held against.

use std::net::IpAddr;

/// Bytes at most.
const LIMIT: usize = 16 * 1024;

/// What the manual says about some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They begin with a message of so many bytes, which says these facts: the number of the line, and the line as it would be written.
    Message(usize, Vec<(usize, String)>),
    /// They are allowed so far, and `end` has not come.
    Unfinished,
    /// They are forbidden.
    Forbidden,
}

/// Judges the bytes.
pub fn judge(bytes: &[u8]) -> Verdict {
    let mut lines: Vec<&[u8]> = bytes[..bytes.len().min(LIMIT)]
        .split(|&byte| byte == b'\n')
        .collect();
    // What has no newline behind it is no line.
    lines.pop();
    let mut facts: Vec<(usize, String)> = Vec::new();
    let mut len = 0;
    for (number, line) in (1..).zip(lines) {
        len += line.len() + 1;
        let words: Vec<&[u8]> = line
            .split(|byte| b" \t".contains(byte))
            .filter(|word| !word.is_empty())
            .collect();
        match &words[..] {
            [b"hawser", b"1"] if number == 1 => {}
            _ if number == 1 => return Verdict::Forbidden,
            [b"end"] => return Verdict::Message(len, facts),
            _ => match judge_line(line, &words) {
                Some(fact) if fact.is_empty() => {}
                Some(fact) if is_allowed_behind(&fact, &facts) => facts.push((number, fact)),
                _ => return Verdict::Forbidden,
            },
        }
    }
    if bytes.len() > LIMIT {
        Verdict::Forbidden
    } else {
        Verdict::Unfinished
    }
}

/// Whether what a line says contradicts what earlier ones have said.
fn is_allowed_behind(fact: &str, facts: &[(usize, String)]) -> bool {
    let keyword = |line: &str| line.split(' ').next().unwrap_or("").to_owned();
    let has = |word: &str| facts.iter().any(|(_, earlier)| keyword(earlier) == word);
    let has_none = facts
        .iter()
        .any(|(_, earlier)| earlier == "capability none");
    match keyword(fact).as_str() {
        "link" => !has("no-links"),
        "no-links" => !has("link") && !has("no-links"),
        "address" | "neighbour" | "route" => has("link"),
        "capability" if fact == "capability none" => !has("capability") && !has("ambient"),
        "capability" | "ambient" => !has_none,
        word @ ("search" | "hostname" | "user" | "groups" | "workdir" | "no-new-privileges") => {
            !has(word)
        }
        _ => true,
    }
}

/// What a line says, empty when it says nothing. `None`: it is forbidden wherever it stands.
fn judge_line(line: &[u8], words: &[&[u8]]) -> Option<String> {
    if line
        .iter()
        .any(|&byte| (byte < 32 && byte != b'\t') || byte == 127)
    {
        return None;
    }
    let [keyword, values @ ..] = words else {
        return Some(String::new());
    };
    if keyword[0] == b'#' {
        return Some(String::new());
    }
    if *keyword == b"workdir" {
        return judge_workdir(line);
    }
    let keyword = ascii(keyword)?;
    let values = values
        .iter()
        .map(|word| ascii(word))
        .collect::<Option<Vec<&str>>>()?;
    let fact = match (keyword, &values[..]) {
        ("no-links" | "no-new-privileges", []) => String::new(),
        ("link", [name]) if is_link_name(name) => format!(" {name}"),
        ("link", [name, "mtu", mtu])
            if is_link_name(name) && (68..=65536).contains(&number(mtu)?) =>
        {
            format!(" {name} mtu {mtu}")
        }
        ("address", [word]) => {
            let (address, len) = prefix(word)?;
            format!(" {}/{len}", machine(address)?)
        }
        ("neighbour", [word, mac]) => {
            format!(" {} {}", machine(word.parse().ok()?)?, hardware(mac)?)
        }
        ("route", ["default", "via", by]) => format!(" default via {}", machine(by.parse().ok()?)?),
        ("route", [word, "via", by]) => {
            let (destination, len) = network(word)?;
            let by = machine(by.parse().ok()?)?;
            let written = if len == 0 {
                "default".to_owned()
            } else {
                format!("{destination}/{len}")
            };
            (by.is_ipv4() == destination.is_ipv4()).then(|| format!(" {written} via {by}"))?
        }
        ("route", [word, "onlink"]) => {
            let (destination, len) = network(word)?;
            format!(" {destination}/{len} onlink")
        }
        ("nameserver", [word]) => format!(" {}", word.parse::<IpAddr>().ok()?),
        ("host", [word, names @ ..]) => {
            format!(" {} {}", word.parse::<IpAddr>().ok()?, all_names(names)?)
        }
        ("search" | "option", names) => format!(" {}", all_names(names)?),
        ("hostname", [name]) if name.len() <= 64 => format!(" {}", all_names(&[name])?),
        ("user", [word]) => {
            let (uid, gid) = word.split_once(':')?;
            format!(" {}:{}", id(uid)?, id(gid)?)
        }
        ("groups", [word]) => {
            let ids = word.split(',').map(id).collect::<Option<Vec<u32>>>()?;
            (ids.len() <= 256).then(|| format!(" {word}"))?
        }
        ("capability", ["none"]) => " none".to_owned(),
        ("ambient", [name]) if capabilities().any(|known| known == *name) => format!(" {name}"),
        ("capability", [word]) => match capability_set(word)? {
            0 => " none".to_owned(),
            set => match capabilities().enumerate().find(|(at, _)| 1 << at == set) {
                Some((_, name)) => format!(" {name}"),
                None => format!(" {set:#x}"),
            },
        },
        _ => return None,
    };
    Some(format!("{keyword}{fact}"))
}

/// A capability by its name, or a set of them in hexadecimal.
fn capability_set(word: &str) -> Option<u64> {
    let Some(digits) = word.strip_prefix("0x") else {
        let number = capabilities().position(|known| known == word)?;
        return Some(1 << number);
    };
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    (is_hex && digits.len() <= 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// All behind the word is the path: it may have blanks in it.
fn judge_workdir(line: &[u8]) -> Option<String> {
    let blank = |byte: &&u8| b" \t".contains(byte);
    let start = line.iter().take_while(blank).count() + "workdir".len();
    let path = &line[start..];
    let path = &path[path.iter().take_while(blank).count()..];
    let path = &path[..path.len() - path.iter().rev().take_while(blank).count()];
    (path.starts_with(b"/") && path.len() <= 4095)
        .then(|| format!("workdir {}", String::from_utf8_lossy(path)))
}

fn ascii(word: &[u8]) -> Option<&str> {
    std::str::from_utf8(word)
        .ok()
        .filter(|text| text.is_ascii())
}

fn is_link_name(name: &str) -> bool {
    name.len() <= 15 && !name.contains(['/', ':']) && name != "." && name != ".."
}

fn all_names(names: &[&str]) -> Option<String> {
    let is_right = !names.is_empty() && names.iter().all(|name| !name.contains(['#', ';']));
    is_right.then(|| names.join(" "))
}

/// Decimal, without a sign and without leading zeros.
fn number(word: &str) -> Option<u32> {
    word.parse()
        .ok()
        .filter(|number: &u32| number.to_string() == word)
}

fn id(word: &str) -> Option<u32> {
    number(word).filter(|&id| id <= 4294967294)
}

fn prefix(word: &str) -> Option<(IpAddr, u32)> {
    let (address, len) = word.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let len = number(len)?;
    (len <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, len))
}

/// A prefix without a bit behind it.
fn network(word: &str) -> Option<(IpAddr, u32)> {
    let (address, len) = prefix(word)?;
    let behind = match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4).checked_shl(len).unwrap_or(0)),
        IpAddr::V6(v6) => u128::from(v6).checked_shl(len).unwrap_or(0),
    };
    (behind == 0).then_some((address, len))
}

/// An address that a machine can have.
fn machine(address: IpAddr) -> Option<IpAddr> {
    let is_broadcast = match address {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(v6) => u128::from(v6) == u128::MAX,
    };
    (!address.is_unspecified() && !address.is_multicast() && !is_broadcast).then_some(address)
}

fn hardware(word: &str) -> Option<String> {
    let bytes: Vec<&str> = word.split(':').collect();
    let is_byte =
        |byte: &&str| byte.len() == 2 && byte.chars().all(|digit| digit.is_ascii_hexdigit());
    (bytes.len() == 6 && bytes.iter().all(is_byte)).then(|| word.to_lowercase())
}

/// The names in the manual's list.
fn capabilities() -> impl Iterator<Item = &'static str> {
    let manual = include_str!("../../../../docs/protocol.md");
    let list = manual.split('`').find(|text| text.starts_with("chown "));
    list.expect("the manual lists them").split_whitespace()
}
