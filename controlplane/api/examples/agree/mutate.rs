//! Damage to objects: something dropped, doubled, of another type, at a border, unknown, reordered,
//! moved, or added by the shape of its kind.

use api::{Field, Type};

use crate::random::Random;
use crate::tree::Node;
use crate::values::Words;

/// A place in an object and what its kind says about it.
struct Site {
    path: Vec<usize>,
    name: String,
    ty: Option<Type>,
    field: Option<&'static Field>,
    /// The server decides about it before any rule is asked.
    fixed: bool,
}

/// Damages an object in one to four places.
pub fn mutate(object: &mut Node, schema: &Type, words: &Words, random: &mut Random) {
    let times = match random.below(10) {
        0..5 => 1,
        5..8 => 2,
        8 => 3,
        _ => 4,
    };
    for _ in 0..times {
        once(object, schema, words, random);
    }
}

fn once(object: &mut Node, schema: &Type, words: &Words, random: &mut Random) {
    let mut sites = Vec::new();
    collect(
        object,
        Some(schema),
        None,
        ("", ""),
        &mut Vec::new(),
        &mut sites,
    );
    match random.below(100) {
        0..14 => drop(object, &sites, random),
        14..24 => double(object, &sites, random),
        24..30 => retype(object, &sites, random),
        30..52 => border(object, &sites, words, random),
        52..55 => unknown(object, &sites, random),
        55..67 => again(object, &sites, words, random),
        67..73 => reorder(object, &sites, random),
        73..80 => transplant(object, &sites, random),
        _ => add(object, &sites, words, random),
    }
}

fn collect(
    node: &Node,
    ty: Option<&Type>,
    field: Option<&'static Field>,
    (parent, name): (&str, &str),
    path: &mut Vec<usize>,
    sites: &mut Vec<Site>,
) {
    let fixed = path.is_empty()
        || (path.len() == 1 && matches!(name, "kind" | "apiVersion" | "metadata"))
        || (path.len() == 2 && parent == "metadata" && name == "namespace");
    sites.push(Site {
        path: path.clone(),
        name: name.to_owned(),
        ty: ty.cloned(),
        field,
        fixed,
    });
    for at in 0..node.children() {
        let Some(child) = node.child(at) else {
            continue;
        };
        path.push(at);
        match (
            node,
            ty.and_then(Type::as_struct),
            ty.and_then(Type::element),
        ) {
            (Node::Map(entries), Some(shape), _) => {
                let key = &entries[at].0;
                let field = shape.field(key);
                collect(child, field.map(|f| &f.ty), field, (name, key), path, sites);
            }
            (Node::Map(entries), None, element) => {
                collect(child, element, None, (name, &entries[at].0), path, sites);
            }
            (_, _, element) => collect(child, element, field, (parent, name), path, sites),
        }
        path.pop();
    }
}

/// A place that may be touched and of which `wanted` holds.
fn place<'s>(
    sites: &'s [Site],
    random: &mut Random,
    wanted: impl Fn(&Site) -> bool,
) -> Option<&'s Site> {
    let fitting: Vec<&Site> = sites
        .iter()
        .filter(|site| !site.fixed && wanted(site))
        .collect();
    random.pick(&fitting).copied()
}

fn is_list(site: &Site) -> bool {
    matches!(site.ty, Some(Type::List(_)))
}

fn is_container(site: &Site) -> bool {
    matches!(
        site.ty,
        Some(Type::List(_) | Type::Map(_) | Type::Struct(_))
    )
}

fn drop(object: &mut Node, sites: &[Site], random: &mut Random) {
    let Some(site) = place(sites, random, |_| true) else {
        return;
    };
    let Some((last, parent)) = site.path.split_last() else {
        return;
    };
    match object.at_mut(parent) {
        Some(Node::List(items)) => {
            items.remove(*last);
        }
        Some(Node::Map(entries)) => {
            entries.remove(*last);
        }
        _ => {}
    }
}

/// An item twice in its list, or (rarely, since no decoder takes it) a key twice in its map.
fn double(object: &mut Node, sites: &[Site], random: &mut Random) {
    let keys = random.chance(3);
    let Some(site) = place(sites, random, |site| {
        is_list(site) || (keys && is_container(site))
    }) else {
        return;
    };
    match object.at_mut(&site.path) {
        Some(Node::List(items)) if !items.is_empty() => {
            let item = items[random.below(items.len())].clone();
            items.insert(random.below(items.len() + 1), item);
        }
        Some(Node::Map(entries)) if !entries.is_empty() => {
            let entry = entries[random.below(entries.len())].clone();
            entries.push(entry);
        }
        _ => {}
    }
}

fn retype(object: &mut Node, sites: &[Site], random: &mut Random) {
    let Some(site) = place(sites, random, |_| true) else {
        return;
    };
    let Some(node) = object.at_mut(&site.path) else {
        return;
    };
    *node = match random.below(8) {
        0 => Node::Null,
        1 => Node::Bool(true),
        2 => Node::number(1),
        3 => Node::text("1"),
        4 => Node::List(vec![node.clone()]),
        5 => Node::List(Vec::new()),
        6 => Node::Map(Vec::new()),
        _ => Node::text("text"),
    };
}

fn border(object: &mut Node, sites: &[Site], words: &Words, random: &mut Random) {
    let scalars = random.chance(85);
    let Some(site) = place(sites, random, |site| !scalars || !is_container(site)) else {
        return;
    };
    // What is in a map without a shape has no type: a map's keys are borders too.
    if random.chance(15)
        && let Some((last, parent)) = site.path.split_last()
        && let Some(Node::Map(entries)) = object.at_mut(parent)
        && site.field.is_none()
    {
        if let Node::Text(key) = words.border(None, random)
            && entries.iter().all(|(k, _)| *k != key)
        {
            entries[*last].0 = key;
        }
        return;
    }
    if let Some(node) = object.at_mut(&site.path) {
        *node = words.border(site.ty.as_ref(), random);
    }
}

fn unknown(object: &mut Node, sites: &[Site], random: &mut Random) {
    let Some(site) = place(sites, random, is_container) else {
        return;
    };
    if let Some(Node::Map(entries)) = object.at_mut(&site.path) {
        let key = ["bogus", "Name", "spec", "apiVersion"][random.below(4)];
        if entries.iter().all(|(k, _)| k != key) {
            entries.push((key.to_owned(), Node::text("x")));
        }
    }
}

/// Another value of the same shape: of the field's enumeration, or as seen elsewhere.
fn again(object: &mut Node, sites: &[Site], words: &Words, random: &mut Random) {
    let enums = random.chance(40);
    let Some(site) = place(sites, random, |site| {
        !is_container(site) && (!enums || site.field.is_some_and(|f| !f.enum_values.is_empty()))
    }) else {
        return;
    };
    if let (Some(node), Some(ty)) = (object.at_mut(&site.path), &site.ty) {
        *node = words.make(&site.name, ty, site.field, random);
    }
}

fn reorder(object: &mut Node, sites: &[Site], random: &mut Random) {
    let Some(site) = place(sites, random, is_container) else {
        return;
    };
    match object.at_mut(&site.path) {
        Some(Node::List(items)) if items.len() > 1 => {
            let (a, b) = (random.below(items.len()), random.below(items.len()));
            items.swap(a, b);
        }
        Some(Node::Map(entries)) if entries.len() > 1 => {
            let (a, b) = (random.below(entries.len()), random.below(entries.len()));
            entries.swap(a, b);
        }
        _ => {}
    }
}

/// A value from one place in another of the same shape.
fn transplant(object: &mut Node, sites: &[Site], random: &mut Random) {
    let Some(from) = place(sites, random, |site| site.ty.is_some()) else {
        return;
    };
    let Some(to) = place(sites, random, |site| site.ty == from.ty) else {
        return;
    };
    let Some(value) = object.at_mut(&from.path).map(|node| node.clone()) else {
        return;
    };
    if let Some(node) = object.at_mut(&to.path) {
        *node = value;
    }
}

/// A field that is absent, or an item more.
fn add(object: &mut Node, sites: &[Site], words: &Words, random: &mut Random) {
    // The root and the metadata may be added to, though not replaced.
    let open: Vec<&Site> = sites.iter().filter(|site| is_container(site)).collect();
    let Some(site) = random.pick(&open) else {
        return;
    };
    let Some(ty) = &site.ty else { return };
    match (object.at_mut(&site.path), ty) {
        (Some(Node::Map(entries)), Type::Struct(id)) => {
            let absent: Vec<&Field> = id
                .get()
                .fields
                .iter()
                .filter(|f| entries.iter().all(|(key, _)| key != f.name))
                .filter(|f| {
                    !(site.name == "metadata" && site.path.len() == 1 && f.name == "namespace")
                })
                .collect();
            if let Some(field) = random.pick(&absent) {
                let value = words.make(field.name, &field.ty, Some(field), random);
                entries.push((field.name.to_owned(), value));
            }
        }
        (Some(Node::Map(entries)), Type::Map(element)) => {
            if let Node::Text(key) = words.border(None, random)
                && entries.iter().all(|(k, _)| *k != key)
            {
                entries.push((key, words.make(&site.name, element, None, random)));
            }
        }
        (Some(Node::List(items)), Type::List(element)) => {
            items.push(words.make(&site.name, element, site.field, random));
        }
        _ => {}
    }
}
