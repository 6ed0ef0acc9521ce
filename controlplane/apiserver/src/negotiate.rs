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
}

/// What answers can be.
pub const SUPPORTED: [&str; 2] = ["application/json", "application/yaml"];

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
            .ok_or_else(|| Status::not_acceptable(&SUPPORTED))
    }

    /// The content type of an answer.
    pub fn content_type(self) -> &'static str {
        match self.encoding {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
        }
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
        Some(Self { encoding, form })
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
