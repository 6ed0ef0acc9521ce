//! Reading the event ring buffer, by polling: the programs never wake a reader.

use std::io;
use std::path::Path;

use abi::Event;
use aya::maps::{Map, MapData, RingBuf};

/// Reader of flows and drops. Only one may read at a time.
pub struct EventReader {
    ring: RingBuf<MapData>,
}

impl EventReader {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let data = MapData::from_pin(path).map_err(io::Error::other)?;
        let ring = RingBuf::try_from(Map::RingBuf(data)).map_err(io::Error::other)?;
        Ok(Self { ring })
    }

    /// Takes the events that are there, at most `limit`.
    pub fn poll(&mut self, limit: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < limit {
            let Some(item) = self.ring.next() else { break };
            if item.len() >= size_of::<Event>() {
                events.push(bytemuck::pod_read_unaligned(&item[..size_of::<Event>()]));
            }
        }
        events
    }
}
