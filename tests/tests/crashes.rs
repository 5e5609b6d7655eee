//! A kill at any moment, of the helper, of the container, or of all at once: nothing is left, at the latest after the next command;
//! and after `down` the host is what it was before the first.
//!
//! CRASH_STRIDE=1 takes every moment, 7,000 of them and more; without it, it is every third, from another one on each day; CRASH_FIRST, which
//! is printed, takes those of another.

use std::cell::RefCell;
use std::fs::File;
use std::time::UNIX_EPOCH;

use lab::crash::{Sweep, Victims};
use lab::{
    Lab, Snapshot, Work, case, wait_for_end, with_add_and_end, with_attach, with_attach_and_end,
    with_exec, with_hook, with_plugin, with_poststop, with_run, with_stay, with_stay_to_the_end,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use Victims::{All, It, Others};

const NAMED: &[&str] = &[
    "--name",
    "web",
    "--ip",
    "172.19.0.9",
    "-p",
    "8080:80",
    "-p",
    "8080:80/udp",
];

/// With a network that is there.
fn sweep(lab: &Lab, title: &str, keeper: Option<usize>, victims: &[Victims], work: &Work) {
    let sweep = Sweep {
        keeper,
        ..Sweep::new(lab, work)
    };
    sweep.run_and_down(title, victims);
}

#[test]
fn a_run() {
    case(|lab| {
        with_run(lab, NAMED, |work| {
            sweep(lab, "run", Some(0), &[It, Others, All], work)
        });
    });
}

#[test]
fn a_run_by_itself() {
    case(|lab| {
        let options = [&["-d"], NAMED].concat();
        let work = Work {
            command: &|| lab.run_command(&options, &["true"]),
            // Its log and its exit code stay; a start that was killed has none.
            undo: &|_| drop(lab.hawser(&["rm", "web"])),
            is_over: &|_| false,
            input: None,
        };
        sweep(lab, "run -d", Some(1), &[It, Others, All], &work);
    });
}

#[test]
fn a_run_with_a_user_namespace_and_without_a_bridge() {
    case(|lab| {
        let options = [
            "--userns",
            "--init",
            "--network",
            "ptp",
            "--name",
            "web",
            "--add-host",
            "db:192.0.2.7",
            "-p",
            "8080:80",
        ];
        if !lab.real_root {
            return lab::skip("user namespaces for containers are made by root");
        }
        with_run(lab, &options, |work| {
            let sweep = Sweep {
                stride: 2,
                ..Sweep::new(lab, work)
            };
            sweep.run_and_down("run --userns, ptp", &[It, All]);
        });
    });
}

/// Of what is dead by its line in the hosts file, and of what has none: a start looks for that once a second.
fn and_then_a_run(lab: &Lab, title: &str, keeper: Option<usize>, work: &Work) {
    let other = ["--name", "other"];
    lab.run(&other, &["true"]).ok();
    let next = || {
        let lock = File::open("/run/hawser/hawser0.lock").expect("the network's lock");
        lock.set_modified(UNIX_EPOCH).expect("an older one");
        lab.run(&other, &["true"]).ok();
        lab.settle();
    };
    let sweep = Sweep {
        next: &next,
        keeper,
        stride: 2,
        ..Sweep::new(lab, work)
    };
    sweep.do_once();
    sweep.run(title, &[It, All], &Snapshot::take());
}

#[test]
fn a_run_and_then_another() {
    case(|lab| {
        with_run(lab, NAMED, |work| {
            and_then_a_run(lab, "run, then another", Some(0), work);
        });
    });
}

/// Its container has ended since, and nobody calls `detach`.
#[test]
fn an_attachment_and_then_a_run() {
    case(|lab| {
        with_attach_and_end(lab, |work| {
            and_then_a_run(lab, "attach, then a run", None, work);
        });
    });
}

#[test]
fn an_attachment_and_then_a_look() {
    case(|lab| {
        with_attach_and_end(lab, |work| {
            let sweep = Sweep {
                stride: 4,
                ..Sweep::new(lab, work)
            };
            sweep.run_and_down("attach, then ls", &[It, All]);
        });
    });
}

/// Its network namespace has gone since, and nobody calls DEL.
#[test]
fn an_add_of_the_plugin_and_then_a_run() {
    case(|lab| {
        with_add_and_end(lab, |work, _| {
            and_then_a_run(lab, "CNI ADD, then a run", None, work);
        });
    });
}

#[test]
fn an_add_of_the_plugin_and_then_a_look() {
    case(|lab| {
        with_add_and_end(lab, |work, _| {
            sweep(lab, "CNI ADD, then ls", None, &[It], work);
        });
    });
}

#[test]
fn an_add_of_the_plugin_and_then_gc() {
    case(|lab| {
        with_add_and_end(lab, |work, gc| {
            let sweep = Sweep {
                next: gc,
                ..Sweep::new(lab, work)
            };
            sweep.do_once();
            sweep.run("CNI ADD, then GC", &[It], &Snapshot::take());
        });
    });
}

/// Its runtime was killed, too: nobody calls poststop.
#[test]
fn a_hook_and_then_a_run() {
    case(|lab| {
        let bundle = lab.bundle("web", "").annotated("hawser.ip", "172.19.0.9");
        let bundle = bundle.annotated("hawser.publish", "8080:80");
        let guest = RefCell::new(None);
        let work = Work {
            command: &|| {
                let created = bundle.created();
                let state = bundle.state("web", "creating", created.pid());
                guest.replace(Some(created));
                lab.hook_command(&["--ip-file", "/run/hawser-ip"], &state)
            },
            undo: &|_| {
                let guest = guest.take().expect("a container");
                let pid = guest.pid();
                guest.end().exits(0);
                wait_for_end(pid);
            },
            is_over: &|_| false,
            input: Some(lab.dir.join("state")),
        };
        and_then_a_run(lab, "hook, then a run", None, &work);
    });
}

/// Each is a first one. After a kill the network is there, or not, or half; `down` takes whatever it is.
#[test]
fn a_first_run_and_then_down() {
    case(|lab| {
        // What a run makes in the root filesystem stays.
        lab.run(&[], &["true"]).ok();
        lab.settle();
        lab.hawser(&["down"]).ok();
        let untouched = Snapshot::whole();
        with_run(lab, NAMED, |work| {
            let sweep = Sweep {
                next: &|| drop(lab.hawser(&["down"]).ok()),
                ..Sweep::new(lab, work)
            };
            sweep.do_once();
            sweep.run("first run, then down", &[It, All], &untouched);
        });
    });
}

/// Some of the moments: most are those of a first run.
fn some<'a>(lab: &'a Lab, work: &'a Work) -> Sweep<'a> {
    Sweep {
        stride: 6,
        ..Sweep::new(lab, work)
    }
}

/// The same of what others than `run` begin with.
fn first_and_then_down(title: &str, bridge: &str, sweep: Sweep) {
    let lab = sweep.lab;
    let down = || drop(lab.hawser(&["down", "--bridge", bridge]).ok());
    let sweep = Sweep {
        next: &down,
        ..sweep
    };
    // What knows of its bridge stays in the directory of the case.
    sweep.do_once();
    let untouched = Snapshot::whole();
    sweep.do_once();
    untouched.assert_back();
    sweep.run(&format!("{title}, then down"), &[It, All], &untouched);
}

#[test]
fn a_first_run_without_a_bridge_and_then_down() {
    let options = [&["--network", "ptp"], &NAMED[..2], &NAMED[4..]].concat();
    case(|lab| {
        with_run(lab, &options, |work| {
            first_and_then_down("first run, ptp", "hawser0", some(lab, work))
        });
    });
}

#[test]
fn a_first_attachment_and_then_down() {
    case(|lab| {
        with_attach_and_end(lab, |work| {
            first_and_then_down("first attach", "hawser0", some(lab, work))
        })
    });
}

#[test]
fn a_first_hook_and_then_down() {
    case(|lab| {
        with_hook(lab, |work| {
            first_and_then_down("first hook", "hawser0", some(lab, work))
        })
    });
}

#[test]
fn a_first_add_of_the_plugin_and_then_down() {
    case(|lab| {
        with_plugin(lab, "ADD", |work| {
            first_and_then_down("first ADD", "cni0", Sweep::new(lab, work))
        });
    });
}

#[test]
fn a_first_up_and_then_down() {
    case(|lab| {
        let work = Work {
            command: &|| lab.command(&["up"]),
            undo: &|_| {},
            is_over: &|_| false,
            input: None,
        };
        let sweep = Sweep {
            is_published: false,
            ..some(lab, &work)
        };
        first_and_then_down("up", "hawser0", sweep);
    });
}

/// The next run finds whatever it is, and makes it whole.
#[test]
fn a_first_run_and_then_another() {
    case(|lab| {
        lab.run(NAMED, &["true"]).ok();
        lab.settle();
        let before = Snapshot::with_namespaces();
        let work = Work {
            command: &|| {
                lab.hawser(&["down"]).ok();
                lab.run_command(NAMED, &["true"])
            },
            undo: &|_| {},
            is_over: &|_| false,
            input: None,
        };
        let sweep = Sweep {
            next: &|| {
                lab.run(NAMED, &["true"]).ok();
                lab.settle();
            },
            stride: 2,
            ..Sweep::new(lab, &work)
        };
        sweep.run("first run, then another", &[It], &before);
    });
}

#[test]
fn an_attachment() {
    case(|lab| {
        with_attach(lab, |work| {
            sweep(lab, "attach", Some(0), &[It, Others, All], work)
        });
    });
}

/// Told to go, it goes, and the container lives on without a link.
#[test]
fn an_attachment_that_stays() {
    case(|lab| {
        let stop = |main: Pid| kill(main, Signal::SIGTERM).expect("a process of ours");
        with_stay(lab, |work| {
            let sweep = Sweep {
                keeper: Some(0),
                at_word: Some(&stop),
                ..Sweep::new(lab, work)
            };
            sweep.run_and_down("attach --stay", &[It, Others, All]);
        });
    });
}

#[test]
fn an_attachment_that_stays_until_its_container_ends() {
    case(|lab| {
        with_stay_to_the_end(lab, |work, end| {
            let at_word = |_| end();
            let sweep = Sweep {
                keeper: Some(0),
                at_word: Some(&at_word),
                // Up to there it is as the other.
                stride: 2,
                ..Sweep::new(lab, work)
            };
            sweep.run_and_down("attach --stay, and the end", &[It, All]);
        });
    });
}

/// Its command goes with it, and nothing else.
#[test]
fn a_command_beside_another() {
    case(|lab| {
        // In the second one of a copy of the program.
        for options in [&[][..], &["--cap-add", "sys_ptrace"]] {
            with_exec(lab, options, |work, before| {
                let sweep = Sweep {
                    is_published: false,
                    ..Sweep::new(lab, work)
                };
                sweep.run("exec", &[It, Others, All], before);
            });
        }
    });
}

#[test]
fn a_hook() {
    case(|lab| {
        with_hook(lab, |work| {
            sweep(lab, "hook createRuntime", Some(0), &[It, Others, All], work);
        });
    });
}

#[test]
fn a_hook_that_releases() {
    case(|lab| {
        with_poststop(lab, |work| {
            let sweep = Sweep {
                keeper: Some(0),
                is_published: false,
                ..Sweep::new(lab, work)
            };
            sweep.run_and_down("hook poststop", &[It]);
        });
    });
}

#[test]
fn an_add_of_the_plugin() {
    case(|lab| {
        with_plugin(lab, "ADD", |work| {
            sweep(lab, "CNI ADD", Some(0), &[It, Others, All], work);
        });
    });
}

#[test]
fn a_del_of_the_plugin() {
    case(|lab| {
        with_plugin(lab, "DEL", |work| {
            let sweep = Sweep {
                keeper: Some(0),
                is_published: false,
                ..Sweep::new(lab, work)
            };
            sweep.run_and_down("CNI DEL", &[It]);
        });
    });
}
