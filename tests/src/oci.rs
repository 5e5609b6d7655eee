//! Bundles of OCI runtimes with host-helper as their hook, and Debian's runc and crun for them.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::process::{DEADLINE, Outcome, Running, collect};
use crate::{Lab, binary, skip};

/// A directory with a config.json.
pub struct Bundle {
    /// Where it is.
    pub path: PathBuf,
    /// What is in its config.json; [`Bundle::write`] puts it there.
    pub config: Value,
}

/// One hook: host-helper with these options.
pub fn hook(options: &[&str]) -> Value {
    let args = [&["host-helper", "hook"], options].concat();
    json!({"path": binary(), "args": args, "timeout": 20})
}

impl Lab {
    /// A bundle whose container runs `sh -c SCRIPT`, with our hooks under all of their names.
    pub fn bundle(&self, name: &str, script: &str) -> Bundle {
        let capabilities = ["CAP_NET_RAW", "CAP_NET_BIND_SERVICE"];
        let kinds = ["pid", "network", "ipc", "uts", "mount"];
        let namespaces = kinds.map(|kind| json!({"type": kind}));
        let number = fs::metadata("/proc/self/ns/pid")
            .expect("look at the PID namespace")
            .ino();
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["sh", "-c", script],
                "env": ["PATH=/bin"],
                "cwd": "/",
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities
                }
            },
            "root": {"path": self.rootfs, "readonly": true},
            "hostname": name,
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}
            ],
            "hooks": {
                "prestart": [hook(&[])], "createRuntime": [hook(&[])], "poststop": [hook(&[])]
            },
            "annotations": {},
            "linux": {
                // Control groups are the machine's.
                "cgroupsPath": format!("/hawser-test-{number}-{name}"),
                "namespaces": namespaces
            }
        });
        let path = self.dir.join("bundles").join(name);
        fs::create_dir_all(&path).expect("make a directory");
        let bundle = Bundle { path, config };
        bundle.write();
        bundle
    }

    /// host-helper hook with these options, this state on its standard input, not started yet.
    pub fn hook_command(&self, options: &[&str], state: &str) -> Command {
        let path = self.dir.join("state");
        let mut file = File::create(&path).expect("make a file");
        file.write_all(state.as_bytes()).expect("write a state");
        let mut command = self.command(&[&["hook"], options].concat());
        command.stdin(File::open(path).expect("open a state"));
        command
    }

    /// The same, run to its end.
    pub fn hook(&self, options: &[&str], state: &str) -> Outcome {
        collect(self.hook_command(options, state), DEADLINE)
    }

    /// runc or crun. None: this machine cannot run one, which was said.
    pub fn oci(&self, program: &'static str) -> Option<Oci> {
        if !self.real_root {
            skip("runc and crun need the real root here");
            return None;
        }
        let path = if program == "runc" {
            "/usr/sbin/runc"
        } else {
            "/usr/bin/crun"
        };
        self.lay_debian(path);
        // Where both versions of control groups are mounted crun refuses to work, though it is told to use none.
        let _ = nix::mount::umount("/sys/fs/cgroup/unified");
        Some(Oci {
            program: path,
            state: self.dir.join(program),
        })
    }
}

impl Bundle {
    /// Writes its config.json.
    pub fn write(&self) {
        fs::write(self.path.join("config.json"), self.config.to_string()).expect("write a config");
    }

    /// The same with an annotation.
    #[must_use]
    pub fn annotated(mut self, name: &str, value: &str) -> Self {
        self.config["annotations"][name] = value.into();
        self.write();
        self
    }

    /// The state of a container of it, as a runtime writes it; `pid` 0: it has none any more.
    pub fn state(&self, id: &str, status: &str, pid: i32) -> String {
        json!({
            "ociVersion": "1.0.2", "id": id, "status": status, "pid": pid, "bundle": self.path,
            "annotations": self.config["annotations"]
        })
        .to_string()
    }

    /// A process in namespaces as a runtime has made them when it calls its hooks: the root is mounted, and not yet `/`. It
    /// ends with its input.
    pub fn created(&self) -> Running {
        let root = self.config["root"]["path"].as_str().expect("a root");
        let script = format!("mount --bind {root} {root} && echo up && exec cat");
        let mut command = Command::new("unshare");
        command
            .args(["-n", "-m", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut running = Running::spawn(command);
        running.until("up");
        // Its name is the same from here on.
        let name = format!("/proc/{}/comm", running.pid());
        crate::wait_untold("it waits for its input", || {
            fs::read_to_string(&name).is_ok_and(|name| name == "cat\n")
        });
        running
    }
}

/// An OCI runtime.
pub struct Oci {
    program: &'static str,
    state: PathBuf,
}

impl Oci {
    /// `runc ARGUMENTS`, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        if self.program.ends_with("crun") {
            command.arg("--cgroup-manager=disabled");
        }
        command
            .arg("--root")
            .arg(&self.state)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// The same, run to its end.
    pub fn call(&self, arguments: &[&str]) -> Outcome {
        collect(self.command(arguments), DEADLINE)
    }

    /// `runc run ID`, left running, with a pipe as stdin.
    pub fn start(&self, bundle: &Bundle, id: &str) -> Running {
        let mut command = self.command(&["run", "--bundle", &bundle.path.to_string_lossy(), id]);
        command.stdin(Stdio::piped());
        Running::spawn(command)
    }

    /// The same, to its end.
    pub fn run(&self, bundle: &Bundle, id: &str) -> Outcome {
        self.start(bundle, id).end()
    }
}
