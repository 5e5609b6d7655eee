//! crun and runc with the reference plugins of CNI: called as an engine calls them, without a shell between, which is the
//! best that they can do.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use lab::{Lab, Netns};
use serde_json::{Value, json};

use crate::contest::timed;
use crate::peers::find;
use crate::world::{Measure, Measured};

/// Where the plugins are, and how one network of theirs is configured.
pub struct Plugins {
    path: PathBuf,
    config: String,
    chained: Option<Value>,
}

impl Plugins {
    /// The bridge plugin with its IPAM; `name` tells networks apart, `ports` adds portmap.
    pub fn new(lab: &Lab, name: &str, ports: bool) -> Result<Self, String> {
        let bridge = find("/usr/lib/cni/bridge").ok_or("there are no CNI plugins")?;
        let path = bridge.parent().expect("a directory").to_owned();
        let ipam = json!({
            "type": "host-local",
            "dataDir": lab.dir.join(format!("{name}.leases")),
            "ranges": [[{"subnet": "10.22.0.0/16"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        });
        let config = json!({
            "cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
            "ipam": ipam,
        });
        let chained = ports.then(|| {
            json!({
                "cniVersion": "1.0.0", "name": name, "type": "portmap", "capabilities": {"portMappings": true},
                "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
            })
        });
        Ok(Self {
            path,
            config: config.to_string(),
            chained,
        })
    }

    /// ADD, for all plugins of the list.
    pub fn add(&self, id: &str) -> Result<(), String> {
        let result = self.call("bridge", "ADD", id, &self.config)?;
        let Some(mut portmap) = self.chained.clone() else {
            return Ok(());
        };
        portmap["prevResult"] =
            serde_json::from_slice(&result).map_err(|error| error.to_string())?;
        self.call("portmap", "ADD", id, &portmap.to_string())
            .map(drop)
    }

    /// DEL, in the other order.
    pub fn del(&self, id: &str) -> Result<(), String> {
        if let Some(portmap) = &self.chained {
            self.call("portmap", "DEL", id, &portmap.to_string())?;
        }
        self.call("bridge", "DEL", id, &self.config).map(drop)
    }

    fn call(&self, plugin: &str, command: &str, id: &str, config: &str) -> Result<Vec<u8>, String> {
        call(&self.path, &self.path.join(plugin), command, id, config)
    }
}

/// One call of a plugin, as the specification has it; what it prints.
pub fn call(
    path: &Path,
    plugin: &Path,
    command: &str,
    id: &str,
    config: &str,
) -> Result<Vec<u8>, String> {
    let mut process = Command::new(plugin);
    process
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", id)
        .env("CNI_NETNS", format!("/run/netns/{id}"))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let start = |error| format!("start {}: {error}", plugin.display());
    let mut child = process.spawn().map_err(start)?;
    let stdin = child.stdin.take();
    // One that does not read is one that fails, and says why.
    let _ = stdin.map(|mut stdin| stdin.write_all(config.as_bytes()));
    let output = child.wait_with_output().map_err(start)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).replace('\n', " ");
    Err(format!("{command} of {}: {text}", plugin.display()))
}

/// Makes the bundle; each measurement is netns, ADD, run, DEL, the netns gone. The second way has a port.
pub fn set_up<'a>(lab: &'a Lab, runtime: &'static str) -> Result<Measure<'a>, String> {
    let program = find(runtime).ok_or("there is none")?;
    let lab = lab.beside(runtime);
    // Where both versions of control groups are mounted crun refuses to work, though it is told to use none.
    let _ = nix::mount::umount("/sys/fs/cgroup/unified");
    let ways = [false, true].map(|ports| {
        let name = if ports { "ports" } else { "plain" };
        Plugins::new(&lab, name, ports)
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
    let netns = Netns::bare(id);
    let done = plugins.add(id).and_then(|()| {
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
    let deleted = plugins.del(id);
    let path = format!("/run/netns/{id}");
    let _ = nix::mount::umount(path.as_str());
    let _ = fs::remove_file(&path);
    drop(netns);
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
