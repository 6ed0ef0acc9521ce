//! Aggregated roles follow the roles they select.

use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;

use crate::Cluster;
use crate::wait::until_one;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_labelled_for_view_is_part_of_it_while_it_is_there() {
    let cluster = Cluster::with_nodes(&[]).await;
    let roles = Api::<ClusterRole>::all(cluster.client.clone());
    let widgets: ClusterRole = serde_json::from_value(json!({
        "metadata": {
            "name": "widgets",
            "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"},
        },
        "rules": [{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"]}],
    }))
    .unwrap();
    roles
        .create(&PostParams::default(), &widgets)
        .await
        .unwrap();
    let has_widgets = |role: &ClusterRole| {
        let rules = role.rules.iter().flatten();
        let mut groups = rules.flat_map(|rule| rule.api_groups.iter().flatten());
        groups.any(|group| group == "example.com")
    };
    // view is collected by edit, and edit by admin.
    for name in ["view", "edit", "admin"] {
        until_one("the rule", roles.clone(), name, has_widgets).await;
    }
    roles
        .delete("widgets", &DeleteParams::default())
        .await
        .unwrap();
    for name in ["view", "edit", "admin"] {
        until_one("no rule", roles.clone(), name, |role| !has_widgets(role)).await;
    }
    cluster.stop().await;
}
