//! crun and runc with the reference plugins of CNI: called as an engine calls them, without a shell between, which is the
//! best that they can do.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use lab::{Lab, Netns, binary};
use serde_json::{Value, json};

use crate::contest::timed;
use crate::peers::find;
use crate::world::{Measure, Measured};

/// A CNI plugin, or a chain of two, with the configuration of one network.
pub struct Plugins {
    /// What `CNI_PATH` is.
    path: PathBuf,
    plugin: PathBuf,
    config: Value,
    chained: bool,
}

/// As engines pass a published port on: to container port 80.
fn ports(port: u16) -> Value {
    json!({"portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]})
}

impl Plugins {
    /// The reference bridge with its IPAM; `name` tells networks apart, `chained` adds portmap.
    pub fn reference(lab: &Lab, name: &str, chained: bool) -> Result<Self, String> {
        let plugin = find("/usr/lib/cni/bridge").ok_or("there are no CNI plugins")?;
        let path = plugin.parent().expect("a directory").to_owned();
        let config = json!({
            "cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
            "ipam": {
                "type": "host-local",
                "dataDir": lab.dir.join(format!("{name}.leases")),
                "ranges": [[{"subnet": "10.22.0.0/16"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        });
        Ok(Self {
            path,
            plugin,
            config,
            chained,
        })
    }

    /// Ours, with these networks' words.
    pub fn ours(lab: &Lab, bridge: &str, subnet: &str) -> Self {
        let path = lab.dir.join("plugins");
        fs::create_dir_all(&path).expect("make a directory");
        let plugin = path.join("hawser");
        if !plugin.exists() {
            std::os::unix::fs::symlink(binary(), &plugin).expect("link host-helper");
        }
        let config = json!({
            "cniVersion": "1.1.0", "name": "bench", "type": "hawser", "bridge": bridge, "isGateway": true, "ipMasq": true,
            "ipam": {"ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}]},
            "capabilities": {"portMappings": true},
        });
        Self {
            path,
            plugin,
            config,
            chained: false,
        }
    }

    /// ADD, with all of the chain.
    pub fn add(&self, id: &str, port: Option<u16>) -> Result<(), String> {
        let result = self.call(&self.plugin, "ADD", id, &self.config(port))?;
        let Some(mut portmap) = self.portmap(port) else {
            return Ok(());
        };
        portmap["prevResult"] =
            serde_json::from_slice(&result).map_err(|error| error.to_string())?;
        self.call(&self.path.join("portmap"), "ADD", id, &portmap)
            .map(drop)
    }

    /// DEL, in the other order.
    pub fn del(&self, id: &str, port: Option<u16>) -> Result<(), String> {
        if let Some(portmap) = self.portmap(port) {
            self.call(&self.path.join("portmap"), "DEL", id, &portmap)?;
        }
        self.call(&self.plugin, "DEL", id, &self.config(port))
            .map(drop)
    }

    /// GC, which leaves those of these containers.
    pub fn collect_garbage(&self, valid: &[String]) -> Result<(), String> {
        let mut config = self.config.clone();
        let valid = valid
            .iter()
            .map(|id| json!({"containerID": id, "ifname": "eth0"}));
        config["cni.dev/valid-attachments"] = valid.collect();
        self.call(&self.plugin, "GC", "", &config).map(drop)
    }

    fn config(&self, port: Option<u16>) -> Value {
        let mut config = self.config.clone();
        if let Some(port) = port.filter(|_| !self.chained) {
            config["runtimeConfig"] = ports(port);
        }
        config
    }

    fn portmap(&self, port: Option<u16>) -> Option<Value> {
        let port = port.filter(|_| self.chained)?;
        Some(json!({
            "cniVersion": "1.0.0", "name": self.config["name"], "type": "portmap",
            "capabilities": {"portMappings": true}, "runtimeConfig": ports(port),
        }))
    }

    /// One call, as the specification has it; what it prints.
    fn call(
        &self,
        plugin: &Path,
        command: &str,
        id: &str,
        config: &Value,
    ) -> Result<Vec<u8>, String> {
        let mut process = Command::new(plugin);
        process
            .env("CNI_COMMAND", command)
            .env("CNI_PATH", &self.path);
        if !id.is_empty() {
            process
                .env("CNI_CONTAINERID", id)
                .env("CNI_NETNS", format!("/run/netns/{id}"))
                .env("CNI_IFNAME", "eth0");
        }
        process
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let start = |error| format!("start {}: {error}", plugin.display());
        let mut child = process.spawn().map_err(start)?;
        let stdin = child.stdin.take();
        // One that does not read is one that fails, and says why.
        let _ = stdin.map(|mut stdin| stdin.write_all(config.to_string().as_bytes()));
        let output = child.wait_with_output().map_err(start)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).replace('\n', " ");
        Err(format!("{command} of {}: {text}", plugin.display()))
    }
}

/// A network namespace as engines make them, without a process.
pub struct Sandbox {
    path: String,
    /// The namespace itself.
    pub netns: Netns,
}

impl Sandbox {
    /// `/run/netns/ID`, until it is dropped.
    pub fn new(id: &str) -> Self {
        Self {
            path: format!("/run/netns/{id}"),
            netns: Netns::bare(id),
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = nix::mount::umount(self.path.as_str());
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the bundle; each measurement is netns, ADD, run, DEL, the netns gone. The second way has a port.
pub fn set_up<'a>(lab: &'a Lab, runtime: &'static str) -> Result<Measure<'a>, String> {
    let program = find(runtime).ok_or("there is none")?;
    let lab = lab.beside(runtime);
    // Where both versions of control groups are mounted crun refuses to work, though it is told to use none.
    let _ = nix::mount::umount("/sys/fs/cgroup/unified");
    let ways = [false, true].map(|ports| {
        let name = if ports { "ports" } else { "plain" };
        Plugins::reference(&lab, name, ports)
    });
    let mut all = vec![];
    for way in ways {
        all.push(way?);
    }
    let specification = specification(&lab, &program)?;
    Ok(Box::new(move |way, round| {
        let id = format!("{runtime}-bench-{way}-{round}");
        whole(&lab, &program, &all[way], &specification, &id)
    }))
}

fn whole(
    lab: &Lab,
    runtime: &Path,
    plugins: &Plugins,
    specification: &Value,
    id: &str,
) -> Measured {
    let start = Instant::now();
    let sandbox = Sandbox::new(id);
    let port = Some(8080);
    let done = plugins.add(id, port).and_then(|()| {
        let mut specification = specification.clone();
        let namespaces = specification["linux"]["namespaces"].as_array_mut();
        for one in namespaces.into_iter().flatten() {
            if one["type"] == "network" {
                one["path"] = json!(format!("/run/netns/{id}"));
            }
        }
        let file = lab.dir.join("config.json");
        fs::write(file, specification.to_string()).map_err(|error| error.to_string())?;
        let mut run = Command::new(runtime);
        if runtime.ends_with("crun") {
            run.arg("--cgroup-manager=disabled");
        }
        run.arg("run").arg("--bundle").arg(&lab.dir).arg(id);
        timed(run)
    });
    let deleted = plugins.del(id, port);
    drop(sandbox);
    done.and(deleted).map(|()| start.elapsed())
}

/// What the runtime itself proposes, without a terminal, and without control groups, which others do without too.
fn specification(lab: &Lab, runtime: &Path) -> Result<Value, String> {
    let made = Command::new(runtime)
        .arg("spec")
        .current_dir(&lab.dir)
        .output();
    let failed = |error: &dyn std::fmt::Display| format!("make a bundle: {error}");
    made.map_err(|error| failed(&error))?;
    let text = fs::read_to_string(lab.dir.join("config.json")).map_err(|error| failed(&error))?;
    let mut all: Value = serde_json::from_str(&text).map_err(|error| failed(&error))?;
    all["process"]["terminal"] = json!(false);
    all["process"]["args"] = json!(["/bin/true"]);
    all["root"]["path"] = json!(lab.rootfs);
    if let Some(linux) = all["linux"].as_object_mut() {
        linux.remove("resources");
    }
    let without = |list: &mut Value| {
        if let Some(list) = list.as_array_mut() {
            list.retain(|one| one["type"] != "cgroup");
        }
    };
    without(&mut all["linux"]["namespaces"]);
    without(&mut all["mounts"]);
    Ok(all)
}
