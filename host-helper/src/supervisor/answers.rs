//! Answers to those who ask on the control socket.

use std::io::Write;
use std::time::Duration;

use super::wake::CLIENTS;
use super::{Supervisor, ports};
use crate::control::Request;
use crate::netlink::Netlink;
use crate::nft;
use crate::owner::namespace;
use crate::publish;

/// The answer to who would wait, and has the last descriptor.
const NO_PLACE: &str = "error its supervisor has no descriptor left for one more who waits; raise the hard limit (ulimit -Hn)\n";

impl Supervisor {
    pub(super) fn serve(&mut self, ready: &[bool]) {
        let mut at = CLIENTS + self.clients.len();
        self.waiting.retain(|_| {
            at += 1;
            !ready.get(at - 1).copied().unwrap_or(false)
        });
        let clients = std::mem::take(&mut self.clients);
        for (at, mut client) in (CLIENTS..).zip(clients) {
            let is_ready = ready.get(at).copied().unwrap_or(false);
            match if is_ready { client.read() } else { None } {
                None => self.clients.push(client),
                Some(Ok(asked @ (Request::Inspect | Request::Join))) => {
                    self.is_shared |= asked == Request::Join;
                    self.describe();
                    self.answered
                        .extend(client.answer(&self.description.to_json()));
                }
                Some(Ok(Request::Restore)) => {
                    let restored = self.restore_rules();
                    let answer = restored.map_or_else(
                        |error| format!("error {error}\n"),
                        |()| "done\n".to_string(),
                    );
                    self.answered.extend(client.answer(&answer));
                }
                Some(Ok(Request::Log)) => {
                    // Elsewhere it would wait for who reads.
                    if self.description.is_detached {
                        self.drain();
                    }
                    self.answered.extend(client.answer("done\n"));
                }
                Some(Ok(Request::AddPorts(range))) => {
                    let added = self.add_ports(range);
                    let told = client.answer(&ports::answer(&added));
                    // Who has given up waiting has said that it failed, and knows no free port's number.
                    for range in added.iter().flatten().filter(|_| told.is_none()) {
                        let _ = self.remove_ports(*range);
                    }
                }
                Some(Ok(Request::RemovePorts(range))) => {
                    drop(client.answer(&ports::answer(&self.remove_ports(range))));
                }
                // Else nobody could end it any more.
                Some(Ok(Request::Wait)) if self.spare.is_none() => {
                    self.answered.extend(client.answer(NO_PLACE));
                }
                Some(Ok(Request::Wait)) => self.waiting.push(client.stream),
                Some(Ok(Request::Stop(seconds))) => {
                    self.waiting.push(client.stream);
                    let before = self.kill_at;
                    self.forward(libc::SIGTERM);
                    if self.ours.is_none() && self.killed_for.is_none() {
                        self.kill_after(Duration::from_secs(seconds));
                        // Whoever has asked before does not wait longer for that.
                        let both = before.into_iter().chain(self.kill_at);
                        self.kill_at = both.min();
                    }
                }
                Some(Err(text)) => self
                    .answered
                    .extend(client.answer(&format!("error {text}\n"))),
            }
        }
        if self.spare.is_none() {
            self.answered.clear();
        }
    }

    /// To who waits for that, also who has asked a moment ago; others hear of nothing, and that says it.
    pub(super) fn tell_end(&mut self, code: u8) {
        let late = self.clients.drain(..).filter_map(|mut client| {
            let asked = client.read()?.ok()?;
            matches!(asked, Request::Wait | Request::Stop(_)).then_some(client.stream)
        });
        for mut client in self.waiting.drain(..).chain(late) {
            let _ = client.write_all(format!("exit {code}\n").as_bytes());
        }
    }

    /// What changes while it lives.
    fn describe(&mut self) {
        if self.description.egress.is_some() {
            let entry = self.container.entry.as_mut();
            self.description.refused = entry.map(nft::Entry::refused);
        }
        if let Some(pid) = self.description.pid.filter(|_| self.ours.is_none()) {
            self.description.netns = namespace(&pid.to_string(), "net").ok();
        }
        self.description.ports = publish::ranges(self.container.splice.ports());
        if self.has_deleted_its_link() {
            self.description.forget_link();
        }
    }

    /// Its address may be another's by now. No link gets the number of another.
    pub(super) fn has_deleted_its_link(&self) -> bool {
        self.container.attachment.as_ref().is_some_and(|one| {
            let found = Netlink::route().and_then(|mut route| route.link(one.veth.index));
            // Who cannot look knows of nothing.
            matches!(found, Ok(None))
        })
    }
}
