//! What ADD answers: the interfaces, addresses, routes and names, in the shape of the version that was asked for.

use hawser::address::Mac;
use serde_json::{Map, Value, json};

use super::Version;
use super::call::Call;
use crate::attach::Attachment;
use crate::link;
use crate::request::Request;

/// The answer; what the plugins before us have made comes first.
///
/// `end` is the hardware address of the host's end.
pub fn of(
    call: &Call,
    request: &Request,
    attachment: &Attachment,
    end: link::Mac,
    dns: Option<&Value>,
    previous: Option<&Value>,
) -> Value {
    let before = |key: &str| -> Vec<Value> {
        let list = previous.and_then(|previous| previous.get(key));
        list.and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let mut interfaces = before("interfaces");
    interfaces.extend(interfaces_of(call, attachment, end));
    let ours = interfaces.len() - 1;
    let mut ips = before("ips");
    let mut routes = before("routes");
    for place in attachment.veth.places(&attachment.network) {
        let mut ip = json!({
            "interface": ours,
            "address": format!("{}/{}", place.address, place.subnet.prefix_len()),
            "gateway": place.gateway,
        });
        if call.version < Version::V1_0 {
            ip["version"] = if place.address.is_ipv4() { "4" } else { "6" }.into();
        }
        ips.push(ip);
        let is_ipv4 = place.address.is_ipv4();
        let everywhere = if is_ipv4 { "0.0.0.0/0" } else { "::/0" };
        if request.details.leads_everywhere(is_ipv4) {
            routes.push(json!({ "dst": everywhere, "gw": place.gateway }));
        }
        for (to, by) in request.details.routes_of(is_ipv4) {
            let by = by.unwrap_or(place.gateway);
            routes.push(json!({ "dst": to.to_string(), "gw": by }));
        }
    }
    let dns_before = previous.and_then(|previous| previous.get("dns"));
    let mut answer = previous
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_else(Map::new);
    answer.insert("cniVersion".into(), call.version.text().into());
    answer.insert("interfaces".into(), interfaces.into());
    answer.insert("ips".into(), ips.into());
    if !routes.is_empty() {
        answer.insert("routes".into(), routes.into());
    }
    let dns = dns.or(dns_before).cloned().unwrap_or_else(|| json!({}));
    answer.insert("dns".into(), dns);
    answer.into()
}

/// The bridge, the host's end, and last the one inside.
fn interfaces_of(call: &Call, attachment: &Attachment, end: link::Mac) -> Vec<Value> {
    let (network, veth) = (&attachment.network, &attachment.veth);
    let mut all = Vec::new();
    if let Some(bridge) = network.bridge {
        all.push(json!({ "name": network.name, "mac": Mac(bridge.mac).to_string() }));
    }
    let mut ends = [
        json!({ "name": veth.name, "mac": Mac(end).to_string() }),
        json!({
            "name": call.attachment.interface,
            "mac": Mac(veth.mac).to_string(),
            "sandbox": call.netns.as_ref().map(|path| path.to_string_lossy().into_owned()),
        }),
    ];
    if call.version >= Version::V1_1 {
        for end in &mut ends {
            end["mtu"] = attachment.mtu.into();
        }
    }
    all.extend(ends);
    all
}
