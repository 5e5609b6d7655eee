//! Real clients of CNI plugins: Debian's containerd with `ctr`, and its podman with the CNI backend. They find the reference plugins and
//! ours, called `hawser`, in `/opt/cni/bin`, and the networks of the case alone in `/etc/cni/net.d`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use crate::debian::{Daemon, Runtime};
use crate::process::Running;
use crate::{Lab, binary, sh, skip};

/// Where clients look for plugins and networks, as they come.
pub const PLUGINS: &str = "/opt/cni/bin";
const NETWORKS: &str = "/etc/cni/net.d";
/// Parts of containerd that look for what a test has not.
const WITHOUT: &str = r#"["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]"#;

impl Lab {
    /// containerd by `ctr`, whose containers have the network that is in `/etc/cni/net.d`. Each needs an option `--cgroup` below
    /// [`Runtime::group`]. None: this machine cannot run one, which was said.
    pub fn containerd(&self) -> Option<Runtime> {
        let group = self.daemon_group("containerd")?;
        self.lay_debian("/usr/bin/containerd");
        self.lay_plugins();
        let home = self.dir.join("containerd");
        fs::create_dir_all(&home).expect("make a directory");
        let place = |name: &str| home.join(name).to_string_lossy().into_owned();
        let socket = place("socket");
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = {WITHOUT}\n[grpc]\naddress = {socket:?}\n\
            [plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n",
            place("root"),
            place("state"),
            place("opt")
        );
        let file = place("config.toml");
        fs::write(&file, config).expect("configure containerd");
        let mut command = Command::new("/usr/bin/containerd");
        command.args(["--config", &file]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut running = Running::spawn(command);
        running.until_stderr("successfully booted");
        Some(Runtime {
            program: "/usr/bin/ctr",
            globals: vec!["--address".into(), socket],
            options: vec!["--rm", "--cni", "--snapshotter", "native"],
            variables: vec![],
            daemon: Some(Daemon {
                running: Some(running),
                group,
            }),
        })
    }

    /// podman with the CNI backend. None: see [`Lab::containerd`].
    pub fn podman_cni(&self) -> Option<Runtime> {
        let network = format!(
            "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{PLUGINS}\"]\nnetwork_config_dir = \"{NETWORKS}\""
        );
        let podman = self.podman_with("", &network)?;
        self.lay_plugins();
        Some(podman)
    }

    /// Debian's plugins and ours, and no client. False: this machine cannot, which was said.
    pub fn plugins(&self) -> bool {
        if !self.real_root {
            skip("laying plugins over / needs the real root");
            return false;
        }
        self.lay_debian("/usr/lib/cni/bridge");
        self.lay_plugins();
        true
    }

    /// Links to Debian's plugins, and to ours; no network.
    fn lay_plugins(&self) {
        let none = MsFlags::empty();
        mount(Some("opt"), "/opt", Some("tmpfs"), none, Some("mode=0755")).expect("tmpfs on /opt");
        fs::create_dir_all(PLUGINS).expect("make a directory");
        for plugin in fs::read_dir("/usr/lib/cni").expect("Debian's plugins") {
            let plugin = plugin.expect("one of Debian's plugins");
            symlink(plugin.path(), Path::new(PLUGINS).join(plugin.file_name()))
                .expect("link a plugin");
        }
        symlink(binary(), Path::new(PLUGINS).join("hawser")).expect("link host-helper");
        let _ = fs::remove_dir_all(NETWORKS);
        fs::create_dir_all(NETWORKS).expect("make a directory");
    }

    /// A network of these plugins, in the place of one of the same name.
    pub fn write_network(&self, name: &str, plugins: &[Value]) {
        let list = json!({ "cniVersion": "1.0.0", "name": name, "plugins": plugins });
        self.write_conflist(name, &list);
    }

    /// The list of plugins that docs/cluster.md has for a file of that name.
    pub fn documented(file: &str) -> Vec<Value> {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cluster.md");
        let text = fs::read_to_string(page).expect("read docs/cluster.md");
        let (_, rest) = text
            .split_once(&format!("{file}`"))
            .unwrap_or_else(|| panic!("{file} in docs/cluster.md"));
        let block = rest.split("```").nth(1).expect("a block of code");
        let block = block
            .strip_prefix("json\n")
            .expect("the first block is JSON");
        let list: Value = serde_json::from_str(block).expect("it is JSON");
        list["plugins"].as_array().expect("plugins").clone()
    }

    /// The same as it is.
    pub fn write_conflist(&self, file: &str, list: &Value) {
        let place = format!("{NETWORKS}/{file}.conflist");
        fs::write(place, list.to_string()).expect("write a network");
    }

    /// An archive of an image `docker.io/library/box:latest` with busybox, for `ctr image import`.
    pub fn image(&self) -> String {
        let layer = self.archive("box", &[]);
        let image = self.dir.join("image");
        fs::create_dir_all(&image).expect("make a directory");
        fs::rename(&layer, image.join("layer.tar")).expect("move an archive");
        let sum = sh(&format!("sha256sum <{}/layer.tar", image.display()));
        let sum = sum.split_whitespace().next().expect("a sum");
        let machine = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = json!({ "architecture": machine, "os": "linux", "config": { "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{sum}")] } });
        let manifest = json!([{ "Config": "config.json", "RepoTags": ["docker.io/library/box:latest"], "Layers": ["layer.tar"] }]);
        fs::write(image.join("config.json"), config.to_string()).expect("write a configuration");
        fs::write(image.join("manifest.json"), manifest.to_string()).expect("write a manifest");
        let archive = self.dir.join("image.tar").to_string_lossy().into_owned();
        sh(&format!(
            "/bin/busybox tar -C {} -cf {archive} .",
            image.display()
        ));
        archive
    }
}

impl Runtime {
    /// The control group of this container of a daemon.
    pub fn group(&self, container: &str) -> String {
        let daemon = self.daemon.as_ref().expect("a daemon has a control group");
        format!("/{}/{container}", daemon.group)
    }
}
