//! The one table of kernel settings the datapath needs, and writing them. Settings below
//! `/proc/sys/net` are those of the calling thread's network namespace.

use std::path::PathBuf;

/// A setting that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("write {value} to {path}")]
pub struct Error {
    pub path: PathBuf,
    pub value: String,
    #[source]
    pub source: std::io::Error,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Below `/proc/sys`.
    pub name: String,
    pub value: String,
    /// Absent on kernels without the feature (IPv6 switched off): not an error.
    pub optional: bool,
}

/// Settings of the node.
pub fn of_node(uplinks: &[String], ipv6: bool) -> Vec<Sysctl> {
    let mut all = vec![
        required("net/ipv4/ip_forward", "1"),
        // The effective value of an interface is the larger of `all` and its own. Translated flows are
        // asymmetric as the stack sees them, and spoofing is stopped at the veths.
        required("net/ipv4/conf/all/rp_filter", "0"),
        required("net/ipv4/conf/default/rp_filter", "0"),
        // Probes and replies of host sockets to pods carry the node's own address in from a veth.
        optional("net/ipv4/conf/all/send_redirects", "0"),
        optional("net/core/bpf_jit_enable", "1"),
    ];
    for uplink in uplinks {
        all.push(optional(format!("net/ipv4/conf/{uplink}/rp_filter"), "0"));
        if ipv6 {
            // A forwarding host ignores router advertisements unless told otherwise.
            all.push(optional(format!("net/ipv6/conf/{uplink}/accept_ra"), "2"));
        }
    }
    if ipv6 {
        all.push(optional("net/ipv6/conf/all/forwarding", "1"));
    }
    all
}

/// Settings of the host's end of a pod's veth.
pub fn of_veth(name: &str) -> Vec<Sysctl> {
    vec![
        required(format!("net/ipv4/conf/{name}/forwarding"), "1"),
        required(format!("net/ipv4/conf/{name}/rp_filter"), "0"),
        required(format!("net/ipv4/conf/{name}/arp_ignore"), "1"),
        optional(format!("net/ipv6/conf/{name}/forwarding"), "1"),
        optional(format!("net/ipv6/conf/{name}/accept_ra"), "0"),
        optional(format!("net/ipv6/conf/{name}/accept_dad"), "0"),
    ]
}

/// Settings inside a pod with an IPv6 address.
pub fn of_pod(name: &str) -> Vec<Sysctl> {
    vec![
        optional("net/ipv6/conf/all/disable_ipv6", "0"),
        optional(format!("net/ipv6/conf/{name}/disable_ipv6"), "0"),
        optional(format!("net/ipv6/conf/{name}/accept_dad"), "0"),
        optional(format!("net/ipv6/conf/{name}/accept_ra"), "0"),
    ]
}

fn required(name: impl Into<String>, value: &str) -> Sysctl {
    Sysctl {
        name: name.into(),
        value: value.into(),
        optional: false,
    }
}

fn optional(name: impl Into<String>, value: &str) -> Sysctl {
    Sysctl {
        name: name.into(),
        value: value.into(),
        optional: true,
    }
}

/// Writes the settings that differ; a failure does not keep the others from being made.
pub fn write_all(settings: &[Sysctl]) -> Result<(), Error> {
    let mut failure = None;
    for setting in settings {
        if let Err(error) = write(setting) {
            failure.get_or_insert(error);
        }
    }
    failure.map_or(Ok(()), Err)
}

fn write(setting: &Sysctl) -> Result<(), Error> {
    let path = PathBuf::from("/proc/sys").join(&setting.name);
    let current = std::fs::read_to_string(&path);
    if current.as_ref().is_ok_and(|c| c.trim() == setting.value) {
        return Ok(());
    }
    match std::fs::write(&path, &setting.value) {
        Ok(()) => Ok(()),
        Err(e) if setting.optional && e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) if setting.optional => {
            tracing::debug!(path = %path.display(), error = %e, "optional setting not made");
            Ok(())
        }
        Err(source) => Err(Error {
            path,
            value: setting.value.clone(),
            source,
        }),
    }
}

/// Adds port ranges to `ip_local_reserved_ports`: NodePorts and SNAT ports are never given to sockets
/// that ask for any port.
pub fn reserve_ports(ranges: &[(u16, u16)]) -> Result<(), Error> {
    const NAME: &str = "net/ipv4/ip_local_reserved_ports";
    let path = PathBuf::from("/proc/sys").join(NAME);
    let current = std::fs::read_to_string(&path).unwrap_or_default();
    let merged = merge_ranges(&current, ranges);
    write(&required(NAME, &merged))
}

/// The list the kernel would print: sorted, overlapping and adjacent ranges joined.
fn merge_ranges(current: &str, ranges: &[(u16, u16)]) -> String {
    let parse = |text: &str| -> Option<(u16, u16)> {
        let (lo, hi) = text.split_once('-').unwrap_or((text, text));
        Some((lo.trim().parse().ok()?, hi.trim().parse().ok()?))
    };
    let mut all: Vec<(u16, u16)> = current.split(',').filter_map(parse).collect();
    all.extend(ranges);
    all.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (lo, hi) in all {
        match merged.last_mut() {
            Some(last) if lo <= last.1.saturating_add(1) => last.1 = last.1.max(hi),
            _ => merged.push((lo, hi)),
        }
    }
    let text = |(lo, hi): &(u16, u16)| {
        if lo == hi {
            lo.to_string()
        } else {
            format!("{lo}-{hi}")
        }
    };
    merged.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_are_joined_with_those_of_others() {
        let merged = merge_ranges("8080,9148,30000-31000\n", &[(30000, 32767), (49152, 65535)]);
        assert_eq!(merged, "8080,9148,30000-32767,49152-65535");
        assert_eq!(merge_ranges("\n", &[(1, 2), (3, 4)]), "1-4");
        assert_eq!(merge_ranges(&merged, &[(30000, 32767)]), merged);
    }
}
