//! After a run: no veth, no mount, no file, no process. Bridge and tables stay: they are the network.

use std::fs::File;
use std::ops::Range;
use std::process::Command;
use std::time::UNIX_EPOCH;

use lab::strace::Stopped;
use lab::{
    DEADLINE, Lab, Netns, Running, Snapshot, Watch, Whose, case, children, collect, packets,
    parent, sh, sys,
};
use serde_json::json;

#[test]
fn nothing_is_left_of_a_run() {
    packets(|lab| {
        let before = lab.with_network();
        lab.run(&[], &["true"]).ok();
        lab.run(
            &["--name", "web", "--ip", "172.19.0.9"],
            &["sh", "-c", "exit 5"],
        )
        .exits(5);
        lab.run(&["--network", "none"], &["true"]).ok();
        lab.hawser(&["down"]).ok();
        lab.run(&["--network", "host"], &["true"]).ok();
        lab.run(&[], &["no-such-command"]).exits(127);
        lab.run(&["-v", "/run/lab:/srv", "--tmpfs", "/tmp"], &["true"])
            .ok();
        lab.run(&["-t"], &["true"]).exits(0);
        before.assert_back();
    });
}

#[test]
fn the_first_run_leaves_the_network_and_nothing_else() {
    case(|lab| {
        let links = sh("ip -o link | wc -l");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
        let watch = Watch::new();
        lab.run(&[], &["true"]).ok();
        let one_more = (links.trim().parse::<u32>().expect("a number") + 1).to_string();
        watch.until(|| sh("ip -o link | wc -l").trim() == one_more);
        assert_eq!(
            sh("ip -o link | wc -l").trim(),
            one_more,
            "hawser0: {}",
            sh("ip -o link")
        );
        assert_eq!(
            sh("nft list tables"),
            "table inet hawser\ntable bridge hawser\n"
        );
        assert_eq!(
            std::fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo"),
            mounts
        );
        let files: Vec<_> = std::fs::read_dir("/run/hawser")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert!(
            files
                .iter()
                .all(|name| !name.to_string_lossy().ends_with(".sock")),
            "{files:?}"
        );
    });
}

#[test]
fn nothing_is_left_of_a_ptp_run() {
    case(|lab| {
        let _stays = lab.start_idle(&["--network", "ptp"]);
        let before = Snapshot::take();
        lab.run(&["--network", "ptp"], &["true"]).ok();
        before.assert_back();
    });
}

/// Nothing shows that such a network is there; a bridge is seen, and stays.
#[test]
fn nothing_is_left_of_a_first_ptp_run_that_fails() {
    case(|lab| {
        let before = Snapshot::whole();
        let ptp = ["--network", "ptp"];
        let mac = ["--mac", "02:01:0a:00:00:02"];
        let fails: [&[&str]; 3] = [
            &mac,
            &["-d", "--mac", mac[1]],
            &["--sysctl", "net.ipv4.no=1"],
        ];
        for options in fails {
            let options = [&ptp, options].concat();
            lab.run(&options, &["true"]).exits(125);
            before.assert_back();
        }
        let guest = Running::unshared(&["-n"], "exec cat");
        let attach = [
            "attach",
            &guest.pid().to_string(),
            "--export",
            "--name",
            "web",
        ];
        sh("mkdir -p /run/netns; touch /run/netns/web");
        let with_guest = Snapshot::whole();
        lab.hawser(&[&attach[..], &ptp].concat()).exits(125);
        with_guest.assert_back();
        // Who is not the first leaves what there is.
        lab.run(&ptp, &["true"]).ok();
        lab.settle();
        let before = Snapshot::whole();
        lab.run(&[&ptp[..], &mac].concat(), &["true"]).exits(125);
        before.assert_back();
    });
}

fn kill_supervisor(lab: &Lab, name: &str) {
    let supervisor = sys::pidfd(parent(lab.pid_of(name))).expect("the supervisor");
    sys::pidfd_signal(&supervisor, libc::SIGKILL).expect("kill it");
}

/// A run on this network is killed, and the next takes away what is left of it.
fn kill_and_run(lab: &Lab, network: &str) {
    let network = ["--network", network];
    let _stays = lab.start_idle(&network);
    let count = || sh("ip -o link | wc -l");
    let (before, links) = (Snapshot::take(), count());
    // It has just swept, and nothing has told the next one that there is something to sweep.
    let killed = [&network[..], &["-d", "--name", "web", "-p", "8080:80"]].concat();
    lab.run(&killed, &["sleep", "1000"]).ok();
    kill_supervisor(lab, "web");
    assert!(Watch::new().until(|| count() == links));
    let next = [&network[..], &["--name", "next"]].concat();
    lab.run(&next, &["true"]).ok();
    assert!(Watch::new().until(|| count() == links));
    before.assert_back();
}

#[test]
fn what_a_killed_run_has_left_the_next_takes_away() {
    case(|lab| kill_and_run(lab, "bridge"));
}

#[test]
fn what_a_killed_run_without_a_bridge_has_left_the_next_takes_away() {
    case(|lab| kill_and_run(lab, "ptp"));
}

/// Nobody has looked yet on a network that has just been made.
#[test]
fn what_a_killed_run_has_left_the_first_on_another_network_takes_away() {
    case(|lab| {
        lab.run(&[], &["true"]).ok();
        lab.settle();
        let shown = || sh("ls /run/hawser | grep web; nft list map inet hawser ports4");
        let before = shown();
        lab.run(
            &["-d", "--name", "web", "-p", "8080:80"],
            &["sleep", "1000"],
        )
        .ok();
        kill_supervisor(lab, "web");
        lab.settle();
        let other = ["--bridge", "other", "--subnet", "192.168.77.0/24"];
        lab.run(&other, &["true"]).ok();
        assert_eq!(shown(), before);
    });
}

/// It has no neighbours, and so no line in a file of names that would tell of its end: the next one looks once a second.
#[test]
fn what_a_killed_isolated_run_has_left_the_next_takes_away() {
    case(|lab| {
        let isolated = ["--isolate", "-d", "--name", "web", "-p", "8080:80"];
        lab.run(&["--isolate"], &["true"]).ok();
        lab.settle();
        let before = Snapshot::take();
        lab.run(&isolated, &["sleep", "1000"]).ok();
        kill_supervisor(lab, "web");
        lab.settle();
        let lock = File::open("/run/hawser/hawser0.lock").expect("the network's lock");
        lock.set_modified(UNIX_EPOCH).expect("an older one");
        lab.run(&["--isolate"], &["true"]).ok();
        before.assert_back();
    });
}

/// Commands that are about somebody else.
#[test]
fn what_a_killed_run_has_left_goes_with_whatever_is_asked_next() {
    case(|lab| {
        let plugin = lab.plugin();
        let config = json!({"cniVersion": "1.1.0", "name": "pods", "type": "hawser"});
        let pod = Running::unshared(&["-n"], "exec cat");
        let netns = format!("/proc/{}/ns/net", pod.pid());
        let whose = Whose {
            container: "pod",
            interface: "eth0",
            netns: &netns,
        };
        let mut checked = config.clone();
        checked["prevResult"] = plugin.call("ADD", whose, &config).ok();
        let stays = lab.start_idle(&["--name", "stays"]);
        let count = || sh("ip -o link | wc -l");
        let (before, links) = (Snapshot::take(), count());
        let questions: [&dyn Fn(); 3] = [
            &|| drop(lab.hawser(&["exec", "stays", "true"]).ok()),
            &|| drop(plugin.call("CHECK", whose, &checked).ok()),
            &|| drop(plugin.call("DEL", whose, &config).ok()),
        ];
        for (nth, ask) in questions.iter().enumerate() {
            let options = ["-d", "--name", "web", "-p", "8080:80", "--isolate"];
            lab.run(&options, &["sleep", "1000"]).ok();
            kill_supervisor(lab, "web");
            assert!(Watch::new().until(|| count() == links));
            assert!(sh("nft list map inet hawser ports4").contains("8080"));
            ask();
            let ports = sh("nft list map inet hawser ports4");
            assert!(!ports.contains("8080"), "{nth}: {ports}");
            if nth < 2 {
                before.assert_back();
            }
        }
        stays.end().exits(0);
    });
}

/// What keeps a socket of nf_tables open until nobody waits for its end is not kept by who stays for as long.
#[test]
fn who_takes_away_what_others_have_left_keeps_nothing_of_that() {
    case(|lab| {
        lab.run(&[], &["true"]).ok();
        lab.settle();
        let leave = || {
            let count = || sh("ip -o link | wc -l");
            let links = count();
            for name in ["one", "two"] {
                let guest = Running::unshared(&["-n"], "exec cat");
                let pid = guest.pid().to_string();
                let ports = if name == "one" { "8080:80" } else { "8081:80" };
                lab.hawser(&["attach", "--name", name, "-p", ports, &pid])
                    .ok();
                drop(guest);
            }
            assert!(Watch::new().until(|| count() == links));
            let lock = File::open("/run/hawser/hawser0.lock").expect("the network's lock");
            lock.set_modified(UNIX_EPOCH).expect("an older one");
        };
        leave();
        lab.run(&["-d", "--name", "web"], &["sleep", "1000"]).ok();
        let supervisor = parent(lab.pid_of("web"));
        assert_eq!(children(supervisor), [lab.pid_of("web")]);
        leave();
        let guest = Running::unshared(&["-n"], "exec cat");
        let mut stays = Running::spawn(lab.command(&[
            "attach",
            "--stay",
            "--name",
            "blue",
            &guest.pid().to_string(),
        ]));
        stays.until("blue");
        // Its own, which is to outlive it, at most.
        let others = children(stays.pid());
        assert!(others.len() <= 1, "{others:?}");
        stays.signal(libc::SIGTERM);
        stays.end().exits(0);
    });
}

/// While somebody takes away what a killed run has left, another takes its address: what that one has stays, also its neighbours.
#[test]
fn who_takes_the_address_of_a_killed_one_while_another_sweeps_loses_nothing() {
    case(|lab| {
        let options = ["--name", "web", "--ip", "172.19.0.9", "-p", "8080:80"];
        let shown = || sh("ip neigh show nud permanent; nft list ruleset | tr , '\\n' | wc -l");
        let first = lab.start_idle(&options);
        let whole = shown();
        first.end().exits(0);
        let trace = lab.dir.join("trace");
        for nth in 1.. {
            let killed = lab.start_idle(&options);
            killed.signal(libc::SIGKILL);
            drop(killed.end());
            lab.settle();
            let sweep = Stopped::at_message(nth, &lab.command(&["ls"]), &trace);
            let is_stopped = sweep.is_stopped;
            let next = lab.start_idle(&options);
            sweep.go_on().end().ok();
            assert_eq!(shown(), whole, "message {nth}");
            next.end().exits(0);
            if !is_stopped {
                assert!(nth > 20, "it sends more than {nth} messages");
                break;
            }
        }
    });
}

/// Also for who wants the file system of the root elsewhere: with `index=on` an overlay refuses layers that another one has, and
/// that one is there for as long as anybody holds a mount of it.
#[test]
fn the_file_system_of_a_root_is_free_as_soon_as_the_run_is_back() {
    case(|lab| {
        let (dir, lower) = (lab.dir.display(), lab.rootfs.display());
        sh(&format!("cd {dir} && mkdir upper work over"));
        let options = format!("lowerdir={lower},upperdir=upper,workdir=work,index=on");
        let root = lab.dir.join("over").to_string_lossy().into_owned();
        for _ in 0..20 {
            sh(&format!(
                "cd {dir} && mount -t overlay over -o {options} over"
            ));
            lab.hawser(&["run", "--rootfs", &root, "--", "true"]).ok();
            sh(&format!("umount {root}"));
        }
    });
}

#[test]
fn run_hawser_is_roots_alone() {
    case(|lab| {
        let _one = lab.start_idle(&[]);
        assert_eq!(sh("stat -c '%a %u' /run/hawser"), "700 0\n");
    });
}

#[test]
fn without_run_hawser_the_network_is_still_there() {
    packets(|lab| {
        lab.serve();
        let fetch = "wget -q -O - http://web.example.test/";
        let script = format!("echo up; while read x; do {fetch}; done");
        let options = ["--name", "web", "--ip", "172.19.0.9"];
        let mut running = lab.start(&options, &["sh", "-c", &script]);
        running.until("up");
        sh("rm -r /run/hawser");
        running.say("now\n");
        running.until("hello from the internet");
        // Its address is still its own, and its neighbours reach it.
        lab.run(&["--ip", "172.19.0.9"], &["true"])
            .refused(&["172.19.0.9", "web"]);
        lab.run_sh(&[], &format!("{fetch} && ping -c 1 -W 1 172.19.0.9"))
            .ok();
        lab.hawser(&["down"]).refused(&["web"]);
    });
}

#[test]
fn nothing_is_left_of_a_refused_first_run() {
    case(|lab| {
        let before = Snapshot::take();
        lab.hawser(&["run", "--rootfs", "/no/such/place", "--", "true"])
            .exits(125);
        lab.run(&["--ip", "10.99.0.1"], &["true"]).exits(125);
        lab.run(&["--mtu", "1"], &["true"]).exits(125);
        lab.run(&["-u", "stranger"], &["true"]).exits(125);
        before.assert_back();
    });
}

#[test]
fn nothing_spreads_over_shared_mounts() {
    case(|lab| {
        // As systemd sets a host up.
        sh("mount --make-rshared /");
        let before = lab.with_network();
        let options = ["-v", "/run/lab:/srv", "--tmpfs", "/tmp", "--name", "web"];
        let running = lab.start_idle(&options);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
        assert!(
            !mounts.contains("/run/lab/rootfs"),
            "the container's mounts are seen on the host: {mounts}"
        );
        running.end().exits(0);
        before.assert_back();
    });
}

#[test]
fn no_permanent_neighbour_stays() {
    case(|lab| {
        let permanent = || sh("ip neigh show nud permanent");
        for network in ["bridge", "ptp"] {
            lab.run(&["--network", network], &["true"]).ok();
            lab.run(&["--network", network], &["no-such-command"])
                .exits(127);
            let running = lab.start_idle(&["--network", network]);
            running.end().exits(0);
        }
        lab.settle();
        assert_eq!(permanent(), "");
        // Who is killed cannot take it back; with the next holder of the address it goes.
        let fixed = ["--ip", "172.19.0.9"];
        let running = lab.start_idle(&fixed);
        running.signal(libc::SIGKILL);
        running.end().exits(-libc::SIGKILL);
        lab.run(
            &[&fixed[..], &["--mac", "02:00:00:00:00:99"]].concat(),
            &["ping", "-c", "1", "-W", "2", "172.19.0.1"],
        )
        .ok();
        assert_eq!(permanent(), "");
    });
}

/// Who may write no files (`ulimit -f 0`) is told, and not ended (SIGXFSZ) in the middle of the host's network.
#[test]
fn nothing_is_left_where_no_file_may_be_written() {
    case(|lab| {
        let limited = |mut command: Command| {
            sys::with_rlimit(&mut command, libc::RLIMIT_FSIZE, 0);
            collect(command, DEADLINE)
        };
        let why = &["EFBIG", "ulimit -f"];
        // Mount points that were missing stay.
        lab.run(&["--network", "none"], &["true"]).ok();
        lab.hawser(&["down"]).ok();
        let guest = Running::unshared(&["-n"], "exec cat");
        let pid = guest.pid().to_string();
        let bundle = lab.bundle("web", "");
        let created = bundle.created();
        let state = bundle.state("web", "creating", created.pid());
        let _netns = Netns::new("a");
        let plugin = lab.plugin();
        // The file of its standard input is there.
        drop(lab.hook_command(&[], &state));
        let before = Snapshot::whole();
        for options in [&[][..], &["-d"], &["--init"], &["--network", "none"]] {
            limited(lab.run_command(options, &["true"])).refused(why);
            before.assert_back();
        }
        for arguments in [&["up"][..], &["attach", &pid], &["attach", "--stay", &pid]] {
            limited(lab.command(arguments)).refused(why);
            before.assert_back();
        }
        limited(lab.hook_command(&[], &state)).refused(why);
        let whose = Whose {
            container: "c1",
            interface: "eth0",
            netns: "/run/netns/a",
        };
        let config = json!({ "cniVersion": "1.1.0", "name": "blue", "type": "hawser" });
        let added = limited(plugin.operation("ADD", whose, &config)).exits(1);
        assert!(why.iter().all(|word| added.out().contains(word)), "{added}");
        std::fs::write(plugin.input(), "").expect("empty the input");
        before.assert_back();
    });
}

/// What host-helper ignores itself, the command does not.
#[test]
fn a_command_ignores_no_signal() {
    case(|lab| {
        let look = ["grep", "SigIgn", "/proc/self/status"];
        let none = "SigIgn:\t0000000000000000";
        for options in [&[][..], &["--init"], &["-t"]] {
            assert!(lab.run(options, &look).ok().contains(none), "{options:?}");
        }
        let _running = lab.start_idle(&["--name", "web"]);
        assert_eq!(
            lab.hawser(&[&["exec", "web"], &look[..]].concat()).ok(),
            none
        );
    });
}

/// What the kernel goes on with in a set, behind what it has told, is where it was by number: who deletes elements there moves the rest up.
#[test]
fn a_sweep_beside_the_end_of_others_leaves_nothing() {
    const DEAD: Range<u16> = 20000..21000;
    const ENDING: Range<u16> = 30000..30500;
    const LIVING: Range<u16> = 31000..31500;
    case(|lab| {
        lab.hawser(&["up"]).ok();
        let file = lab.dir.join("elements.nft");
        let nft = |verb: &str, host: u8, ports: Range<u16>, tenants: &str| {
            let ports: Vec<String> = ports
                .map(|port| format!("tcp . {port} : 172.19.0.{host} . 80"))
                .collect();
            let ports = ports.join(", ");
            let text = format!("{verb} element inet hawser ports4 {{ {ports} }}\n{tenants}");
            std::fs::write(&file, text).expect("write a file");
            sh(&format!("nft -f {}", file.display()));
        };
        let left = || sh("nft list map inet hawser ports4; nft list map inet hawser tenants");
        nft("add", 202, LIVING, "");
        let lines = left().lines().count();
        let trace = lab.dir.join("trace");
        // Behind that come 16 elements a message.
        for nth in 1..50 {
            // One that was killed, and another that ends while that is swept. Not so many that the kernel makes its table smaller then: what it
            // would tell twice is refused when it is deleted.
            let tenant = "add element inet hawser tenants { \"hwac1300c8\" : :: . 0x7 }";
            nft("add", 200, DEAD, tenant);
            nft("add", 201, ENDING, "");
            let sweep = Stopped::at_message(nth, &lab.command(&["ls"]), &trace);
            assert!(sweep.is_stopped, "it sends more than {nth} messages");
            nft("delete", 201, ENDING, "");
            sweep.go_on().end().exits(0);
            // What changed in the midst of it is left to the next.
            lab.hawser(&["ls"]).exits(0);
            assert_eq!(left().lines().count(), lines, "behind message {nth}");
        }
    });
}
