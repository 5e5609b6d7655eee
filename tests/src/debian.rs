//! Debian's container runtimes (and what firewalls.rs has), laid over `/` in the mount namespace of a case (see .ci/unpack): dockerd and podman as
//! they would be if they were installed, with nothing of theirs on the machine.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};

use crate::process::{DEADLINE, Outcome, Running, collect, wait_for_end, wait_untold};
use crate::{Lab, init_binary, rootfs, sh, skip, sys};

/// The client of one runtime, with all that it takes to reach it.
pub struct Runtime {
    pub(crate) program: &'static str,
    pub(crate) globals: Vec<String>,
    /// Of `run`, in front of all others.
    pub options: Vec<&'static str>,
    pub(crate) variables: Vec<(&'static str, String)>,
    pub(crate) daemon: Option<Daemon>,
}

/// dockerd or containerd, and the control groups of its containers. Dropping it ends it, waits for that, and takes them back.
pub(crate) struct Daemon {
    pub(crate) running: Option<Running>,
    pub(crate) group: String,
}

impl Lab {
    /// Lays the packages over `/usr`, `/etc` and `/var`; what is written there is written for this case alone. `program`
    /// is there then.
    pub(crate) fn lay_debian(&self, program: &str) {
        let unpacked = std::env::var_os("DEBIAN_ROOT").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debian"),
            PathBuf::from,
        );
        for name in ["usr", "etc", "var"] {
            let [upper, work] = ["upper", "work"].map(|kind| self.dir.join(kind).join(name));
            fs::create_dir_all(&upper).expect("make a directory");
            fs::create_dir_all(&work).expect("make a directory");
            let theirs = unpacked.join(name);
            let over = if theirs.is_dir() {
                format!("{}:", theirs.display())
            } else {
                String::new()
            };
            let data = format!(
                "lowerdir={over}/{name},upperdir={},workdir={}",
                upper.display(),
                work.display()
            );
            let target = format!("/{name}");
            mount(
                Some("overlay"),
                target.as_str(),
                Some("overlay"),
                MsFlags::empty(),
                Some(data.as_str()),
            )
            .unwrap_or_else(|error| panic!("lay {data} over {target}: {error}"));
        }
        assert!(
            Path::new(program).exists(),
            "{program} is missing: run `make test`, or set DEBIAN_ROOT"
        );
    }

    /// A link of that name to init.
    pub fn link(&self, name: &str) -> PathBuf {
        let path = self.dir.join("links").join(name);
        fs::create_dir_all(self.dir.join("links")).expect("make a directory");
        if !path.exists() {
            symlink(init_binary(), &path).expect("link init");
        }
        path
    }

    /// A dockerd without a network whose init is ours, or Debian's. None: this machine cannot run one, which was said.
    pub fn docker(&self, init: Option<&Path>) -> Option<Runtime> {
        let mut options = vec![
            "--bridge=none".into(),
            "--iptables=false".into(),
            "--ip6tables=false".into(),
            "--ip-forward=false".into(),
        ];
        if let Some(init) = init {
            options.extend(["--init-path".into(), init.as_os_str().to_owned()]);
        }
        self.dockerd(&options)
    }

    /// A dockerd with its bridge and its firewall, as Debian starts it. None: as above.
    pub fn docker_with_network(&self) -> Option<Runtime> {
        self.dockerd(&[])
    }

    fn dockerd(&self, options: &[OsString]) -> Option<Runtime> {
        let group = self.daemon_group("dockerd")?;
        let parent = format!("/{group}");
        self.lay_debian("/usr/sbin/dockerd");
        let home = self.dir.join("docker");
        let socket = format!("unix://{}/socket", home.display());
        let mut dockerd = Command::new("/usr/sbin/dockerd");
        dockerd.args(["--host", &socket]).args(options);
        dockerd.args([
            // As on a machine where nobody chooses: vfs copies the image for each container.
            "--storage-driver=overlay2",
            "--exec-opt=native.cgroupdriver=cgroupfs",
            "--cgroup-parent",
            &parent,
        ]);
        for (option, name) in [
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
        ] {
            dockerd.arg(option).arg(home.join(name));
        }
        dockerd
            .env_remove("HOME")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut daemon = Daemon {
            running: Some(Running::spawn(dockerd)),
            group,
        };
        if let Some(running) = &mut daemon.running {
            running.until_stderr("API listen on");
        }
        let config = home.join("config").to_string_lossy().into_owned();
        Some(Runtime {
            program: "/usr/bin/docker",
            globals: vec![],
            options: vec!["--network=none"],
            variables: vec![("DOCKER_HOST", socket), ("DOCKER_CONFIG", config)],
            daemon: Some(daemon),
        })
    }

    /// A control group in each hierarchy for the containers of a daemon. None: this machine cannot run one, which was said.
    pub(crate) fn daemon_group(&self, daemon: &str) -> Option<String> {
        if !self.real_root {
            skip(&format!("{daemon} needs the real root"));
            return None;
        }
        // Control groups are the machine's. A new PID namespace has a number that no other has now.
        let number = fs::metadata("/proc/self/ns/pid")
            .expect("look at the PID namespace")
            .ino();
        let group = format!("hawser-test-{number}");
        if !make_group(&group) {
            skip(&format!(
                "{daemon} needs control groups that can be written to"
            ));
            return None;
        }
        Some(group)
    }

    /// podman, which finds its pause program as a link to init. None: see [`Lab::docker`].
    pub fn podman(&self) -> Option<Runtime> {
        self.podman_with("netns = \"none\"", "")
    }

    /// The same with these lines in the sections `containers` and, with its head, `network`.
    pub(crate) fn podman_with(&self, containers: &str, network: &str) -> Option<Runtime> {
        if !self.real_root {
            skip("laying podman over / needs the real root");
            return None;
        }
        self.lay_debian("/usr/bin/podman");
        // Where both versions of control groups are mounted crun refuses to work, though it is told to use none.
        let _ = nix::mount::umount("/sys/fs/cgroup/unified");
        let home = self.dir.join("podman");
        fs::create_dir_all(&home).expect("make a directory");
        let helpers = self.link("catatonit");
        let helpers = helpers.parent().expect("the directory of links").display();
        let config = format!(
            "[containers]\ncgroups = \"disabled\"\n{containers}\nlog_driver = \"k8s-file\"\n\
            default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
            [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"crun\"\n\
            helper_binaries_dir = [\"{helpers}\"]\n{network}\n"
        );
        let file = home.join("containers.conf");
        fs::write(&file, config).expect("write containers.conf");
        let place = |name: &str| home.join(name).to_string_lossy().into_owned();
        Some(Runtime {
            program: "/usr/bin/podman",
            globals: [
                "--root",
                &place("root"),
                "--runroot",
                &place("run"),
                "--storage-driver=vfs",
            ]
            .map(String::from)
            .into(),
            options: vec![],
            variables: vec![("CONTAINERS_CONF", file.to_string_lossy().into_owned())],
            daemon: None,
        })
    }

    /// A tar archive of a root filesystem with busybox, and with these programs at these places in it.
    pub fn archive(&self, name: &str, programs: &[(&str, &Path)]) -> PathBuf {
        let root = self.dir.join(format!("{name}.root"));
        rootfs::make(&root);
        for (place, program) in programs {
            let place = root.join(place);
            fs::create_dir_all(place.parent().expect("a directory")).expect("make a directory");
            fs::copy(program, place).expect("copy a program");
        }
        let archive = self.dir.join(format!("{name}.tar"));
        sh(&format!(
            "/bin/busybox tar -C {} -cf {} .",
            root.display(),
            archive.display()
        ));
        archive
    }
}

impl Runtime {
    /// `docker ARGUMENTS`, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command
            .args(&self.globals)
            .args(arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// The same, run to its end.
    pub fn call(&self, arguments: &[&str]) -> Outcome {
        collect(self.command(arguments), DEADLINE)
    }

    /// `docker run OPTIONS ARGUMENTS`, not started yet.
    pub fn run_command(&self, arguments: &[&str]) -> Command {
        self.command(&[&["run"], &self.options[..], arguments].concat())
    }

    /// The same, run to its end.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        collect(self.run_command(arguments), DEADLINE)
    }

    /// Ends the daemon, if there is one, and looks that it leaves nothing on the machine.
    pub fn end(mut self) {
        if let Some(daemon) = &mut self.daemon {
            assert!(daemon.end(), "control groups are left: {}", daemon.group);
        }
    }
}

impl Daemon {
    /// False when a control group is left.
    fn end(&mut self) -> bool {
        if let Some(running) = self.running.take() {
            running.signal(libc::SIGTERM);
            running.end();
        }
        remove_group(&self.group)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.running = None;
        }
        self.end();
    }
}

/// A control group in each hierarchy, gone with this.
pub struct Group(String);

impl Group {
    /// None: this machine has none to make, which was said.
    pub fn new(lab: &Lab) -> Option<Self> {
        lab.daemon_group("a container in a group").map(Self)
    }

    /// Its name, the last of each path.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Makes a command begin in it, but for the hierarchies that take nobody yet (cpuset).
    pub fn hold(&self, command: &Command) -> Command {
        let script = "for place; do shift; test \"$place\" = -- && break
            { echo 0 >\"$place/cgroup.procs\"; } 2>/dev/null; done; exec \"$@\"";
        let mut held = Command::new("/bin/sh");
        held.args(["-c", script, "sh"]).args(places(&self.0));
        held.arg("--")
            .arg(command.get_program())
            .args(command.get_args());
        held
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What outlives a run by some milliseconds is in it too.
        wait_untold("its group is gone", || {
            remove_group(&self.0) || std::thread::panicking()
        });
    }
}

/// Where it is in each hierarchy.
fn places(group: &str) -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    if root.join("cgroup.procs").exists() {
        return vec![root.join(group)];
    }
    let hierarchies = fs::read_dir(&root).into_iter().flatten().flatten();
    hierarchies
        .filter(|one| one.path().join("cgroup.procs").exists())
        .map(|one| one.path().join(group))
        .collect()
}

fn make_group(group: &str) -> bool {
    let places = places(group);
    // The number may have been that of a test which was killed, and left its group.
    let all = places.iter().all(|place| {
        let made = fs::create_dir(place);
        made.is_ok() || made.is_err_and(|error| error.kind() == ErrorKind::AlreadyExists)
    });
    all && !places.is_empty()
}

/// What is in them is killed, and they are removed from below.
fn remove_group(group: &str) -> bool {
    for place in places(group).iter().filter(|place| place.exists()) {
        let found = sh(&format!("find {} -depth -type d", place.display()));
        for directory in found.lines() {
            // There are some only after a failure. 0 is a process of another PID namespace, and no process of ours.
            let left = fs::read_to_string(format!("{directory}/cgroup.procs")).unwrap_or_default();
            for pid in left
                .lines()
                .filter_map(|pid| pid.parse().ok())
                .filter(|pid| *pid > 0)
            {
                if let Ok(process) = sys::pidfd(pid) {
                    let _ = sys::pidfd_signal(&process, libc::SIGKILL);
                    wait_for_end(pid);
                }
            }
            let _ = fs::remove_dir(directory);
        }
    }
    !places(group).iter().any(|place| place.exists())
}
