//! The manual pages: what they say about options is what the programs say, they have the sections that one looks for, and `make install` puts
//! pages there that can be read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::{DEADLINE, binary, collect, init_binary, skip};

const SECTIONS: [&str; 6] = [
    "NAME",
    "SYNOPSIS",
    "OPTIONS",
    "EXIT STATUS",
    "FILES",
    "EXAMPLES",
];

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the workspace").to_owned()
}

fn manual(page: &str) -> String {
    let path = root().join("docs").join(format!("{page}.8.md"));
    std::fs::read_to_string(path).expect("a manual")
}

/// What stands under a heading, up to the next one of its level or a higher one.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let level = heading.split(' ').next().expect("#");
    let start = text
        .find(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("no {heading}"));
    let body = &text[start + heading.len() + 2..];
    let end = (2..=level.len())
        .filter_map(|level| body.find(&format!("\n{} ", "#".repeat(level))))
        .min();
    &body[..end.unwrap_or(body.len())]
}

/// The words of a text that are options: `-x`, `--long`.
fn options(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.split(|c: char| !is_part(c))
        .filter(|word| match word.strip_prefix("--") {
            Some(long) => long.starts_with(|c: char| c.is_ascii_lowercase()),
            None => word.len() == 2 && word.starts_with('-') && !word.ends_with('-'),
        })
        .map(str::to_owned)
        .collect()
}

/// The options that a part of a manual describes: those in its terms, which are the lines before `: `.
fn described(text: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = text.lines().collect();
    let terms = lines
        .windows(2)
        .filter(|pair| pair[1].starts_with(": "))
        .map(|pair| pair[0]);
    options(&terms.collect::<Vec<_>>().join("\n"))
}

fn help(program: &Path, words: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(words);
    collect(command, DEADLINE).ok()
}

/// The options at the beginning of the lines of a help text, where there may be some in its sentences too.
fn listed(help: &str) -> BTreeSet<String> {
    let of_line = |line: &str| {
        let line = line.trim_start();
        let end = line.find("  ").unwrap_or(line.len());
        if line.starts_with('-') {
            options(&line[..end])
        } else {
            BTreeSet::new()
        }
    };
    help.lines().flat_map(of_line).collect()
}

#[test]
fn the_options_of_init_are_those_of_its_help() {
    let expected = listed(&help(&init_binary(), &["--help"]));
    assert!(expected.len() > 20, "{expected:?}");
    assert_eq!(described(section(&manual("init"), "## OPTIONS")), expected);
}

#[test]
fn the_options_of_each_command_of_host_helper_are_those_of_its_help() {
    let text = manual("host-helper");
    let all = section(&text, "## OPTIONS");
    let common = described(
        all.split("\n### ")
            .next()
            .expect("what is before the first one"),
    );
    let program = binary();
    let overview = help(&program, &["--help"]);
    let commands: Vec<&str> = overview
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() > 10, "{commands:?}");
    let mut headings: BTreeSet<&str> = all
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .collect();
    for command in &commands {
        assert!(
            section(&text, "## COMMANDS").contains(&format!("`{command}`\n: ")),
            "{command} is not under COMMANDS"
        );
        if *command == "help" {
            continue;
        }
        let mut expected = common.clone();
        let own: Vec<&str> = headings
            .iter()
            .copied()
            .filter(|heading| heading.split(':').next() == Some(command))
            .collect();
        for heading in own {
            headings.remove(heading);
            expected.extend(described(section(all, &format!("### {heading}"))));
        }
        assert_eq!(
            listed(&help(&program, &[command, "--help"])),
            expected,
            "left: host-helper {command} --help, right: the manual"
        );
    }
    assert!(
        headings.is_empty(),
        "commands that there are not: {headings:?}"
    );
    assert_eq!(listed(&overview), common);
    let names: BTreeSet<&str> = section(&text, "## COMMANDS")
        .lines()
        .filter_map(|line| line.strip_prefix('`')?.strip_suffix('`'))
        .collect();
    assert_eq!(names, commands.into_iter().collect());
}

/// Each takes some kinds of networks only, and says which.
#[test]
fn what_is_no_network_of_a_command_is_not_in_its_help() {
    let program = binary();
    for (command, kinds) in [
        (
            "run",
            &["bridge", "ptp", "none", "host", "container:NAME", "ns:PATH"][..],
        ),
        ("attach", &["bridge", "ptp"]),
        ("hook", &["bridge", "ptp", "none", "host"]),
    ] {
        let text = help(&program, &[command, "--help"]);
        let of_network: Vec<&str> = text
            .lines()
            .skip_while(|line| !line.trim().starts_with("--network"))
            .take_while(|line| !line.trim().starts_with("--bridge"))
            .collect();
        let of_network = of_network.join(" ");
        for kind in ["bridge", "ptp", "none", "host", "container:NAME", "ns:PATH"] {
            assert_eq!(
                of_network.contains(kind),
                kinds.contains(&kind),
                "{command}: {of_network}"
            );
        }
    }
}

#[test]
fn the_readme_has_each_command() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("read README.md");
    let text = section(&manual("host-helper"), "## COMMANDS").to_string();
    let names = text
        .lines()
        .filter_map(|line| line.strip_prefix('`')?.strip_suffix('`'));
    for name in names.filter(|name| *name != "help") {
        let has = readme.lines().any(|line| {
            line.starts_with(&format!("| `{name} ")) || line.starts_with(&format!("| `{name}`"))
        });
        assert!(has, "README.md has no `{name}`");
    }
}

#[test]
fn each_manual_has_its_sections_codes_and_examples() {
    for page in ["init", "host-helper"] {
        let text = manual(page);
        for heading in SECTIONS {
            let body = section(&text, &format!("## {heading}"));
            assert!(!body.trim().is_empty(), "{page}: {heading}");
        }
        let codes = section(&text, "## EXIT STATUS");
        for code in ["125", "126", "127", "128+*N*"] {
            assert!(codes.contains(&format!("\n{code}\n: ")), "{page}: {code}");
        }
        let examples = section(&text, "## EXAMPLES");
        let blocks = examples
            .split("\n\n")
            .filter(|part| part.starts_with("    "));
        assert!(blocks.count() >= 2, "{page}: two examples");
        // What is bold in one line must end in it.
        for line in text.lines().filter(|line| !line.starts_with("    ")) {
            assert_eq!(line.matches('`').count() % 2, 0, "{page}: {line}");
        }
    }
}

/// The programs' Makefile, below a directory.
fn make(goal: &str, destination: &Path) {
    let mut command = Command::new("make");
    command.args(["--no-print-directory", "-C"]).arg(root());
    command.args([goal, "PREFIX=/usr"]);
    command.arg(format!("DESTDIR={}", destination.display()));
    collect(command, DEADLINE).ok();
}

#[test]
fn what_make_install_puts_there_can_be_read_and_is_taken_back() {
    let target = binary()
        .ancestors()
        .nth(2)
        .expect("target/release/host-helper")
        .to_owned();
    if !target.join("man/init.8").exists() {
        skip("no manual pages: `make build` makes them, where go-md2man is");
        return;
    }
    if Command::new("mandoc")
        .arg("-Tlint")
        .stdin(std::process::Stdio::null())
        .output()
        .is_err()
    {
        skip("mandoc is not installed");
        return;
    }
    let destination = target.join("tests-install");
    let _ = std::fs::remove_dir_all(&destination);
    make("install", &destination);
    for page in ["init", "host-helper"] {
        let path = destination.join(format!("usr/share/man/man8/{page}.8"));
        let mut lint = Command::new("mandoc");
        lint.args(["-Tlint", "-Wwarning"]).arg(&path);
        assert_eq!(collect(lint, DEADLINE).ok(), "", "{}", path.display());
        let mut reader = Command::new("mandoc");
        reader.args(["-Tascii", "-Owidth=80"]).arg(&path);
        let shown = collect(reader, DEADLINE).ok();
        // Bold is written as a letter, a backspace and the letter again.
        let mut plain = String::new();
        for c in shown.chars() {
            if c == '\u{8}' {
                plain.pop();
            } else {
                plain.push(c);
            }
        }
        for heading in SECTIONS {
            assert!(
                plain.lines().any(|line| line == heading),
                "{page}: {heading}"
            );
        }
        let missing: Vec<String> = described(&manual(page))
            .difference(&options(&plain))
            .cloned()
            .collect();
        assert!(
            missing.is_empty(),
            "{page}: {missing:?} cannot be read in the page"
        );
        let is_long = |line: &&str| line.chars().count() > 80 && !line.starts_with("           ");
        assert_eq!(
            plain.lines().find(is_long),
            None,
            "{page}: longer than a terminal"
        );
    }
    make("uninstall", &destination);
    let mut left = Command::new("find");
    left.arg(&destination).args(["-type", "f"]);
    assert_eq!(collect(left, DEADLINE).ok(), "");
    std::fs::remove_dir_all(&destination).expect("take it away");
}
