//! A real machine: a kernel of a distribution under qemu, its console, and user-mode networking out of the lab's host.
//!
//! ```text
//! machine                        qemu, on the lab's host       internet
//!   eth0 (the test's to set) --  10.0.2.2, fec0::2  ---------  198.51.100.10, 2001:db8:2::10
//! ```
//! Its disk is an initramfs of busybox, our two programs and a script of a few lines. The script loads the drivers of
//! virtio, which are modules, and becomes init: still PID 1.

use std::collections::HashSet;
use std::env;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::case::{init_binary, skip};
use crate::net::Lab;
use crate::process::{Running, collect};
use crate::{rootfs, sh};

/// Longer than a machine takes that an emulator runs on two busy cores.
pub const PATIENCE: Duration = Duration::from_secs(120);

const EMULATOR: &str = "qemu-system-x86_64";
/// The drivers without which there is nothing.
const BUS: &str = "virtio_pci";
/// The driver of a network card.
pub const CARD: &str = "virtio_net";
/// The driver of a disk.
const DISK: &str = "virtio_blk";

/// A kernel as `.ci/machine` leaves it.
struct Kernel {
    image: PathBuf,
    /// Has lib/modules/RELEASE.
    root: PathBuf,
    release: String,
}

impl Kernel {
    /// None where there is none, or no emulator for it.
    fn find() -> Option<Self> {
        let mut emulator = Command::new(EMULATOR);
        emulator.arg("--version").stdout(Stdio::null());
        emulator.status().ok()?;
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/machine");
        let directory = env::var_os("TEST_MACHINE").map_or(target, PathBuf::from);
        let root = directory.join("root");
        let release = fs::read_dir(root.join("lib/modules")).ok()?.next()?.ok()?;
        Some(Self {
            image: directory.join("vmlinuz"),
            root,
            release: release.file_name().into_string().ok()?,
        })
    }

    /// The files of a module and of what it needs, in the order in which they are loaded: the line of modules.dep, backwards.
    fn module(&self, name: &str) -> Vec<PathBuf> {
        let modules = self.root.join("lib/modules").join(&self.release);
        let list = fs::read_to_string(modules.join("modules.dep")).expect("read modules.dep");
        let file = format!("/{name}.ko:");
        let line = list.lines().find(|line| line.contains(&file));
        let line = line.unwrap_or_else(|| panic!("no module {name} in {}", self.release));
        let paths = line.split_whitespace().rev();
        paths
            .map(|path| modules.join(path.trim_end_matches(':')))
            .collect()
    }
}

/// A machine that can be booted.
pub struct Machine {
    kernel: Kernel,
    directory: PathBuf,
    initramfs: PathBuf,
    disk: Option<PathBuf>,
    /// Lines of the script before the last one; they load the driver of the network cards, unless changed.
    pub before: String,
    /// The last line: what becomes of PID 1. `$@` is what the kernel passes on.
    pub last: String,
}

impl Machine {
    /// None, and a notice, where there is no kernel or no emulator for it.
    pub fn new(lab: &Lab) -> Option<Self> {
        let Some(kernel) = Kernel::find() else {
            skip("no kernel to boot, or no qemu for it: `make test` fetches both (.ci/machine)");
            return None;
        };
        let directory = lab.dir.join("machine");
        let initramfs = directory.join("initramfs");
        rootfs::make(&initramfs);
        fs::create_dir_all(initramfs.join("sbin")).expect("make a directory");
        fs::create_dir_all(initramfs.join("modules")).expect("make a directory");
        fs::copy(init_binary(), initramfs.join("sbin/init")).expect("copy init");
        let mut machine = Self {
            kernel,
            directory,
            initramfs,
            disk: None,
            before: String::new(),
            last: "exec /sbin/init --mounts --config cmdline \"$@\"".to_owned(),
        };
        machine.before = machine.load(CARD);
        Some(machine)
    }

    /// Its kernel's release, as `uname -r` says it.
    pub fn release(&self) -> &str {
        &self.kernel.release
    }

    /// Copies a program there.
    pub fn copy(&self, program: &Path, path: &str) {
        let path = self.initramfs.join(path.trim_start_matches('/'));
        fs::copy(program, path).expect("copy a program");
    }

    /// Puts a file there.
    pub fn file(&self, path: &str, text: &str) {
        let path = self.initramfs.join(path.trim_start_matches('/'));
        fs::write(path, text).expect("write a file of the machine");
    }

    /// Puts an executable script there.
    pub fn script(&self, path: &str, lines: &str) {
        let path = self.initramfs.join(path.trim_start_matches('/'));
        write_script(&path, "#!/bin/sh", lines);
    }

    /// Gives it a disk with a root filesystem that has these files, at the paths that they have here, and what they
    /// are linked with; busybox for all other commands; all modules. PID 1 is then a program of that disk.
    pub fn add_disk(&mut self, files: &[PathBuf], setup: impl FnOnce(&Path)) {
        let root = self.directory.join("root");
        make_root(&root, &self.kernel, files);
        setup(&root);
        let image = self.directory.join("disk");
        File::create(&image)
            .and_then(|file| file.set_len(1 << 30))
            .expect("make the file of a disk");
        sh(&format!(
            "PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 -O ^has_journal -d {} {}",
            root.display(),
            image.display()
        ));
        fs::remove_dir_all(&root).expect("remove what is on the disk now");
        self.before.push_str(
            "mount -t devtmpfs dev /dev\nmount -t ext4 /dev/vda /srv\nmount --move /dev /srv/dev\n",
        );
        self.last = self.last.replace("exec ", "exec busybox switch_root /srv ");
        self.disk = Some(image);
    }

    /// Switches it on with this kernel command line.
    pub fn boot(&self, cmdline: &str) -> Running {
        let mut command = Command::new(EMULATOR);
        command
            .args(["-no-user-config", "-nodefaults", "-display", "none"])
            .args(["-no-reboot", "-serial", "stdio", "-cpu", "max"])
            .args(["-accel", accelerator()])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(self.pack())
            .args([
                "-append",
                &format!("console=ttyS0 quiet panic=-1 {cmdline}"),
            ]);
        // The second network leads nowhere.
        for (id, restrict) in [("outside", "off"), ("nowhere", "on")] {
            command.args(["-netdev", &format!("user,id={id},restrict={restrict}")]);
            command.args(["-device", &format!("virtio-net-pci,netdev={id},romfile=")]);
        }
        if let Some(disk) = &self.disk {
            let drive = format!("if=virtio,format=raw,file={}", disk.display());
            command.args(["-smp", "2", "-m", "1024", "-drive", &drive]);
        } else {
            command.args(["-m", "192"]);
        }
        Running::piped(command)
    }

    /// Boots it, and gives what was on the console until it was off.
    #[track_caller]
    pub fn run(&self, cmdline: &str) -> String {
        self.run_within(cmdline, PATIENCE)
    }

    /// The same with a deadline of its own.
    #[track_caller]
    pub fn run_within(&self, cmdline: &str, deadline: Duration) -> String {
        let outcome = self.boot(cmdline).end_within(deadline).exits(0);
        let console = outcome.out().replace('\r', "");
        assert!(!console.contains("Kernel panic"), "{console}");
        console
    }

    /// The lines of a script that load a driver.
    pub fn load(&self, driver: &str) -> String {
        let mut lines = String::new();
        for module in self.kernel.module(driver) {
            let name = module.file_name().expect("a file").to_string_lossy();
            let target = format!("modules/{name}");
            fs::copy(&module, self.initramfs.join(&target)).expect("copy a module");
            // With the default a 6.1 kernel may not go off while it still sends: virtio_net's poll takes back what was sent, over
            // and over, from a device that is shut down already (seen in one of sixty machines).
            let options = if *name == *format!("{CARD}.ko") {
                "napi_tx=0"
            } else {
                ""
            };
            lines.push_str(&format!("insmod /{target} {options}\n"));
        }
        lines
    }

    /// Writes the script, unless the test has put something else in its place, and gives the initramfs as the kernel wants it.
    fn pack(&self) -> PathBuf {
        let mut script = self.load(BUS);
        if self.disk.is_some() {
            script.push_str(&self.load(DISK));
        }
        script.push_str(&self.before);
        script.push_str(&self.last);
        // What two drivers need is loaded by the first one.
        let mut seen = HashSet::new();
        let lines = script.lines();
        let script: Vec<&str> = lines
            .filter(|line| !line.starts_with("insmod") || seen.insert(*line))
            .collect();
        let init = self.initramfs.join("init");
        if !init.exists() {
            write_script(&init, "#!/bin/busybox sh", &script.join("\n"));
        }
        let archive = self.directory.join("initramfs.cpio");
        sh(&format!(
            "cd {} && find . | busybox cpio -o -H newc >{} 2>&-",
            self.initramfs.display(),
            archive.display()
        ));
        archive
    }
}

/// KVM where the processor says that it can, and where we may; an emulator elsewhere. The module alone proves nothing: in
/// a virtual machine it may be there and run no kernel that was not made for it.
fn accelerator() -> &'static str {
    let processor = fs::read_to_string("/proc/cpuinfo").expect("read cpuinfo");
    let can = processor
        .split_whitespace()
        .any(|flag| matches!(flag, "vmx" | "svm"));
    let may = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if can && may.is_ok() { "kvm" } else { "tcg" }
}

/// Writes a script that can be executed, and the directories above it.
pub fn write_script(path: &Path, first: &str, lines: &str) {
    let directory = path.parent().expect("a path in a directory");
    fs::create_dir_all(directory).expect("make a directory");
    fs::write(path, format!("{first}\n{lines}\n")).expect("write a script");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("make it executable");
}

/// A root filesystem of busybox, all modules, these files and what they are linked with.
fn make_root(root: &Path, kernel: &Kernel, files: &[PathBuf]) {
    rootfs::make(root);
    for directory in ["lib", "sbin"] {
        fs::create_dir_all(root.join(directory)).expect("make a directory");
    }
    sh(&format!(
        "cp -r {} {root}/lib/modules && ln -s ../bin/busybox {root}/sbin/modprobe",
        kernel.root.join("lib/modules").display(),
        root = root.display()
    ));
    fs::copy(init_binary(), root.join("sbin/init")).expect("copy init");
    for file in files {
        put(root, file);
        for library in libraries(file) {
            put(root, &library);
        }
    }
}

/// Copies a file to the path that it has here.
fn put(root: &Path, file: &Path) {
    let target = root.join(file.strip_prefix("/").expect("an absolute path"));
    fs::create_dir_all(target.parent().expect("a file in a directory")).expect("make a directory");
    let _ = fs::remove_file(&target);
    fs::copy(file, &target).unwrap_or_else(|error| panic!("copy {}: {error}", file.display()));
}

/// What the loader would load, the loader too.
fn libraries(file: &Path) -> Vec<PathBuf> {
    let mut ldd = Command::new("ldd");
    ldd.arg(file);
    let outcome = collect(ldd, PATIENCE).out();
    let words = outcome.split_whitespace();
    words
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(PathBuf::from)
        .collect()
}
