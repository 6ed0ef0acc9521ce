//! Points a kubeconfig at another address of the same server. Works on the text, since the file may
//! be YAML or JSON; knows nothing else of it.

/// The same kubeconfig with another host; the port stays.
pub fn with_host(kubeconfig: &str, host: &str) -> String {
    replace(kubeconfig, |url| {
        let port = url.rsplit_once(':').map_or("443", |(_, port)| port);
        format!("{host}:{port}")
    })
}

/// The same kubeconfig with another host and port.
pub fn with_address(kubeconfig: &str, host: &str, port: u16) -> String {
    replace(kubeconfig, |_| format!("{host}:{port}"))
}

/// Replaces what stands behind `https://` of the first server.
fn replace(kubeconfig: &str, new: impl Fn(&str) -> String) -> String {
    const SCHEME: &str = "https://";
    let Some(start) = kubeconfig.find(SCHEME).map(|at| at + SCHEME.len()) else {
        return kubeconfig.to_owned();
    };
    let rest = &kubeconfig[start..];
    let end = rest
        .find(|c: char| c.is_whitespace() || c == '"' || c == '\'')
        .unwrap_or(rest.len());
    format!(
        "{}{}{}",
        &kubeconfig[..start],
        new(&rest[..end]),
        &rest[end..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_changes_in_yaml_and_json() {
        let yaml = with_address(
            "  server: https://10.90.0.11:6443\n  x: y\n",
            "127.0.0.1",
            7,
        );
        assert_eq!(yaml, "  server: https://127.0.0.1:7\n  x: y\n");
        let json = with_address(r#"{"server":"https://[fd90::11]:6443"}"#, "127.0.0.1", 7);
        assert_eq!(json, r#"{"server":"https://127.0.0.1:7"}"#);
    }

    #[test]
    fn the_port_can_stay() {
        let json = with_host(r#"{"server":"https://[fd90::11]:6443"}"#, "127.0.0.1");
        assert_eq!(json, r#"{"server":"https://127.0.0.1:6443"}"#);
    }
}
