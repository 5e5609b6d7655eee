//! `--sysctl`: of the container's own network, and no other.

use lab::{case, sh};

#[test]
fn they_are_set_inside_and_not_outside() {
    case(|lab| {
        let options = [
            "--sysctl",
            "net.ipv4.ip_default_ttl=33",
            "--sysctl",
            "net.ipv4.conf.eth0.rp_filter=2",
            "--sysctl",
            "net.core.somaxconn=77",
        ];
        let script = "cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/net/ipv4/conf/eth0/rp_filter /proc/sys/net/core/somaxconn";
        assert_eq!(lab.run_sh(&options, script).ok(), "33\n2\n77");
        assert_eq!(sh("cat /proc/sys/net/ipv4/ip_default_ttl"), "64\n");
    });
}

#[test]
fn values_may_have_spaces() {
    case(|lab| {
        // In a user namespace there are no groups 5 and 6.
        let (low, high) = if lab.real_root {
            ("5", "6")
        } else {
            ("0", "0")
        };
        let groups = format!("net.ipv4.ping_group_range={low} {high}");
        let options = [
            "--sysctl",
            &groups,
            "--sysctl",
            "net.ipv4.ip_local_port_range=2000 3000",
        ];
        let script = "cd /proc/sys/net/ipv4; cat ping_group_range ip_local_port_range";
        let seen = lab.run_sh(&options, script).ok();
        let numbers: Vec<&str> = seen.split_whitespace().collect();
        assert_eq!(
            numbers,
            [low, high, "2000", "3000"],
            "also over what we set ourselves"
        );
    });
}

#[test]
fn a_bad_value_is_refused_by_name() {
    case(|lab| {
        let before = lab.with_network();
        lab.run(&["--sysctl", "net.ipv4.ip_default_ttl=many"], &["true"])
            .refused(&["ip_default_ttl", "many", "does not take this value"]);
        // The kernel takes its first words, and says that it has taken no more, or not even that.
        for (switch, value) in [
            ("ip_default_ttl", "64 3"),
            ("tcp_fin_timeout", "30 x"),
            ("conf.eth0.rp_filter", "1 2"),
            ("ip_local_port_range", "2000 3000 4000"),
        ] {
            lab.run(
                &["--sysctl", &format!("net.ipv4.{switch}={value}")],
                &["true"],
            )
            .refused(&[value, "does not take this value"]);
        }
        // Blanks at the end are no further words.
        let range = "net.ipv4.ip_local_port_range=2000 3000 \n";
        lab.run(&["--sysctl", range], &["true"]).ok();
        // It takes nothing of nothing, and IPv6 would be on there and off here.
        for switch in [
            "net.ipv4.ip_default_ttl=",
            "net.ipv6.conf.all.disable_ipv6=",
        ] {
            lab.run(&["--sysctl", switch], &["true"])
                .refused(&["--sysctl", switch, "no value"]);
        }
        lab.run(&["--sysctl", "net.ipv4.no_such=1"], &["true"])
            .refused(&["net/ipv4/no_such", "ENOENT", "no such switch"]);
        lab.run(&["--sysctl", "kernel.domainname=x"], &["true"])
            .refused(&["kernel.domainname", "net."]);
        before.assert_back();
    });
}
