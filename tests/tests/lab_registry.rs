//! Images that are pulled: a registry inside the lab, and a node that knows the image from nowhere
//! else.

use serde_json::json;
use xtask::images::oci::{Image, Layout};
use xtask::images::{self, tree};
use xtask::lab::{Spec, shared};

#[test]
fn a_pod_that_always_pulls_gets_its_image_from_the_registry_in_the_lab() {
    let dir = tempfile::tempdir().unwrap();
    let (root, at) = (dir.path().join("root"), dir.path().join("layout"));
    tree::base(&root).unwrap();
    tree::program(&root, &images::build().unwrap().toolbox).unwrap();
    let name = format!("{}/lab/pulled:1", images::REGISTRY);
    let mut layout = Layout::create(&at).unwrap();
    let image = Image::of(layout.layer(&root).unwrap());
    let image = image.set("Entrypoint", json!(["/bin/toolbox"]));
    layout.add(&[&name], &image).unwrap();
    layout.finish().unwrap();

    let lab = shared::start(Spec {
        nodes: 1,
        registry: Some(at),
        ..Spec::new("t-registry")
    })
    .unwrap();
    lab.fresh_namespace("pull").unwrap();
    let pod = |name: &str, image: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "namespace": "pull" },
            "spec": { "containers": [{
                "name": "main", "image": image, "args": ["serve"], "imagePullPolicy": "Always",
            }] },
        })
    };
    lab.apply(&pod("pulled", &name).to_string()).unwrap();
    lab.ready("pull", &["pod/pulled"]).unwrap();
    let id = lab
        .field(
            &["-n", "pull", "pod", "pulled"],
            "/status/containerStatuses/0/imageID",
        )
        .unwrap();
    assert!(id.contains("sha256:"), "{id}");

    // what the registry does not have is an error that says so, and nothing leaves the lab for it
    let missing = format!("{}/lab/missing:1", images::REGISTRY);
    lab.apply(&pod("missing", &missing).to_string()).unwrap();
    let waiting = "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ErrImagePull";
    lab.kubectl_output(&[
        "-n",
        "pull",
        "wait",
        waiting,
        "pod/missing",
        "--timeout=30s",
    ])
    .unwrap();
    lab.down().unwrap();
}
