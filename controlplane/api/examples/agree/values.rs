//! What fields are filled with: values at the borders of what is allowed, words seen in valid objects,
//! and whole structs by their shape.

use std::collections::HashMap;

use api::{Field, Type};

use crate::random::Random;
use crate::tree::Node;

/// How deep an invented value may nest.
const MAX_DEPTH: usize = 4;
/// Length of a text too long for anything but data, and of data too long for a ConfigMap.
const LONG: usize = 1025;
const TOO_LONG: usize = (1 << 20) + 1;

const TEXTS: &[&str] = &[
    "",
    " ",
    "a",
    "A",
    "-a",
    "a-",
    "a.b",
    "a..b",
    "a_b",
    "_a",
    "a/b",
    "a/b/c",
    "/a",
    "/",
    "..",
    "../a",
    "a/../b",
    "..a",
    ".",
    ".a",
    "*",
    "*.a",
    "é",
    "a b",
    " a",
    "a ",
    "a\nb",
    "--",
    "a--b",
    "=",
    "a=b",
    "%",
    "$(A)",
    "~",
    "0",
    "1",
    "-1",
    "1.5",
    "1e3",
    "007",
    "65536",
    "100%",
    "101%",
    "0%",
    "-5%",
    "5.5%",
    "1.2.3.4",
    "01.2.3.4",
    "1.2.3",
    "10.0.0.256",
    "::1",
    "::",
    "fd00::1",
    "FD00::1",
    "fd00:0::1",
    "fe80::1",
    "fe80::1%eth0",
    "127.0.0.1",
    "0.0.0.0",
    "169.254.1.1",
    "224.0.0.1",
    "255.255.255.255",
    "ff02::1",
    "::ffff:1.2.3.4",
    "10.0.0.0/8",
    "10.0.0.1/8",
    "10.0.0.0/33",
    "10.0.0.0/08",
    "010.0.0.0/8",
    "0.0.0.0/0",
    "fd00::/8",
    "fd00::1/8",
    "::/0",
    "::ffff:10.0.0.0/104",
    "1Gi",
    "100m",
    "1n",
    "-1Gi",
    "1.5Mi",
    "0.0001",
    "1E",
    "1k",
    "1K",
    "9223372036854775808",
    "2024-01-01T00:00:00Z",
    "2024-01-01T01:00:00+01:00",
    "2024-13-01T00:00:00Z",
    "None",
    "v1",
    "apps/v1",
    "a/b/v1",
    "example.com/x",
    "kubernetes.io/x",
    "requests.cpu",
    "example.com/requests.cpu",
    "hugepages-2Mi",
    "hugepages-",
    "cpu",
    "memory",
    "pods",
    "metadata.labels['a']",
    "metadata.annotations['A']",
    "metadata.labels['']",
    "spec.nodeName",
    "status.podIP",
    "status.podIPs",
    "status.hostIPs",
    "limits.cpu",
    "limits.hugepages-2Mi",
    "orphan",
    "foregroundDeletion",
    "kubernetes",
    "ALL",
    "CAP_NET_ADMIN",
    "node-role.kubernetes.io/x",
    "default",
    "host.docker:5000/a:b",
    "a@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "YQ==",
    "YQ",
    "YR==",
    "<&>",
    "\u{2028}",
    "http",
    "HTTP",
    "http-metrics",
    "a1b2c3d4e5f6g7h8",
    "0123456789012345",
    "TCP",
    "tcp",
];

const NUMBERS: &[&str] = &[
    "-2147483649",
    "-2147483648",
    "-1001",
    "-1000",
    "-1",
    "0",
    "1",
    "2",
    "3",
    "5",
    "10",
    "30",
    "53",
    "79",
    "80",
    "99",
    "100",
    "101",
    "255",
    "256",
    "420",
    "511",
    "512",
    "599",
    "600",
    "1000",
    "1001",
    "9999",
    "65534",
    "65535",
    "65536",
    "86400",
    "86401",
    "2147483647",
    "2147483648",
    "4294967296",
    "4294967297",
    "9223372036854775807",
    "9223372036854775808",
    "1.5",
    "1.0",
    "1e2",
    "-0",
];

/// Words seen in valid objects, by the name of the field they stood in.
pub struct Words {
    by_field: HashMap<String, Vec<Node>>,
    texts: Vec<String>,
}

impl Words {
    /// Collects from objects.
    pub fn of<'n>(objects: impl Iterator<Item = &'n Node>) -> Words {
        let mut words = Words {
            by_field: HashMap::new(),
            texts: Vec::new(),
        };
        for object in objects {
            words.collect("", object);
        }
        words
    }

    fn collect(&mut self, field: &str, node: &Node) {
        match node {
            Node::List(items) => items.iter().for_each(|item| self.collect(field, item)),
            Node::Map(entries) => {
                for (key, value) in entries {
                    self.collect(key, value);
                }
            }
            scalar => {
                let known = self.by_field.entry(field.to_owned()).or_default();
                if !known.contains(scalar) {
                    known.push(scalar.clone());
                }
                if let Node::Text(text) = scalar
                    && !self.texts.contains(text)
                {
                    self.texts.push(text.clone());
                }
            }
        }
    }

    /// A value of that shape.
    pub fn make(&self, name: &str, ty: &Type, field: Option<&Field>, random: &mut Random) -> Node {
        self.make_at(name, ty, field, 0, random)
    }

    fn make_at(
        &self,
        name: &str,
        ty: &Type,
        field: Option<&Field>,
        depth: usize,
        random: &mut Random,
    ) -> Node {
        match ty {
            Type::Struct(id) => {
                let mut entries = Vec::new();
                for field in &id.get().fields {
                    let likely = if field.required { 85 } else { 70 / (depth + 2) };
                    let deep = depth >= MAX_DEPTH && field.ty.as_struct().is_some();
                    if !deep && random.chance(likely) {
                        let value =
                            self.make_at(field.name, &field.ty, Some(field), depth + 1, random);
                        entries.push((field.name.to_owned(), value));
                    }
                }
                Node::Map(entries)
            }
            Type::List(element) => {
                let count = if depth >= MAX_DEPTH {
                    0
                } else {
                    random.below(3)
                };
                let item = |_| self.make_at(name, element, field, depth + 1, random);
                Node::List((0..count).map(item).collect())
            }
            Type::Map(element) => {
                let mut entries: Vec<(String, Node)> = Vec::new();
                for _ in 0..random.below(3) {
                    let key = self.key(element, random);
                    if entries.iter().all(|(k, _)| *k != key) {
                        let value = self.make_at(name, element, None, depth + 1, random);
                        entries.push((key, value));
                    }
                }
                Node::Map(entries)
            }
            scalar => self.scalar(name, scalar, field, random),
        }
    }

    fn key(&self, element: &Type, random: &mut Random) -> String {
        const RESOURCES: [&str; 6] = [
            "cpu",
            "memory",
            "ephemeral-storage",
            "storage",
            "hugepages-2Mi",
            "example.com/gpu",
        ];
        if *element == Type::Quantity && random.chance(80) {
            return RESOURCES[random.below(RESOURCES.len())].to_owned();
        }
        self.any_text(random)
    }

    fn scalar(&self, name: &str, ty: &Type, field: Option<&Field>, random: &mut Random) -> Node {
        let enums = field.map_or(&[][..], |f| &f.enum_values);
        if !enums.is_empty() && random.chance(75) {
            return Node::text(random.pick(enums).copied().unwrap_or_default());
        }
        let seen = self.by_field.get(name).map_or(&[][..], |v| v);
        if random.chance(50)
            && let Some(word) = random.pick(seen)
        {
            return word.clone();
        }
        match ty {
            Type::Bool => Node::Bool(random.chance(50)),
            Type::Int32 | Type::Int64 | Type::Float => number(random),
            Type::IntOrString if random.chance(50) => number(random),
            Type::Quantity => Node::text(quantity(random)),
            Type::Time | Type::MicroTime if random.chance(80) => Node::text(time(random)),
            Type::Bytes if random.chance(70) => Node::text("YWJj"),
            Type::Raw | Type::Any | Type::Fields => {
                Node::Map(vec![("a".to_owned(), number(random))])
            }
            _ => Node::Text(self.any_text(random)),
        }
    }

    fn any_text(&self, random: &mut Random) -> String {
        match random.pick(&self.texts) {
            Some(text) if random.chance(40) => text.clone(),
            _ => border_text(random),
        }
    }

    /// A value at a border of what the shape allows.
    pub fn border(&self, ty: Option<&Type>, random: &mut Random) -> Node {
        match ty {
            Some(Type::Bool) => Node::Bool(random.chance(50)),
            Some(Type::Int32 | Type::Int64 | Type::Float) => number(random),
            Some(Type::IntOrString) if random.chance(50) => number(random),
            Some(Type::Quantity) => Node::text(quantity(random)),
            Some(Type::Time | Type::MicroTime) if random.chance(70) => Node::text(time(random)),
            Some(Type::List(_)) => Node::List(Vec::new()),
            Some(Type::Map(_) | Type::Struct(_)) => Node::Map(Vec::new()),
            _ => Node::Text(self.any_text(random)),
        }
    }
}

fn border_text(random: &mut Random) -> String {
    match random.below(100) {
        0..90 => TEXTS[random.below(TEXTS.len())].to_owned(),
        90..99 => "x".repeat([15, 16, 63, 64, 128, 129, 253, 254, LONG][random.below(9)]),
        _ if random.chance(3) => "x".repeat(TOO_LONG),
        _ => "a/".repeat(LONG),
    }
}

fn number(random: &mut Random) -> Node {
    Node::number(NUMBERS[random.below(NUMBERS.len())])
}

fn quantity(random: &mut Random) -> &'static str {
    const QUANTITIES: [&str; 18] = [
        "0",
        "1",
        "2",
        "-1",
        "500m",
        "0.5",
        "1Gi",
        "1024Mi",
        "1.5Gi",
        "100n",
        "1u",
        "0.0001",
        "1e3",
        "1E",
        "5k",
        "12345678901234567890",
        "",
        "1 Gi",
    ];
    QUANTITIES[random.below(QUANTITIES.len())]
}

fn time(random: &mut Random) -> &'static str {
    const TIMES: [&str; 7] = [
        "2024-01-01T00:00:00Z",
        "2024-01-01T01:00:00+01:00",
        "2024-01-01T00:00:00.123456789Z",
        "2024-01-01",
        "2024-13-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "2024-01-01T00:00:00.5Z",
    ];
    TIMES[random.below(TIMES.len())]
}
