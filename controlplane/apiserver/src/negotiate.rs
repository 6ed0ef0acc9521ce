//! What the client can read: the Accept header against what the server can write.
//!
//! Port of the rules of `k8s.io/apiserver/pkg/endpoints/handlers/negotiation`.

use api::Status;

/// Encodings of an answer. JSON is YAML too, so one writer serves both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Json,
    Yaml,
}

/// The form an object or list takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    #[default]
    Object,
    Table,
    PartialObjectMetadata,
    PartialObjectMetadataList,
}

/// The outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Output {
    pub encoding: Encoding,
    pub form: Form,
    /// The form is wanted in `meta.k8s.io/v1beta1`.
    pub is_beta: bool,
}

/// What answers can be.
pub const SUPPORTED: [&str; 2] = ["application/json", "application/yaml"];

impl Encoding {
    pub fn media_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
        }
    }
}

impl Output {
    /// The first acceptable clause. An absent header accepts JSON.
    pub fn of_accept(accept: Option<&str>) -> Result<Self, Status> {
        let accept = accept.map(str::trim).filter(|a| !a.is_empty());
        let Some(accept) = accept else {
            return Ok(Self::default());
        };
        let mut clauses: Vec<(f32, &str)> = accept.split(',').map(|c| (quality(c), c)).collect();
        // A stable sort keeps the client's order among equals.
        clauses.sort_by(|a, b| b.0.total_cmp(&a.0));
        clauses
            .into_iter()
            .find_map(|(_, clause)| Self::of_clause(clause))
            .ok_or_else(|| refusal(accept))
    }

    /// How an error is written: as the client wants objects, and JSON when it wants nothing we have.
    pub fn of_error(accept: Option<&str>) -> Encoding {
        match Self::of_accept(accept) {
            Ok(Self {
                encoding,
                form: Form::Object,
                is_beta: _,
            }) => encoding,
            Ok(_) | Err(_) => Encoding::Json,
        }
    }

    /// `apiVersion` of tables and of what is metadata alone.
    pub fn meta_version(self) -> &'static str {
        if self.is_beta {
            "meta.k8s.io/v1beta1"
        } else {
            "meta.k8s.io/v1"
        }
    }

    /// The content type of an answer.
    pub fn content_type(self) -> &'static str {
        self.encoding.media_type()
    }

    fn of_clause(clause: &str) -> Option<Self> {
        let mut parts = clause.split(';').map(str::trim);
        let encoding = match parts.next()? {
            "application/json" | "*/*" | "application/*" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            _ => return None,
        };
        let (mut kind, mut group, mut version) = ("", "", "");
        for parameter in parts {
            match parameter.split_once('=') {
                Some(("as", value)) => kind = value,
                Some(("g", value)) => group = value,
                Some(("v", value)) => version = value,
                _ => {}
            }
        }
        let form = match (kind, group, version) {
            ("", _, _) => Form::Object,
            ("Table", "meta.k8s.io", "v1" | "v1beta1") => Form::Table,
            ("PartialObjectMetadata", "meta.k8s.io", "v1" | "v1beta1") => {
                Form::PartialObjectMetadata
            }
            ("PartialObjectMetadataList", "meta.k8s.io", "v1" | "v1beta1") => {
                Form::PartialObjectMetadataList
            }
            _ => return None,
        };
        let is_beta = form != Form::Object && version == "v1beta1";
        Some(Self {
            encoding,
            form,
            is_beta,
        })
    }
}

/// Media types we do not have at all are refused by upstream's routes, forms of those that we have by
/// the negotiation behind them.
fn refusal(accept: &str) -> Status {
    let media_type = |clause: &str| {
        clause
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let known = |clause: &str| SUPPORTED.contains(&media_type(clause).as_str());
    if accept.split(',').any(known) {
        Status::not_acceptable(&SUPPORTED)
    } else {
        Status::no_representation(&SUPPORTED)
    }
}

fn quality(clause: &str) -> f32 {
    clause
        .split(';')
        .find_map(|p| p.trim().strip_prefix("q="))
        .and_then(|q| q.parse().ok())
        .unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_refused_in_upstreams_words() {
        let message = |accept: &str| Output::of_accept(Some(accept)).unwrap_err().message;
        assert_eq!(
            message("text/plain"),
            "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml"
        );
        assert_eq!(
            message("application/json;as=Nonsense;v=v1;g=meta.k8s.io"),
            "only the following media types are accepted: application/json, application/yaml"
        );
    }

    #[test]
    fn errors_are_yaml_for_those_who_read_only_that() {
        let table = [
            ("application/yaml", Encoding::Yaml),
            (
                "application/yaml;as=Table;v=v1;g=meta.k8s.io",
                Encoding::Json,
            ),
            ("application/json", Encoding::Json),
            ("text/html", Encoding::Json),
        ];
        for (accept, encoding) in table {
            assert_eq!(Output::of_error(Some(accept)), encoding, "{accept}");
        }
    }

    #[test]
    fn accept_headers_choose_an_output() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        let table = [
            ("", Some((Encoding::Json, Form::Object))),
            ("*/*", Some((Encoding::Json, Form::Object))),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Some((Encoding::Json, Form::Object)),
            ),
            ("application/yaml", Some((Encoding::Yaml, Form::Object))),
            (
                "application/json;q=0.1,application/yaml",
                Some((Encoding::Yaml, Form::Object)),
            ),
            (kubectl, Some((Encoding::Json, Form::Table))),
            (
                metadata,
                Some((Encoding::Json, Form::PartialObjectMetadataList)),
            ),
            (
                "application/json;stream=watch",
                Some((Encoding::Json, Form::Object)),
            ),
            ("text/html", None),
            ("application/json;as=Table;v=v9;g=meta.k8s.io", None),
        ];
        for (accept, want) in table {
            let got = Output::of_accept(Some(accept))
                .ok()
                .map(|o| (o.encoding, o.form));
            assert_eq!(got, want, "{accept}");
        }
    }
}
