//! `attach` and `detach` of more than is usual: many ports, two at once, a number that means two.

use lab::{Running, case};

/// A process in a network namespace of its own, which ends with its input.
fn guest() -> Running {
    Running::unshared(&["-n"], "exec cat")
}

#[test]
fn what_is_kept_of_many_ports_is_known_afterwards() {
    case(|lab| {
        let guest = guest();
        let before = lab.with_network();
        let pid = guest.pid().to_string();
        // Free ports of the host are in no range, and so each has a place of its own.
        lab.hawser(&["attach", &pid, "--name", "web", "-p", "1-12000"])
            .ok();
        let all = lab.hawser(&["inspect", "web"]).ok();
        let all: serde_json::Value = serde_json::from_str(&all).expect("an object");
        let ports = all["ports"].as_array().expect("its ports");
        assert!(ports.len() > 10_000, "{}", ports.len());
        let port = &ports[0]["host_port"];
        lab.run(&["-p", &format!("{port}:80")], &["true"])
            .refused(&["web", "detach"]);
        lab.hawser(&["detach", "web"]).ok();
        lab.settle();
        before.assert_back();
    });
}
