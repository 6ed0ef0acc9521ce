//! Metrics of the agent: every component renders its own, the kubelet API shows them all. In the text
//! format of Prometheus.

use std::fmt::Write;
use std::sync::{Arc, Mutex};

type Source = Box<dyn Fn(&mut String) + Send>;

/// Where components put their metrics.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Vec<Source>>>);

impl Metrics {
    /// `source` appends its metrics to the text whenever somebody asks.
    pub fn add(&self, source: impl Fn(&mut String) + Send + 'static) {
        let mut sources = self.0.lock().expect("no source of metrics panics");
        sources.push(Box::new(source));
    }

    pub fn render(&self) -> String {
        let mut text = String::new();
        let sources = self.0.lock().expect("no source of metrics panics");
        sources.iter().for_each(|source| source(&mut text));
        text
    }
}

/// Appends one metric with its samples: labels as they are written, without braces, and the value.
pub fn metric(
    text: &mut String,
    kind: &str,
    name: &str,
    samples: impl IntoIterator<Item = (String, u64)>,
) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# TYPE {name} {kind}");
    for (labels, value) in samples {
        let _ = match labels.is_empty() {
            true => writeln!(text, "{name} {value}"),
            false => writeln!(text, "{name}{{{labels}}} {value}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_components_add_is_shown_in_their_order() {
        let metrics = Metrics::default();
        metrics.add(|text| metric(text, "gauge", "a", [(String::new(), 1)]));
        metrics.add(|text| metric(text, "counter", "b", [("x=\"y\"".to_owned(), 2)]));
        let expected = "# TYPE a gauge\na 1\n# TYPE b counter\nb{x=\"y\"} 2\n";
        assert_eq!(metrics.render(), expected);
    }
}
