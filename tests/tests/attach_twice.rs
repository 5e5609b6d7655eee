//! `attach` and `detach` of more than is usual: many ports, two at once, a number that means two.

use lab::{Netns, Running, Snapshot, case};

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

#[test]
fn of_two_who_attach_a_container_at_once_one_succeeds() {
    case(|lab| {
        lab.with_network();
        for round in 0..30 {
            let guest = guest();
            let pid = guest.pid().to_string();
            // Ports, so that it takes a while until the link says whose it is.
            let attach = |name| {
                let options = ["attach", &pid, "--name", name, "-p", "1-500"];
                Running::spawn(lab.command(&options))
            };
            let outcomes = ["one", "other"].map(attach).map(Running::end);
            let succeeded = outcomes.iter().filter(|it| it.code == 0).count();
            let [one, other] = outcomes;
            assert_eq!(succeeded, 1, "round {round}: {one} {other}");
            assert_eq!(lab.list().len(), 1, "round {round}");
            lab.hawser(&["detach", &pid]).ok();
            assert_eq!(Netns::of(guest.pid()).sh("ip -o link | wc -l"), "1\n");
        }
    });
}

#[test]
fn a_number_that_means_two_containers_is_refused() {
    case(|lab| {
        let guests = [guest(), guest()];
        let [first, second] = [0, 1].map(|at: usize| guests[at].pid().to_string());
        lab.hawser(&["attach", &first, "--name", &second]).ok();
        lab.hawser(&["attach", &second, "--name", "other"]).ok();
        let before = Snapshot::take();
        lab.hawser(&["detach", &second])
            .refused(&[&second, "other", "--netns"]);
        before.assert_back();
        let netns = format!("/proc/{second}/ns/net");
        lab.hawser(&["detach", "--netns", &netns]).ok();
        let left = lab.list();
        assert!(left.len() == 1 && left[0]["name"] == *second, "{left:?}");
        // Now it means one alone.
        lab.hawser(&["detach", &second]).ok();
        assert!(lab.list().is_empty());
    });
}
