//! The CNI plugin (CNI specification 1.0.0, STATUS and GC of 1.1.0): what the container runtime
//! executes. It reads its call from the environment and stdin, opens the network namespace, hands
//! both to the agent over the socket named in the configuration, and prints the agent's answer.
//! It decides nothing and keeps no state; the types of that hand-over are here too, for both ends.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Plugin `type` in the configuration, and the name of the link in the CNI bin directory.
pub const PLUGIN_TYPE: &str = "windlass";
/// The plugin containerd 1.x calls first for every pod, to bring up `lo`. Ours is brought up together
/// with the pod's interface, so this one only has to exist and say yes.
pub const LOOPBACK_TYPE: &str = "loopback";
/// Versions of the specification this plugin speaks.
pub const VERSIONS: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];
/// Longest configuration read from stdin, and longest answer read from the agent.
pub const MESSAGE_LIMIT: u64 = 1 << 20;
/// How long the plugin waits for the agent; containerd itself gives up after minutes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Error codes of the specification.
pub mod code {
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    pub const INVALID_ENVIRONMENT: u32 = 4;
    pub const IO_FAILURE: u32 = 5;
    pub const DECODE_FAILURE: u32 = 6;
    pub const TRY_AGAIN_LATER: u32 = 11;
    pub const PLUGIN_NOT_AVAILABLE: u32 = 50;
    /// First code free for plugins: the agent refused or failed.
    pub const FAILED: u32 = 100;
}

/// The operation asked for, `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
}

/// One call, as the plugin hands it to the agent; the namespace follows as a file descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub command: Command,
    pub cni_version: String,
    #[serde(default)]
    pub container_id: String,
    #[serde(default)]
    pub ifname: String,
    /// Path the runtime knows the namespace by: only repeated in the answer.
    #[serde(default)]
    pub netns: String,
    #[serde(default)]
    pub args: Args,
}

/// The keys of `CNI_ARGS` that Kubernetes runtimes set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Args {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// The agent's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Success of ADD: the document to print.
    Result(Box<AddResult>),
    /// Success of every other command.
    Done,
    Error(Failure),
}

/// Result document of ADD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddResult {
    pub cni_version: String,
    pub interfaces: Vec<Interface>,
    pub ips: Vec<Ip>,
    pub routes: Vec<Route>,
    pub dns: Dns,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    pub mac: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    pub address: String,
    pub gateway: String,
    /// Index into `interfaces`.
    pub interface: usize,
    /// `4` or `6`; only specification versions before 1.0.0 have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub dst: String,
    pub gw: String,
}

/// Pods take their DNS settings from the kubelet half: always empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {}

/// Error document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    #[serde(default)]
    pub cni_version: String,
    pub code: u32,
    pub msg: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

/// The part of the network configuration this plugin reads.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NetConf {
    #[serde(default = "oldest_version")]
    cni_version: String,
    #[serde(default, rename = "type")]
    kind: String,
    /// The agent's socket; absent only for VERSION.
    #[serde(default)]
    socket: PathBuf,
}

fn oldest_version() -> String {
    VERSIONS[0].into()
}

/// Runs the plugin: environment and stdin in, JSON on stdout and an exit code out.
pub fn plugin_main() -> ExitCode {
    let (output, status) = match run() {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(failure) => (json(&failure), ExitCode::FAILURE),
    };
    let mut stdout = std::io::stdout();
    if stdout
        .write_all(output.as_bytes())
        .and_then(|()| stdout.flush())
        .is_err()
    {
        return ExitCode::FAILURE;
    }
    status
}

fn run() -> Result<String, Failure> {
    let mut stdin = String::new();
    std::io::stdin()
        .take(MESSAGE_LIMIT)
        .read_to_string(&mut stdin)
        .map_err(|e| Failure::new(code::IO_FAILURE, "read configuration from stdin", e))?;
    let command = variable("CNI_COMMAND")?;
    if command == "VERSION" {
        return Ok(version_document(&stdin));
    }
    let conf: NetConf = serde_json::from_str(&stdin)
        .map_err(|e| Failure::new(code::DECODE_FAILURE, "parse network configuration", e))?;
    if conf.kind == LOOPBACK_TYPE {
        return Ok(loopback(&command, &conf.cni_version));
    }
    let version = conf.cni_version.clone();
    call(&command, conf).map_err(|failure| Failure {
        cni_version: version,
        ..failure
    })
}

/// The answer of [`LOOPBACK_TYPE`], in whatever version was asked for: it is the same in all.
fn loopback(command: &str, version: &str) -> String {
    if command != "ADD" {
        return String::new();
    }
    let lo = Interface {
        name: "lo".into(),
        mac: "00:00:00:00:00:00".into(),
        sandbox: std::env::var("CNI_NETNS").unwrap_or_default(),
    };
    json(&AddResult {
        cni_version: version.to_owned(),
        interfaces: vec![lo],
        ips: Vec::new(),
        routes: Vec::new(),
        dns: Dns {},
    })
}

fn call(command: &str, conf: NetConf) -> Result<String, Failure> {
    if !VERSIONS.contains(&conf.cni_version.as_str()) {
        let have = VERSIONS.join(", ");
        return Err(Failure::new(
            code::INCOMPATIBLE_VERSION,
            "cniVersion not supported",
            have,
        ));
    }
    let command = parse_command(command)?;
    let request = request(command, &conf)?;
    let netns = match command {
        Command::Add | Command::Check => Some(open_netns(&request.netns)?),
        // A namespace that is gone is no obstacle to cleaning up.
        Command::Del => open_netns(&request.netns).ok(),
        Command::Status | Command::Gc => None,
    };
    match exchange(&conf.socket, &request, netns)? {
        Answer::Result(result) => Ok(json(&*result)),
        Answer::Done => Ok(String::new()),
        Answer::Error(failure) => Err(failure),
    }
}

fn parse_command(command: &str) -> Result<Command, Failure> {
    match command {
        "ADD" => Ok(Command::Add),
        "DEL" => Ok(Command::Del),
        "CHECK" => Ok(Command::Check),
        "STATUS" => Ok(Command::Status),
        "GC" => Ok(Command::Gc),
        other => Err(Failure::new(
            code::INVALID_ENVIRONMENT,
            "unknown CNI_COMMAND",
            other,
        )),
    }
}

fn request(command: Command, conf: &NetConf) -> Result<Request, Failure> {
    let mut request = Request {
        command,
        cni_version: conf.cni_version.clone(),
        container_id: String::new(),
        ifname: String::new(),
        netns: std::env::var("CNI_NETNS").unwrap_or_default(),
        args: Args::parse(&std::env::var("CNI_ARGS").unwrap_or_default()),
    };
    if matches!(command, Command::Add | Command::Del | Command::Check) {
        request.container_id = variable("CNI_CONTAINERID")?;
        request.ifname = variable("CNI_IFNAME")?;
    }
    Ok(request)
}

fn variable(name: &str) -> Result<String, Failure> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(value),
        _ => Err(Failure::new(
            code::INVALID_ENVIRONMENT,
            "environment variable missing",
            name,
        )),
    }
}

fn open_netns(path: &str) -> Result<OwnedFd, Failure> {
    let file = std::fs::File::open(path)
        .map_err(|e| Failure::new(code::INVALID_ENVIRONMENT, "open CNI_NETNS", e))?;
    Ok(file.into())
}

/// Hands a call to the agent at `socket` and reads its answer. Blocking.
pub fn exchange(
    socket: &Path,
    request: &Request,
    netns: Option<OwnedFd>,
) -> Result<Answer, Failure> {
    let agent_down =
        |e: std::io::Error| Failure::new(unavailable(request.command), "reach the agent", e);
    let mut stream = UnixStream::connect(socket).map_err(agent_down)?;
    stream
        .set_read_timeout(Some(ANSWER_TIMEOUT))
        .map_err(agent_down)?;
    send(&mut stream, request, netns.as_ref()).map_err(agent_down)?;
    let mut answer = Vec::new();
    (&stream)
        .take(MESSAGE_LIMIT)
        .read_to_end(&mut answer)
        .map_err(agent_down)?;
    serde_json::from_slice(&answer)
        .map_err(|e| Failure::new(code::DECODE_FAILURE, "parse the agent's answer", e))
}

/// STATUS has a code of its own for "not now"; the other commands are worth trying again.
fn unavailable(command: Command) -> u32 {
    match command {
        Command::Status => code::PLUGIN_NOT_AVAILABLE,
        Command::Add | Command::Del | Command::Check | Command::Gc => code::TRY_AGAIN_LATER,
    }
}

/// Sends the request, the namespace with its first byte, and ends the sending side.
fn send(
    stream: &mut UnixStream,
    request: &Request,
    netns: Option<&OwnedFd>,
) -> std::io::Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let body = json(request).into_bytes();
    let fds: Vec<i32> = netns.iter().map(|fd| fd.as_fd().as_raw_fd()).collect();
    let control = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() {
        &control[..0]
    } else {
        &control[..]
    };
    let first = [std::io::IoSlice::new(&body)];
    let sent = sendmsg::<()>(stream.as_raw_fd(), &first, control, MsgFlags::empty(), None)?;
    stream.write_all(&body[sent..])?;
    stream.shutdown(std::net::Shutdown::Write)
}

fn version_document(stdin: &str) -> String {
    let version = serde_json::from_str::<NetConf>(stdin).map(|c| c.cni_version);
    let version = version.unwrap_or_else(|_| VERSIONS[1].into());
    json(&serde_json::json!({"cniVersion": version, "supportedVersions": VERSIONS}))
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("these documents have string keys only")
}

// === impl Args ===

impl Args {
    /// Parses `K=V;K=V`; keys it does not know are ignored, as the runtimes set `IgnoreUnknown`.
    pub fn parse(text: &str) -> Self {
        let mut args = Args::default();
        for (key, value) in text.split(';').filter_map(|pair| pair.split_once('=')) {
            match key {
                "K8S_POD_NAMESPACE" => args.namespace = value.into(),
                "K8S_POD_NAME" => args.name = value.into(),
                "K8S_POD_UID" => args.uid = value.into(),
                _ => {}
            }
        }
        args
    }
}

// === impl Failure ===

impl Failure {
    /// An error document; the version is filled in where it is known.
    pub fn new(code: u32, msg: impl Into<String>, details: impl std::fmt::Display) -> Self {
        Failure {
            cni_version: VERSIONS[1].into(),
            code,
            msg: msg.into(),
            details: details.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn args_of_containerd_are_understood() {
        let args = Args::parse(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=web-0;\
             K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1",
        );
        let expected = Args {
            namespace: "kube-system".into(),
            name: "web-0".into(),
            uid: "u-1".into(),
        };
        assert_eq!(args, expected);
    }

    #[test]
    fn version_needs_no_configuration_but_its_version() {
        let document = version_document(r#"{"cniVersion":"1.1.0"}"#);
        assert_eq!(
            document,
            r#"{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}"#
        );
    }

    #[test]
    fn an_unsupported_version_is_refused_with_code_1() {
        let conf = NetConf {
            cni_version: "9.9.9".into(),
            kind: PLUGIN_TYPE.into(),
            socket: "/nowhere".into(),
        };
        assert_eq!(
            call("ADD", conf).unwrap_err().code,
            code::INCOMPATIBLE_VERSION
        );
    }

    #[test]
    fn status_without_an_agent_is_code_50() {
        let conf = NetConf {
            cni_version: "1.1.0".into(),
            kind: PLUGIN_TYPE.into(),
            socket: "/nowhere/cni.sock".into(),
        };
        assert_eq!(
            call("STATUS", conf).unwrap_err().code,
            code::PLUGIN_NOT_AVAILABLE
        );
    }

    #[test]
    fn a_result_carries_the_names_of_the_specification() {
        let result = AddResult {
            cni_version: "1.0.0".into(),
            interfaces: vec![Interface {
                name: "eth0".into(),
                mac: "02:00:00:00:00:01".into(),
                sandbox: "/run/netns/x".into(),
            }],
            ips: vec![Ip {
                address: "10.244.0.2/32".into(),
                gateway: "169.254.1.1".into(),
                interface: 0,
                version: None,
            }],
            routes: vec![Route {
                dst: "0.0.0.0/0".into(),
                gw: "169.254.1.1".into(),
            }],
            dns: Dns {},
        };
        let expected = concat!(
            r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","#,
            r#""sandbox":"/run/netns/x"}],"ips":[{"address":"10.244.0.2/32","#,
            r#""gateway":"169.254.1.1","interface":0}],"#,
            r#""routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}],"dns":{}}"#
        );
        assert_eq!(json(&result), expected);
    }
}
