//! Trust anchors of ClusterTrustBundles: of one by its name, or of all of a signer that labels select,
//! each certificate once.
//!
//! Mechanism of pkg/kubelet/clustertrustbundle, but in one order everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use kube::core::Selector;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::watch;

use super::{Data, Entry};
use crate::join::pem;

/// The name anchors have in [`Data`].
pub const PEM: &str = "pem";

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Anchors {
    Bundle(String),
    Signer {
        signer: String,
        /// Selector in the API's notation; `None` selects nothing.
        labels: Option<String>,
    },
}

impl From<&ClusterTrustBundleProjection> for Anchors {
    fn from(projection: &ClusterTrustBundleProjection) -> Self {
        let selector = projection.label_selector.clone();
        match (&projection.name, &projection.signer_name) {
            (Some(name), _) => Self::Bundle(name.clone()),
            (None, signer) => Self::Signer {
                signer: signer.clone().unwrap_or_default(),
                labels: selector
                    .and_then(|selector| Selector::try_from(selector).ok())
                    .map(|selector| selector.to_string()),
            },
        }
    }
}

impl fmt::Display for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(name) => f.write_str(name),
            Self::Signer { signer, labels } => {
                write!(
                    f,
                    "of {signer} ({})",
                    labels.as_deref().unwrap_or("no labels")
                )
            }
        }
    }
}

impl Anchors {
    /// Keeps `sender` up to date.
    pub(super) async fn follow(self, client: Client, sender: watch::Sender<Entry>) {
        let config = watcher::Config::default();
        let config = match &self {
            Self::Bundle(name) => config.fields(&format!("metadata.name={name}")),
            Self::Signer {
                labels: Some(labels),
                ..
            } => config.labels(labels),
            Self::Signer { labels: None, .. } => {
                sender.send_replace(Entry::Missing);
                return std::future::pending().await;
            }
        };
        let api = Api::<ClusterTrustBundle>::all(client);
        let mut events = watcher(api, config).default_backoff().boxed();
        let mut bundles = BTreeMap::new();
        loop {
            match events.try_next().await {
                Ok(Some(watcher::Event::Init)) => bundles.clear(),
                Ok(Some(watcher::Event::InitApply(bundle))) => self.take(&mut bundles, bundle),
                Ok(Some(watcher::Event::InitDone)) => tell(&sender, &bundles),
                Ok(Some(watcher::Event::Apply(bundle))) => {
                    self.take(&mut bundles, bundle);
                    tell(&sender, &bundles);
                }
                Ok(Some(watcher::Event::Delete(bundle))) => {
                    bundles.remove(&bundle.name_any());
                    tell(&sender, &bundles);
                }
                Ok(None) => return,
                Err(error) => tracing::debug!(%error, %self, "watch of trust bundles failed"),
            }
        }
    }

    fn take(&self, bundles: &mut BTreeMap<String, String>, bundle: ClusterTrustBundle) {
        let spec = &bundle.spec;
        let is_wanted = match self {
            Self::Bundle(_) => true,
            Self::Signer { signer, .. } => spec.signer_name.as_ref() == Some(signer),
        };
        if is_wanted {
            bundles.insert(bundle.name_any(), bundle.spec.trust_bundle);
        }
    }
}

fn tell(sender: &watch::Sender<Entry>, bundles: &BTreeMap<String, String>) {
    let entry = if bundles.is_empty() {
        Entry::Missing
    } else {
        let pem = normal(bundles.values().map(String::as_str));
        Entry::Found(Arc::new(Data {
            data: BTreeMap::from([(PEM.to_owned(), pem)]),
        }))
    };
    sender.send_replace(entry);
}

/// Every certificate of the bundles once, without what stands between them.
fn normal<'a>(bundles: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let all = bundles.flat_map(|bundle| CertificateDer::pem_slice_iter(bundle.as_bytes()));
    let each: BTreeSet<Vec<u8>> = all.flatten().map(|der| der.to_vec()).collect();
    each.iter().flat_map(|der| pem(der)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn certificate() -> String {
        let key = rcgen::generate_simple_self_signed(vec!["x".to_owned()]);
        key.unwrap().cert.pem().replace("\r\n", "\n")
    }

    #[test]
    fn each_certificate_stands_once_and_nothing_else_does() {
        let (a, b) = (certificate(), certificate());
        let first = format!("# a comment\n{a}");
        let found = normal([first.as_str(), &format!("{b}{a}")].into_iter());
        let found = String::from_utf8(found).unwrap();
        let (one, other) = (format!("{a}{b}"), format!("{b}{a}"));
        assert!(found == one || found == other, "{found}");
    }

    #[test]
    fn no_selector_is_not_an_empty_one() {
        let of = |projection| {
            let projection: ClusterTrustBundleProjection =
                serde_json::from_value(projection).unwrap();
            Anchors::from(&projection)
        };
        let labels = |labels: Option<&str>| Anchors::Signer {
            signer: "a/b".to_owned(),
            labels: labels.map(str::to_owned),
        };
        assert_eq!(of(json!({"path": "p", "signerName": "a/b"})), labels(None));
        let all = json!({"path": "p", "signerName": "a/b", "labelSelector": {}});
        assert_eq!(of(all), labels(Some("")));
        let some = json!({"path": "p", "signerName": "a/b",
            "labelSelector": {"matchLabels": {"x": "y"}}});
        assert_eq!(of(some), labels(Some("x=y")));
        let named = of(json!({"path": "p", "name": "n"}));
        assert_eq!(named, Anchors::Bundle("n".to_owned()));
    }
}
