//! Counts what a quota is about: reads the quota, then lists what it counts, and says what to write.

use api::quota::{Item, Quota, counts};
use api::resources::Amounts;
use http::{Request, header};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::discovery::{self, Deletable};
use crate::driver::apply::FollowUp;
use crate::kinds::{Projection, ResourceQuota};
use crate::object::Key;
use crate::write::{Verb, Write};

/// Kinds that are counted by more than their number.
const MEASURED: [(&str, &str); 3] = [
    ("", "pods"),
    ("", "services"),
    ("", "persistentvolumeclaims"),
];
/// A list that says how many there are: one item, and the number of the others.
const ONE: &str = "?limit=1";
const METADATA: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// Why nothing was counted.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("read {path}")]
    Read {
        path: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("read an object of {path}")]
    Object {
        path: String,
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Deserialize)]
struct List {
    metadata: ListMeta,
    items: Vec<Box<RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ListMeta {
    remaining_item_count: i64,
}

/// The status a quota should have, as a write on condition that it is still the one that was read.
pub async fn recount(client: &Client, key: Key) -> FollowUp {
    match status(client, &key).await {
        Ok(writes) => FollowUp {
            writes,
            ..FollowUp::default()
        },
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            FollowUp {
                failure: Some(format!("{error}: {}", cause.unwrap_or_default())),
                ..FollowUp::default()
            }
        }
    }
}

async fn status(client: &Client, key: &Key) -> Result<Vec<Write>, Error> {
    // The controller's role may list quotas, not get them.
    let collection = ResourceQuota::RESOURCE.collection(&key.namespace);
    let path = format!("{collection}?fieldSelector=metadata.name%3D{}", key.name);
    let list: List = get(client, &path, "application/json").await?;
    let Some(object) = list.items.first() else {
        return Ok(Vec::new());
    };
    let unreadable = |source| Error::Object {
        path: path.clone(),
        source,
    };
    let quota = Quota::read(object.get().as_bytes()).map_err(unreadable)?;
    let mut body: Value = serde_json::from_str(object.get()).map_err(unreadable)?;
    let now = Timestamp::now().as_second();
    let mut used = Amounts::default();
    for resource in counted(client, &quota).await? {
        let items = items(client, &resource, &key.namespace).await?;
        let items = items.iter().map(|(item, number)| (item, *number));
        let kind = (resource.group.as_str(), resource.plural.as_str());
        used = used.plus(&quota.recount(kind, items, now));
    }
    if quota.hard == quota.spec_hard && quota.used == used {
        return Ok(Vec::new());
    }
    body["status"] = json!({"hard": quota.spec_hard, "used": used});
    Ok(vec![Write {
        resource: &ResourceQuota::RESOURCE,
        key: key.clone(),
        verb: Verb::Replace {
            subresource: Some("status"),
            body,
        },
        notes: None,
    }])
}

/// The served kinds the quota counts.
async fn counted(client: &Client, quota: &Quota) -> Result<Vec<Deletable>, Error> {
    let served = discovery::deletable(client).await;
    let mut served = served.map_err(|source| Error::Read {
        path: "/apis".to_owned(),
        source: Box::new(source),
    })?;
    served.retain(|r| r.namespaced && counts(&quota.spec_hard, &r.group, &r.plural));
    Ok(served)
}

/// Every object of a kind, or one that stands for all.
async fn items(
    client: &Client,
    resource: &Deletable,
    namespace: &str,
) -> Result<Vec<(Item, i64)>, Error> {
    let path = resource.collection(namespace);
    let (group, plural) = (resource.group.as_str(), resource.plural.as_str());
    if !MEASURED.contains(&(group, plural)) {
        let list: List = get(client, &format!("{path}{ONE}"), METADATA).await?;
        let listed = i64::try_from(list.items.len()).unwrap_or(i64::MAX);
        let number = listed + list.metadata.remaining_item_count;
        return Ok(vec![(Item::counted(group, plural), number)]);
    }
    let list: List = get(client, &path, "application/json").await?;
    let read = |raw: &RawValue| {
        let item = Item::read(group, plural, raw.get().as_bytes());
        item.map(|item| (item, 1)).map_err(|source| Error::Object {
            path: path.clone(),
            source,
        })
    };
    list.items.iter().map(|raw| read(raw)).collect()
}

async fn get<T: serde::de::DeserializeOwned>(
    client: &Client,
    path: &str,
    accept: &str,
) -> Result<T, Error> {
    let fail = |source| Error::Read {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let request = Request::get(path)
        .header(header::ACCEPT, accept)
        .body(Vec::new())
        .map_err(|e| fail(kube::Error::HttpError(e)))?;
    client.request(request).await.map_err(fail)
}
