//! host-helper: the host's end of container networking. `docs/operation.md` tells the sequence; `attach.rs` is it.

mod address;
mod attach;
mod attached;
mod bridge;
mod cgroup;
mod cli;
mod cni;
mod config;
mod conntrack;
mod control;
mod deadline;
mod detach;
mod dev;
mod dns;
mod doctor;
mod error;
mod exec;
mod follower;
mod foreign;
mod hook;
mod hosts;
mod inside;
mod link;
mod log;
mod ls;
mod mark;
mod netlink;
mod nft;
mod owner;
mod port;
mod ptp;
mod publish;
mod reach;
mod reclaim;
mod request;
mod rootfs;
mod run;
mod seccomp;
mod signals;
mod spawn;
mod splice;
mod state;
mod steps;
mod supervisor;
mod sys;
mod sysctl;
mod terminal;
mod undo;
mod uplink;
mod user;
mod users;
mod veth;
mod wanted;
mod watch;
mod written;
mod xtables;

use std::io::{Read, Write};
use std::time::Instant;

use cli::{Action, Asked};
use error::{Doing, Error, Result};
use steps::Steps;
use wanted::{Ipv6, Wanted, Words};

/// The one place that prints an error, and the one that exits: at once, there is nothing left to take down.
fn main() -> ! {
    let code = act().unwrap_or_else(|error| {
        if error.unsaid {
            steps::print(&error.to_string());
        }
        error.code
    });
    let _ = std::io::stdout().flush();
    sys::exit_now(code)
}

fn act() -> Result<u8> {
    let begin = Instant::now();
    sys::choose_signals();
    if cni::is_called() {
        return cni::run(Steps::new(false, begin));
    }
    let may_begin = cli::may_begin_early(std::env::args_os());
    let early = may_begin.then(run::begin).flatten();
    let cli = match cli::parse(std::env::args_os()).map_err(Error::new) {
        Ok(Asked::For(cli)) => cli,
        Ok(Asked::Text(text)) => return show(&text),
        Err(error) if cli::is_for_hook(std::env::args_os()) => return hook::refuse(error, begin),
        Err(error) => return Err(error),
    };
    let mut steps = Steps::new(cli.verbose, begin);
    // A start sweeps what is in its own way; `run` the rest, while its command runs. Doctor tells of it.
    let leaves_it = matches!(
        cli.action,
        Action::Run(_) | Action::Exec(_) | Action::Hook(_) | Action::Cni | Action::Doctor { .. }
    );
    let stays = match &cli.action {
        Action::Wait(_) => true,
        Action::Attach(options) => options.stay,
        _ => false,
    };
    if stays {
        reclaim::sweep_apart();
    } else if !leaves_it {
        reclaim::sweep();
        steps.done("sweep");
    }
    perform(cli.action, early, begin, steps)
}

fn perform(
    action: Action,
    early: Option<spawn::Early>,
    begin: Instant,
    mut steps: Steps,
) -> Result<u8> {
    let code = match action {
        Action::Run(options) => return run::run(*options, early, steps),
        Action::Exec(options) => return exec::exec(&options, steps),
        Action::Attach(options) => return attached::attach(&options, steps),
        Action::Cni => return cni::run(steps),
        Action::Hook(options) => return hook::hook(*options, begin, steps),
        Action::Detach(options) => attached::detach(&options).map(|()| 0),
        Action::Up {
            bridge,
            subnet,
            subnet6,
            no_ipv6,
        } => {
            run::need_privileges("make a network")?;
            let wanted = Wanted {
                subnet,
                address: None,
                subnet6,
                address6: None,
                ipv6: if no_ipv6 { Ipv6::Never } else { Ipv6::Wanted },
                gateway: None,
                policy: None,
                is_cut_out: false,
                is_leased_elsewhere: false,
                words: Words::OPTIONS,
            };
            let network = attach::ensure_bridge(&bridge, &wanted, &mut steps)
                .inspect_err(|_| state::remove_directory_if_empty())?;
            show(&format!("{network}\n"))
        }
        Action::Down { bridge, force } => {
            run::need_privileges("remove a network")?;
            let living = if force {
                detach::Living::Stop
            } else {
                detach::Living::Refuse
            };
            detach::down(&bridge, living, &mut steps).map(|()| 0)
        }
        Action::Doctor { json } => diagnose(json),
        Action::Restore => {
            run::need_privileges("restore the firewall")?;
            attach::restore().map(|()| 0)
        }
        Action::Ls { json } => list(json),
        Action::Inspect(of) => show(&inspect(&of.name)?),
        Action::Port(action) => port::port(&action),
        Action::Logs(of) => show_log(&of.name),
        Action::Wait(of) => show(&format!("{}\n", run::wait_for(&of.name)?)),
        Action::Stop { name, grace } => control::stop(&name, grace).map(|()| 0),
        Action::Rm(of) => run::forget(&of.name).map(|()| 0),
    }?;
    steps.total("all");
    Ok(code)
}

fn list(json: bool) -> Result<u8> {
    let rows = ls::list()?;
    let mut text = Vec::new();
    let written = if json {
        ls::write_json(&rows, &mut text)
    } else {
        ls::write_table(&rows, &mut text)
    };
    written.doing(|| "write the list".into())?;
    show(&String::from_utf8_lossy(&text))
}

/// 1 when anything is wrong.
fn diagnose(json: bool) -> Result<u8> {
    let found = doctor::examine()?;
    if json {
        show(&found.to_json())?;
    } else {
        show(&found.to_string())?;
        found.say_unseen();
    }
    Ok(found.code())
}

fn inspect(name: &str) -> Result<String> {
    match control::ask(name, "inspect") {
        Ok(answer) => Ok(answer),
        // Without a supervisor, what is known of an attachment is in a file.
        Err(error) => match attached::describe(name)? {
            Some(found) => Ok(found.to_json()),
            None => Err(control::no_such(name, &error)),
        },
    }
}

/// Prints. Nobody who reads it any more is no failure.
fn show(text: &str) -> Result<u8> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).doing(|| "write to standard output".into())
        }
        _ => Ok(0),
    }
}

fn show_log(name: &str) -> Result<u8> {
    let path = state::path(name, "log");
    let log = std::fs::File::open(&path)
        .doing(|| format!("open the log of {name}"))
        .map_err(|error| {
            error
                .cure(
                    nix::errno::Errno::ENOENT,
                    "only containers of run -d have one, until it is forgotten",
                )
                .cure(nix::errno::Errno::EACCES, "run as root (sudo)")
        })?;
    // Who has ended has left all of it there, and who does not answer all that there is.
    let _ = control::ask(name, "log");
    // No more than there is now: who writes faster than is read here would have no end.
    let now = log.metadata().map_or(u64::MAX, |log| log.len());
    let mut out = std::io::stdout();
    let shown = std::io::copy(&mut log.take(now), &mut out);
    // The last line may have no end.
    match shown.and_then(|_| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).doing(|| format!("show the log of {name}"))
        }
        _ => Ok(0),
    }
}
