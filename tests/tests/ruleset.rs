//! The whole ruleset, decompiled by nft, against a golden file. `UPDATE_GOLDEN=1` writes them anew; then read the diff.

use std::fs;
use std::path::Path;

use lab::{case, sh};

/// The same on each machine.
const SUBNET6: &[&str] = &["--subnet6", "2001:db8:6::/64"];

/// Without the number of each tenant, which no other has had.
fn without_numbers(ruleset: &str) -> String {
    let mut parts = ruleset.split(" . 0x");
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| format!(" . NUMBER{}", &part[8..]));
    rest.fold(first, |all, part| all + &part)
}

#[track_caller]
fn assert_golden(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(name);
    let ruleset = without_numbers(&sh("nft list ruleset"));
    if std::env::var("UPDATE_GOLDEN").as_deref() == Ok("1") {
        fs::write(&path, &ruleset).expect("write a golden file");
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        ruleset, golden,
        "nft list ruleset is not as in golden/{name}:\n{ruleset}"
    );
}

#[test]
fn one_bridge() {
    case(|lab| {
        lab.run(&[], &["true"]).ok();
        assert_golden("ruleset.nft");
        lab.run(&[], &["true"]).ok();
        assert_golden("ruleset.nft");
    });
}

#[test]
fn rules_are_the_same_with_containers() {
    case(|lab| {
        let _one = lab.start_idle(SUBNET6);
        let _two = lab.start_idle(&[]);
        assert_golden("containers.nft");
    });
}

#[test]
fn two_bridges() {
    case(|lab| {
        lab.hawser(&["up"]).exits(0);
        lab.hawser(&["up", "--bridge", "blue", "--subnet", "172.28.0.0/24"])
            .exits(0);
        assert_golden("two_bridges.nft");
        lab.hawser(&["down", "--bridge", "blue"]).exits(0);
        assert_golden("ruleset.nft");
    });
}

#[test]
fn point_to_point() {
    case(|lab| {
        let _one = lab.start_idle(&[&["--network", "ptp"], SUBNET6].concat());
        assert_golden("ptp.nft");
    });
}

#[test]
fn rules_of_others_stay() {
    case(|lab| {
        sh(
            "nft add table inet mine; nft add chain inet mine forward '{ type filter hook forward priority 0; policy accept; }'; \
            nft add rule inet mine forward tcp dport 25 drop",
        );
        let mine = sh("nft list table inet mine");
        lab.run(&[], &["true"]).ok();
        assert_eq!(sh("nft list table inet mine"), mine);
        lab.hawser(&["down"]).exits(0);
        assert_eq!(sh("nft list table inet mine"), mine);
        assert_eq!(sh("nft list ruleset"), mine, "and ours are gone");
    });
}

#[test]
fn a_flush_is_repaired_by_the_next_start() {
    case(|lab| {
        lab.run(&[], &["true"]).ok();
        sh("nft flush ruleset");
        lab.run(&[], &["true"]).ok();
        assert_golden("ruleset.nft");
    });
}

#[test]
fn starts_at_once_make_one_set_of_rules() {
    case(|lab| {
        let running: Vec<_> = (0..8).map(|_| lab.start(&[], &["true"])).collect();
        for one in running {
            one.end().ok();
        }
        assert_golden("ruleset.nft");
    });
}
