//! WebSocket channels on the client's side, SPDY streams on the runtime's. The first byte of a message is
//! its channel; `v5.channel.k8s.io` adds channel 255, which half-closes the channel it names
//! (upstream: `apimachinery/pkg/util/remotecommand`, `httpstream/wsstream`).

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_tungstenite::tungstenite::Message;

use super::spdy::{self, Encoder, Frame};
use super::{Runtime, Socket, Wanted, normal_close};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
const BUFFER: usize = 32 << 10;

/// Which channel belongs to which stream.
#[derive(Default)]
struct Map {
    stream: HashMap<u8, u32>,
    channel: HashMap<u32, u8>,
}

impl Map {
    fn add(&mut self, channel: u8, stream: u32) {
        self.stream.insert(channel, stream);
        self.channel.insert(stream, channel);
    }
}

pub async fn remote_command(socket: Socket, runtime: Runtime, wanted: Wanted, closes: bool) {
    let Wanted {
        stdin,
        stdout,
        stderr,
        tty,
    } = wanted;
    let streams = [
        (ERROR, "error", true),
        (STDIN, "stdin", stdin),
        (STDOUT, "stdout", stdout),
        (STDERR, "stderr", stderr),
        (RESIZE, "resize", tty),
    ];
    let mut encoder = Encoder::default();
    let mut map = Map::default();
    let mut opening = Vec::new();
    for (channel, kind, _) in streams.into_iter().filter(|(_, _, on)| *on) {
        let (stream, frame) = encoder.open(&[("streamtype", kind)]);
        map.add(channel, stream);
        opening.extend(frame);
    }
    // The error stream ends last: it carries how the command ended.
    let last = map.stream[&ERROR];
    bridge(
        socket,
        runtime,
        Bridge {
            map,
            opening,
            closes,
            greeting: vec![vec![STDOUT]],
            last: Some(last),
        },
    )
    .await;
}

/// Two channels per port: data (even) and errors (odd); each begins with the port's number.
pub async fn port_forward(socket: Socket, runtime: Runtime, ports: Vec<u16>) {
    let mut encoder = Encoder::default();
    let mut map = Map::default();
    let (mut opening, mut greeting) = (Vec::new(), Vec::new());
    for (at, port) in ports.iter().enumerate() {
        let (Ok(data), Ok(error)) = (u8::try_from(at * 2), u8::try_from(at * 2 + 1)) else {
            break;
        };
        let (number, request) = (port.to_string(), at.to_string());
        for (channel, kind) in [(error, "error"), (data, "data")] {
            let headers = [
                ("streamtype", kind),
                ("port", &number),
                ("requestid", &request),
            ];
            let (stream, frame) = encoder.open(&headers);
            map.add(channel, stream);
            opening.extend(frame);
            let [low, high] = port.to_le_bytes();
            greeting.push(vec![channel, low, high]);
        }
    }
    bridge(
        socket,
        runtime,
        Bridge {
            map,
            opening,
            closes: true,
            greeting,
            last: None,
        },
    )
    .await;
}

struct Bridge {
    map: Map,
    opening: Vec<u8>,
    /// The client may half-close channels.
    closes: bool,
    /// Messages the client gets first.
    greeting: Vec<Vec<u8>>,
    /// When this stream and all others ended, everything did.
    last: Option<u32>,
}

/// What the client's side asks to be written to the runtime.
async fn bridge(socket: Socket, runtime: Runtime, bridge: Bridge) {
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let greeting = bridge.greeting.into_iter().map(Bytes::from);
    let mut greeting = futures::stream::iter(greeting.map(|text| Ok(Message::Binary(text))));
    let opened = to_runtime.write_all(&bridge.opening).await.is_ok();
    if !opened || to_client.send_all(&mut greeting).await.is_err() {
        return;
    }
    let (pings, mut pinged) = tokio::sync::mpsc::channel(4);
    let up = async {
        loop {
            tokio::select! {
                message = from_client.next() => {
                    let Some(Ok(message)) = message else { return };
                    let Some(frame) = to_frame(&bridge.map.stream, bridge.closes, message) else {
                        return;
                    };
                    if write(&mut to_runtime, &frame).await.is_err() {
                        return;
                    }
                }
                Some(id) = pinged.recv() => {
                    if write(&mut to_runtime, &spdy::ping(id)).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let down = async {
        let mut buffer = BytesMut::with_capacity(BUFFER);
        let mut open: HashMap<u32, u8> = bridge.map.channel.clone();
        if bridge.last.is_some() {
            // Streams that only go to the runtime do not end from its side.
            open.retain(|_, channel| !matches!(*channel, STDIN | RESIZE));
        }
        while let Some(frame) = next(&mut from_runtime, &mut buffer).await {
            let (stream, data, fin) = match frame {
                Frame::Data { stream, data, fin } => (stream, data, fin),
                Frame::Reset { stream } => (stream, Bytes::new(), true),
                Frame::Ping { id } => {
                    // A full queue drops the ping; the peer sends another.
                    let _ = pings.try_send(id);
                    continue;
                }
                Frame::GoAway => break,
                Frame::Other => continue,
            };
            if let Some(channel) = bridge.map.channel.get(&stream).filter(|_| !data.is_empty()) {
                let message = Message::Binary([&[*channel], data.as_ref()].concat().into());
                if to_client.send(message).await.is_err() {
                    return;
                }
            }
            if fin {
                open.remove(&stream);
            }
            if open.is_empty() {
                break;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
    // The client may have gone already.
    let _ = to_client.send(normal_close()).await;
}

async fn write(to: &mut WriteHalf<Runtime>, frame: &[u8]) -> std::io::Result<()> {
    to.write_all(frame).await?;
    to.flush().await
}

/// The frame for a client's message; empty when there is none, `None` when the client ends the session.
fn to_frame(streams: &HashMap<u8, u32>, closes: bool, message: Message) -> Option<Vec<u8>> {
    let data = match message {
        Message::Binary(data) => data,
        Message::Close(_) => return None,
        Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {
            return Some(Vec::new());
        }
    };
    let Some((channel, data)) = data.split_first() else {
        return Some(Vec::new());
    };
    if *channel == CLOSE && closes {
        let named = data.first().and_then(|channel| streams.get(channel));
        return Some(
            named
                .map(|stream| spdy::data(*stream, &[], true))
                .unwrap_or_default(),
        );
    }
    if data.is_empty() {
        return Some(Vec::new());
    }
    let Some(stream) = streams.get(channel) else {
        return Some(Vec::new());
    };
    let chunks = data.chunks(spdy::MAX_PAYLOAD);
    Some(
        chunks
            .flat_map(|chunk| spdy::data(*stream, chunk, false))
            .collect(),
    )
}

async fn next(from: &mut ReadHalf<Runtime>, buffer: &mut BytesMut) -> Option<Frame> {
    loop {
        if let Some(frame) = spdy::decode(buffer) {
            return Some(frame);
        }
        buffer.reserve(BUFFER);
        if from.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(closes: bool, message: &[u8]) -> Option<Vec<u8>> {
        let streams = [(STDIN, 3)].into();
        to_frame(
            &streams,
            closes,
            Message::Binary(Bytes::copy_from_slice(message)),
        )
    }

    #[test]
    fn input_becomes_data_of_its_stream() {
        assert_eq!(frame(true, b"\0hi").unwrap(), spdy::data(3, b"hi", false));
        assert!(
            frame(true, b"\x09hi").unwrap().is_empty(),
            "an unknown channel is ignored"
        );
    }

    #[test]
    fn closing_a_channel_half_closes_its_stream_from_version_five_on() {
        assert_eq!(
            frame(true, &[CLOSE, STDIN]).unwrap(),
            spdy::data(3, b"", true)
        );
        assert!(frame(false, &[CLOSE, STDIN]).unwrap().is_empty());
    }
}
