//! containerd's own event service, beside the CRI on the same socket (`api/services/events/v1`). Used
//! where the CRI's event stream is missing (containerd 1.6): the end of a task is a hint to look.
//! Declared by hand like the CRI's messages.

use prost::Message;

/// Where ended tasks of Kubernetes' namespace are announced.
pub const TASK_EXITS: &str = r#"namespace==k8s.io,topic=="/tasks/exit""#;

#[derive(Clone, PartialEq, Message)]
pub struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    pub filters: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Envelope {
    #[prost(string, tag = "3")]
    pub topic: String,
    #[prost(message, optional, tag = "4")]
    pub event: Option<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub struct Any {
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TaskExit {
    #[prost(string, tag = "1")]
    pub container_id: String,
    #[prost(string, tag = "2")]
    pub id: String,
}

impl Envelope {
    /// Whether a container ended, rather than a process executed in one (probes do that all the time).
    pub fn is_container_exit(&self) -> bool {
        let exit = self
            .event
            .as_ref()
            .and_then(|event| TaskExit::decode(event.value.as_slice()).ok());
        exit.is_none_or(|exit| exit.id == exit.container_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_executed_process_is_not_the_containers() {
        let envelope = |id: &str| {
            let exit = TaskExit {
                container_id: "c".to_owned(),
                id: id.to_owned(),
            };
            let event = Some(Any {
                value: exit.encode_to_vec(),
            });
            Envelope {
                topic: "/tasks/exit".to_owned(),
                event,
            }
        };
        assert!(envelope("c").is_container_exit());
        assert!(!envelope("exec-1").is_container_exit());
    }
}
