//! Amounts of resources by name: the arithmetic of `k8s.io/apiserver/pkg/quota/v1/resources.go`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::quantity::Quantity;

/// Quantities by resource name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Amounts(BTreeMap<String, Quantity>);

impl Amounts {
    pub fn get(&self, name: &str) -> Option<Quantity> {
        self.0.get(name).copied()
    }

    pub fn set(&mut self, name: &str, quantity: Quantity) {
        self.0.insert(name.to_owned(), quantity);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, Quantity)> {
        self.0
            .iter()
            .map(|(name, quantity)| (name.as_str(), *quantity))
    }

    pub fn names_where(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let names = self.0.keys().filter(|name| is_wanted(name));
        names.cloned().collect()
    }

    /// Adds an amount to what is there.
    pub fn add(&mut self, name: &str, quantity: Quantity) {
        let sum = self.get(name).map_or(quantity, |old| old.plus(quantity));
        self.set(name, sum);
    }

    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        for (name, quantity) in other.iter() {
            sum.add(name, quantity);
        }
        sum
    }

    /// Every amount so many times.
    #[must_use]
    pub fn times(&self, number: i64) -> Self {
        let product =
            |(name, quantity): (&str, Quantity)| (name.to_owned(), quantity.times(number));
        Self(self.iter().map(product).collect())
    }

    /// Raises every amount to at least that of the other.
    pub fn raise_to(&mut self, other: &Self) {
        for (name, quantity) in other.iter() {
            if self.get(name).is_none_or(|own| own < quantity) {
                self.set(name, quantity);
            }
        }
    }

    /// What is left of each amount, zero where the other has more.
    pub fn minus_not_below_zero(&self, other: &Self) -> Self {
        let left = |(name, quantity): (&str, Quantity)| {
            let rest = other.get(name).map_or(quantity, |o| quantity.minus(o));
            let rest = if rest.sign() < 0 {
                Quantity::of(0)
            } else {
                rest
            };
            (name.to_owned(), rest)
        };
        Self(self.iter().map(left).collect())
    }

    pub fn without_zeros(&self) -> Self {
        self.filtered(|_, quantity| quantity.sign() != 0)
    }

    /// Those that the other names.
    pub fn masked(&self, other: &Self) -> Self {
        self.filtered(|name, _| other.0.contains_key(name))
    }

    /// Those that are more than the limit, where there is one.
    pub fn exceeding(&self, limits: &Self) -> Self {
        self.filtered(|name, quantity| limits.get(name).is_some_and(|limit| quantity > limit))
    }

    pub fn negative(&self) -> Vec<String> {
        self.names_where(|name| self.0[name].sign() < 0)
    }

    fn filtered(&self, keep: impl Fn(&str, Quantity) -> bool) -> Self {
        let kept = self.iter().filter(|(name, quantity)| keep(name, *quantity));
        Self(kept.map(|(name, q)| (name.to_owned(), q)).collect())
    }
}

impl<'n> FromIterator<(&'n str, i64)> for Amounts {
    fn from_iter<I: IntoIterator<Item = (&'n str, i64)>>(items: I) -> Self {
        let quantity = |(name, number): (&str, i64)| (name.to_owned(), Quantity::of(number));
        Self(items.into_iter().map(quantity).collect())
    }
}

/// `name=quantity` by name, as in upstream's messages.
impl fmt::Display for Amounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, quantity)) in self.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{name}={quantity}")?;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Amounts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let texts = Option::<BTreeMap<String, String>>::deserialize(from)?.unwrap_or_default();
        let parse = |(name, text): (String, String)| match Quantity::parse(&text) {
            Ok(quantity) => Ok((name, quantity)),
            Err(error) => Err(D::Error::custom(error)),
        };
        texts
            .into_iter()
            .map(parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl Serialize for Amounts {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(
            self.iter()
                .map(|(name, quantity)| (name, quantity.to_string())),
        )
    }
}
