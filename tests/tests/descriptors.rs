//! File descriptors: 0, 1 and 2, unless more are asked for.

use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use lab::{DEADLINE, Lab, Running, Terminal, case, collect, sys};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

fn file(lab: &Lab, text: &str) -> OwnedFd {
    let path = lab.dir.join(text);
    let options = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path);
    let mut file = options.expect("open a file");
    file.write_all(text.as_bytes()).expect("write it");
    file.rewind().expect("go back");
    file.into()
}

#[test]
fn only_three_are_open() {
    case(|lab| {
        let (third, ninth) = (file(lab, "third"), file(lab, "ninth"));
        for network in ["bridge", "ptp", "none", "host"] {
            let mut command = lab.run_command(
                &["--network", network],
                &["sh", "-c", "ls /proc/$$/fd; true"],
            );
            sys::pass_fd(&mut command, &ninth, 209);
            sys::pass_fd(&mut command, &third, 203);
            assert_eq!(collect(command, DEADLINE).ok(), "0\n1\n2", "{network}");
        }
    });
}

#[test]
fn only_three_are_open_in_the_command_itself() {
    case(|lab| {
        // ls opens the directory that it lists: descriptor 3, and nothing else above 2.
        assert_eq!(lab.run(&[], &["ls", "/proc/self/fd"]).ok(), "0\n1\n2\n3");
    });
}

#[test]
fn only_three_are_open_on_a_terminal() {
    case(|lab| {
        let mut terminal = Terminal::spawn(
            lab.run_command(&[], &["sh", "-c", "ls /proc/self/fd | wc -l; echo up"]),
        );
        assert!(terminal.until("up").contains('4'));
        terminal.end().exits(0);
    });
}

#[test]
fn asked_for_they_are_preserved() {
    case(|lab| {
        let (one, two, other) = (file(lab, "one"), file(lab, "two"), file(lab, "other"));
        let mut command = lab.run_command(
            &["--preserve-fds", "2"],
            &["sh", "-c", "cat <&3; cat <&4; ls /proc/self/fd | wc -l"],
        );
        // Well above what the three files themselves are: passing one must not overwrite another.
        sys::pass_fd(&mut command, &one, 103);
        sys::pass_fd(&mut command, &two, 104);
        sys::pass_fd(&mut command, &other, 105);
        sys::renumber(&mut command, &[(103, 3), (104, 4), (105, 5)]);
        let seen = collect(command, DEADLINE).ok();
        assert_eq!(seen, "onetwo6", "3, 4, and the directory; not 5");
    });
}

/// Who reads a pipe that the command was given hears of its end when the command closes it.
#[test]
fn they_are_the_commands_alone() {
    case(|lab| {
        for init in [&[][..], &["--init"]] {
            let (reader, writer) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
            let mut reader = std::fs::File::from(reader);
            let options = [init, &["--preserve-fds", "1"]].concat();
            let mut command = lab.run_command(
                &options,
                &["sh", "-c", "echo ready >&3; exec 3>&-; echo up; read x"],
            );
            sys::pass_fd(&mut command, &writer, 3);
            let mut running = Running::piped(command);
            drop(writer);
            running.until("up");
            reader.read_exact(&mut [0; 6]).expect("what it said");
            let mut end = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
            let deadline = PollTimeout::try_from(DEADLINE).expect("a deadline");
            assert_eq!(poll(&mut end, deadline), Ok(1), "{options:?}");
            running.end().exits(1);
        }
    });
}

#[test]
fn one_that_is_not_open_is_refused() {
    case(|lab| {
        let mut command = lab.run_command(&["--preserve-fds", "2"], &["true"]);
        let one = file(lab, "one");
        sys::pass_fd(&mut command, &one, 3);
        collect(command, DEADLINE).refused(&["descriptor 4", "EBADF", "3<FILE"]);
    });
}

#[test]
fn a_closed_stdin_is_not_replaced_by_something_of_ours() {
    case(|lab| {
        let program = lab::binary();
        let rootfs = lab.rootfs.display();
        let seen = lab::sh(&format!(
            "{0} run --rootfs {rootfs} -- sh -c 'ls -l /proc/1/fd >&1' <&- 2>&1 | grep -c -e pipe: -e socket: -e netlink -e anon_inode || true",
            program.display()
        ));
        // stdout and stderr are the pipe to grep: two lines and no more.
        assert!(seen.trim() == "2" || seen.trim() == "0", "{seen}");
    });
}

#[test]
fn one_that_a_volume_is_named_by_is_there() {
    case(|lab| {
        let source = lab.dir.join("data");
        std::fs::create_dir(&source).expect("a directory");
        std::fs::write(source.join("in"), "from the host").expect("a file");
        let source = std::fs::File::open(source).expect("open it").into();
        let mut command = lab.run_command(&["-v", "/dev/fd/207:/srv"], &["cat", "/srv/in"]);
        sys::pass_fd(&mut command, &source, 207);
        assert_eq!(collect(command, DEADLINE).ok(), "from the host");
    });
}
