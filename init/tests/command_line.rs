//! init itself, called with words that are made up: it says one line and ends with 125, or it does what they say.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;

/// `INIT_BIN`, else what `cargo build` has left.
fn init() -> PathBuf {
    let path = std::env::var_os("INIT_BIN");
    path.map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_init")), PathBuf::from)
}

/// Runs init under another name, with nothing to read and nothing but the standard descriptors.
fn run(name: &str, words: &[String]) -> Output {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("hawser-{}-{count}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let link = directory.join(name);
    let _ = symlink(init(), &link);
    // In seconds: an init that waits for something is ended, and the test fails by that.
    // And words may be taken for a command: without a PATH none of them is one.
    let output = Command::new("/usr/bin/timeout")
        .env("PATH", "/nowhere")
        .args(["-s", "KILL", "60"])
        .arg(link)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .expect("timeout, of coreutils");
    std::fs::remove_dir_all(&directory).expect("take it away");
    output
}

#[test]
fn the_words_of_the_command_are_its_own() {
    for word in ["--mounts", "--at-end=halt", "--config", "--", "-s"] {
        let output = run("init", &["/bin/echo".to_owned(), word.to_owned()]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{word}\n"));
    }
}

fn word() -> impl Strategy<Value = String> {
    let value = "([0-9]{1,4}|-|fd:[0-9]|/dev/null|no-such-file|TERM:[0-9]|(SIG)?(HUP|USR1)|required|try|off|[ -~]{0,20})";
    let option = "(-[a-zA-Z]{1,3}|--(config|status-fd|timeout|resolv|mounts|at-end|help|version|supervise|single-child|all|rewrite|grace|map-exit|parent-death-signal|warn|verbose|[a-z=-]{0,6}))";
    prop_oneof![
        4 => option.prop_map(String::from),
        4 => (option, "[= ]?", value).prop_map(|(option, separator, value)| format!("{option}{separator}{value}")),
        2 => value.prop_map(String::from),
        1 => Just("--".to_owned()),
        1 => "[\u{1}-\u{ff}]{1,300}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_line_and_125_or_the_command_runs(
        name in prop_oneof![6 => Just("init"), 1 => Just("tini"), 1 => Just("dumb-init"), 1 => Just("docker-init")],
        before in vec(word(), 0..6),
        is_split in any::<bool>(),
    ) {
        // Nothing absolute but what is here, either. The kernel's own command line could ask for a network, and this machine's is not to be touched.
        prop_assume!(!before.iter().any(|word| word.contains("cmdline") || word.contains("/bin") || word.contains("/sbin")));
        let mut words: Vec<String> = before;
        words.extend(is_split.then(|| "--".to_owned()));
        words.extend(["/bin/echo", "it ran"].map(String::from));
        let output = run(name, &words);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let told = format!("{words:?}: {:?}, {out:?}, {err:?}", output.status);
        let lines = err.lines().count();
        prop_assert!(err.is_empty() || err.ends_with('\n'), "{}", told);
        match output.status.code() {
            // The words, help, the version; or what came before made of echo a value, and of its argument a command.
            Some(0) => prop_assert!(!out.is_empty() && err.lines().all(|line| line.starts_with("init: ")), "{}", told),
            Some(125..=127) => {
                prop_assert!(lines == 1 && err.starts_with("init: ") && !out.contains("it ran"), "{}", told);
                prop_assert!(err.len() < 1000 && !err.trim_end().contains(|c: char| c.is_ascii_control()), "{}", told);
            }
            _ => prop_assert!(false, "{}", told),
        }
    }
}
