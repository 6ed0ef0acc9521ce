//! The supervisor on a node whose datapath cannot be loaded: it says so, and comes up once it can.
//! Needs root; the namespaces are nameless and end with the test.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::cni::socket_path;
use super::cni::tests::datapath::Pins;
use super::cni::tests::{config, namespace, on_a_node, state};
use super::*;
use crate::cni::{Answer, Args, Command, Request, code, exchange};

/// Longest time a stage may take; loading verifies every program.
const PATIENCE: Duration = Duration::from_secs(60);

async fn call(socket: PathBuf, command: Command, netns: Option<OwnedFd>) -> Answer {
    let request = Request {
        command,
        cni_version: "1.0.0".into(),
        container_id: "c1".into(),
        ifname: "eth0".into(),
        netns: "/run/netns/web".into(),
        args: Args {
            namespace: "default".into(),
            name: "web".into(),
            uid: "uid-web".into(),
        },
    };
    let exchanged = tokio::task::spawn_blocking(move || exchange(&socket, &request, netns));
    exchanged.await.unwrap().unwrap()
}

#[test]
fn a_datapath_that_cannot_be_loaded_is_tried_again_and_said_to_pods_meanwhile() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().unwrap();
        let mut cfg = config(dir.path());
        cfg.cgroup2_dir = PathBuf::from("/sys/fs/cgroup/unified")
            .join(format!("wl-net-down-{}", std::process::id()));
        let obstacle = dir.path().join("bpf");
        std::fs::write(&obstacle, "a file where the bpffs belongs").unwrap();
        let (_states, receiver) = watch::channel(state(&["web"]));
        let (stages, mut stage) = watch::channel(Stage::Starting);
        let shutdown = CancellationToken::new();
        let supervisor = Supervisor {
            cfg: Arc::new(cfg.clone()),
            states: receiver,
            seed: watch::channel(Some(7)).1,
            stages,
            limits: watch::Sender::default(),
            names: Arc::default(),
            listening: false,
            serving: false,
        };
        let stop = shutdown.clone();
        let running = tokio::spawn(async move { supervisor.run(&stop).await });

        let down = |s: &Stage<cni::Server>| matches!(s, Stage::Down(_));
        let seen = tokio::time::timeout(PATIENCE, stage.wait_for(down)).await;
        let seen = seen.unwrap().unwrap().clone();
        let Stage::Down(problem) = seen else {
            unreachable!()
        };
        assert_eq!(problem.reason, "DatapathNotLoaded");
        let netns = namespace();
        let socket = socket_path(&cfg);
        let add = call(
            socket.clone(),
            Command::Add,
            Some(netns.try_clone().unwrap()),
        );
        let Answer::Error(refused) = add.await else {
            panic!("ADD without a datapath")
        };
        assert_eq!(refused.code, code::TRY_AGAIN_LATER);
        assert!(refused.details.contains("DatapathNotLoaded"), "{refused:?}");
        // A pod that ends must not wait for the network.
        assert_eq!(call(socket.clone(), Command::Del, None).await, Answer::Done);
        let status = call(socket.clone(), Command::Status, None).await;
        assert!(
            matches!(&status, Answer::Error(e) if e.code == code::PLUGIN_NOT_AVAILABLE),
            "{status:?}"
        );

        let _pins = Pins(cfg.clone());
        std::fs::remove_file(&obstacle).unwrap();
        let up = tokio::time::timeout(PATIENCE, stage.wait_for(Stage::is_up));
        let up = up.await.is_ok_and(|stage| stage.is_ok());
        if let Stage::Down(problem) = &*stage.borrow() {
            panic!("{problem:?}");
        }
        assert!(up);
        let added = call(socket, Command::Add, Some(netns)).await;
        assert!(matches!(added, Answer::Result(_)), "{added:?}");
        shutdown.cancel();
        running.await.unwrap();
    });
}
