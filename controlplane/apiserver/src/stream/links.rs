//! Links of what answers behind `proxy`: those to the same server are led through the proxy again.
//!
//! Port of `k8s.io/apimachinery/pkg/util/proxy/transport.go`; the page itself stays as it is, byte by byte.

use std::convert::Infallible;

use html5gum::{
    Span, Tokenizer,
    emitters::callback::{CallbackEmitter, CallbackEvent},
};

/// Tags and those of their attributes that are URLs (`atomsToAttrs`).
const URLS: [(&[u8], &[&[u8]]); 25] = [
    (b"a", &[b"href"]),
    (b"applet", &[b"codebase"]),
    (b"area", &[b"href"]),
    (b"audio", &[b"src"]),
    (b"base", &[b"href"]),
    (b"blockquote", &[b"cite"]),
    (b"body", &[b"background"]),
    (b"button", &[b"formaction"]),
    (b"command", &[b"icon"]),
    (b"del", &[b"cite"]),
    (b"embed", &[b"src"]),
    (b"form", &[b"action"]),
    (b"frame", &[b"longdesc", b"src"]),
    (b"head", &[b"profile"]),
    (b"html", &[b"manifest"]),
    (b"iframe", &[b"longdesc", b"src"]),
    (b"img", &[b"longdesc", b"src", b"usemap"]),
    (b"input", &[b"src", b"usemap", b"formaction"]),
    (b"ins", &[b"cite"]),
    (b"link", &[b"href"]),
    (b"object", &[b"classid", b"codebase", b"data", b"usemap"]),
    (b"q", &[b"cite"]),
    (b"script", &[b"src"]),
    (b"source", &[b"src"]),
    (b"video", &[b"poster", b"src"]),
];

/// A server behind `proxy`.
pub struct Links<'a> {
    /// The path up to and with `proxy`, which the server does not know.
    pub base: &'a str,
    /// The server's own address, `IP:PORT`.
    pub target: &'a str,
    /// The `Host` the client asked.
    pub requested: &'a str,
}

impl Links<'_> {
    /// A link that leads through the proxy; nothing for one that does so already or leads elsewhere, and for
    /// a relative one.
    pub fn moved(&self, link: &str) -> Option<String> {
        let (front, path) = self.split(link)?;
        if !path.starts_with('/') || path.starts_with("//") {
            return None;
        }
        let base = if path.starts_with(self.base) {
            ""
        } else {
            self.base
        };
        Some(format!("{front}{base}{path}")).filter(|moved| moved != link)
    }

    /// What stays in front, and the path on this server.
    fn split<'l>(&self, link: &'l str) -> Option<(&'l str, &'l str)> {
        let schemes = ["http://", "https://", "//"];
        let Some(scheme) = schemes.iter().find(|scheme| link.starts_with(**scheme)) else {
            return Some(("", link));
        };
        let end = link[scheme.len()..].find(['/', '?', '#']);
        let (front, path) = link.split_at(end.map_or(link.len(), |end| scheme.len() + end));
        match &front[scheme.len()..] {
            host if host == self.requested => Some((front, path)),
            host if host == self.target => Some(("", path)),
            _ => None,
        }
    }

    /// A page with all its links moved.
    pub fn page(&self, page: &[u8]) -> Vec<u8> {
        let mut moved = Vec::with_capacity(page.len());
        let mut done = 0;
        let (mut urls, mut is_url): (&[&[u8]], bool) = (&[], false);
        let mut emitter = CallbackEmitter::new(|event: CallbackEvent<'_>, span: Span<usize>| {
            match event {
                CallbackEvent::OpenStartTag { name } => {
                    let known = URLS.iter().find(|(tag, _)| *tag == name);
                    urls = known.map_or(&[], |(_, attributes)| attributes);
                }
                CallbackEvent::AttributeName { name } => is_url = urls.contains(&name),
                CallbackEvent::AttributeValue { .. } if is_url => {
                    let link = page.get(span.start..span.end).map(std::str::from_utf8);
                    if let Some(Ok(link)) = link
                        && let Some(link) = self.moved(link)
                    {
                        moved.extend_from_slice(&page[done..span.start]);
                        moved.extend_from_slice(link.as_bytes());
                        done = span.end;
                    }
                }
                _ => {}
            }
            None::<Infallible>
        });
        // what a script or a style holds is no tag
        emitter.naively_switch_states(true);
        let Ok(()) = Tokenizer::new_with_emitter(page, emitter).finish();
        moved.extend_from_slice(&page[done..]);
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "/api/v1/namespaces/n/pods/p:80/proxy";

    fn links() -> Links<'static> {
        Links {
            base: BASE,
            target: "10.244.0.5:80",
            requested: "localhost:8001",
        }
    }

    #[test]
    fn a_link_to_the_same_server_leads_through_the_proxy() {
        let table = [
            ("/", Some(format!("{BASE}/"))),
            ("/a/b?c=d#e", Some(format!("{BASE}/a/b?c=d#e"))),
            ("http://10.244.0.5:80/a", Some(format!("{BASE}/a"))),
            ("//10.244.0.5:80/a", Some(format!("{BASE}/a"))),
            (
                "https://localhost:8001/a",
                Some(format!("https://localhost:8001{BASE}/a")),
            ),
            ("http://example.org/a", None),
            ("//example.org/a", None),
            ("http://10.244.0.5:80", None),
            ("mailto:a@b", None),
            ("a/b", None),
            ("#top", None),
            ("", None),
            ("/api/v1/namespaces/n/pods/p:80/proxy/a", None),
        ];
        for (link, moved) in table {
            assert_eq!(links().moved(link), moved, "{link}");
        }
    }

    #[test]
    fn only_links_of_a_page_change() {
        let page = "<!doctype html>\n<p title=\"/ä\">Grüße <A HREF=/x?a=b&amp;c class=c>/x</a>\
            <img src='/ü.png' alt=/y/><a href=\"//elsewhere/\">e</a><!-- <a href=/z> -->\
            <script src = \"/s.js\">\"<a href=/q>\"</script><a href=\"/end";
        let moved = format!(
            "<!doctype html>\n<p title=\"/ä\">Grüße <A HREF={BASE}/x?a=b&amp;c class=c>/x</a>\
             <img src='{BASE}/ü.png' alt=/y/><a href=\"//elsewhere/\">e</a><!-- <a href=/z> -->\
             <script src = \"{BASE}/s.js\">\"<a href=/q>\"</script><a href=\"/end"
        );
        let result = links().page(page.as_bytes());
        assert_eq!(String::from_utf8_lossy(&result), moved);
        let no_text = b"\xff<a href=/x>\xfe".as_slice();
        let expected = [b"\xff<a href=", BASE.as_bytes(), b"/x>\xfe"].concat();
        assert_eq!(links().page(no_text), expected);
    }
}
