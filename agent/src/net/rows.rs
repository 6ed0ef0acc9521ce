//! Rows of the datapath's maps as plain data: what plans produce, what tests compare, and the agent's
//! picture of what each map holds. One enum over all tables the agent derives from the cluster.

use std::collections::HashMap;

use abi::{V4, V6};

use super::maps::{
    BeTable, EpMacTable, EpTable, FeTable, IpTable, MapError, MapSet, NetTable, NodeTable,
    PeerTable, PolTable, PolxTable, SlotTable, SvcTable, Table,
};

/// Declares the tables in the order their rows are written: what is referred to before what refers.
macro_rules! tables {
    ($($(#[$meta:meta])* $name:ident, $field:ident: $table:ty, $key:ty => $value:ty;)*) => {
        /// A key of one of the tables.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Key {
            $($(#[$meta])* $name($key),)*
        }

        /// A row of one of the tables.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Row {
            $($(#[$meta])* $name($key, $value),)*
        }

        /// Contents of all tables.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct Tables {
            $($(#[$meta])* pub $field: HashMap<$key, $value>,)*
        }

        impl Row {
            /// The row's key.
            pub fn key(&self) -> Key {
                match self {
                    $(Self::$name(key, _) => Key::$name(*key),)*
                }
            }

            /// Writes the row.
            pub fn put(&self, maps: &mut MapSet) -> Result<(), MapError> {
                match self {
                    $(Self::$name(key, value) => maps.put::<$table>(key, value),)*
                }
            }
        }

        impl Key {
            /// `abi::map` name of the table.
            pub fn map(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => <$table as Table>::NAME,)*
                }
            }

            /// Removes the row; false if there was none.
            pub fn remove(&self, maps: &mut MapSet) -> Result<bool, MapError> {
                match self {
                    $(Self::$name(key) => maps.remove::<$table>(key),)*
                }
            }
        }

        impl Tables {
            /// Everything the maps hold.
            pub fn dump(maps: &MapSet) -> Result<Self, MapError> {
                Ok(Self {
                    $($field: maps.entries::<$table>()?.into_iter().collect(),)*
                })
            }

            /// Whether exactly this row is there.
            pub fn has(&self, row: &Row) -> bool {
                match row {
                    $(Row::$name(key, value) => self.$field.get(key) == Some(value),)*
                }
            }

            /// Whether a row with this key is there.
            pub fn has_key(&self, key: &Key) -> bool {
                match key {
                    $(Key::$name(key) => self.$field.contains_key(key),)*
                }
            }

            /// Adds or replaces a row.
            pub fn insert(&mut self, row: &Row) {
                match row {
                    $(Row::$name(key, value) => {
                        self.$field.insert(*key, *value);
                    })*
                }
            }

            /// Removes a row.
            pub fn remove(&mut self, key: &Key) {
                match key {
                    $(Key::$name(key) => {
                        self.$field.remove(key);
                    })*
                }
            }

            /// How many rows each table has, by its `abi::map` name.
            pub fn sizes(&self) -> Vec<(&'static str, usize)> {
                vec![$((<$table as Table>::NAME, self.$field.len()),)*]
            }

            /// All rows, table by table in the order of writing.
            pub fn rows(&self) -> Vec<Row> {
                let mut rows = Vec::new();
                $(rows.extend(self.$field.iter().map(|(key, value)| Row::$name(*key, *value)));)*
                rows
            }
        }
    };
}

tables! {
    Node, node: NodeTable, u32 => abi::Node;
    EpMac, ep_mac: EpMacTable, u32 => abi::Mac;
    Polx, polx: PolxTable, abi::PolxKey => u32;
    Pol, pol: PolTable, abi::PolKey => abi::PolValue;
    Net4, net4: NetTable<V4>, abi::NetKey<V4> => abi::NetValue;
    Net6, net6: NetTable<V6>, abi::NetKey<V6> => abi::NetValue;
    Peer4, peer4: PeerTable<V4>, V4 => u32;
    Peer6, peer6: PeerTable<V6>, V6 => u32;
    Ep, ep: EpTable, u32 => abi::Endpoint;
    Ip4, ip4: IpTable<V4>, V4 => abi::LocalAddr;
    Ip6, ip6: IpTable<V6>, V6 => abi::LocalAddr;
    Be4, be4: BeTable<V4>, abi::BeKey => abi::BeValue<V4>;
    Be6, be6: BeTable<V6>, abi::BeKey => abi::BeValue<V6>;
    Slot, slot: SlotTable, abi::SlotKey => u32;
    Svc, svc: SvcTable, u32 => abi::Service;
    Fe4, fe4: FeTable<V4>, abi::FeKey<V4> => abi::FeValue;
    Fe6, fe6: FeTable<V6>, abi::FeKey<V6> => abi::FeValue;
}

/// One step of a plan. Steps are carried out in order; each leaves every reader a correct view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Write a row.
    Put(Row),
    /// Remove a row now.
    Remove(Key),
    /// Nothing refers to this row any more: remove it when readers that saw the reference are gone.
    Retire(Key),
    /// Verdicts of an endpoint may have narrowed, or it has a new owner: judge its flows again.
    BumpEpoch(u32),
    /// A backend begins or stops serving.
    BumpLive(u32),
}

impl Step {
    /// The row the step is about; bumps have none.
    pub fn key(&self) -> Option<Key> {
        match self {
            Self::Put(row) => Some(row.key()),
            Self::Remove(key) | Self::Retire(key) => Some(*key),
            Self::BumpEpoch(_) | Self::BumpLive(_) => None,
        }
    }
}
