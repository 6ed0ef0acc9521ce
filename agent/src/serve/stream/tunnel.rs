//! SPDY inside a WebSocket (KEP-4006): the messages' bytes are the connection's bytes.

use bytes::BytesMut;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use super::{Runtime, Socket, normal_close};

const BUFFER: usize = 32 << 10;

pub async fn run(socket: Socket, runtime: Runtime) {
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let up = async {
        while let Some(Ok(message)) = from_client.next().await {
            match message {
                Message::Binary(data) => {
                    if to_runtime.write_all(&data).await.is_err() {
                        return;
                    }
                }
                Message::Close(_) => return,
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    };
    let down = async {
        let mut buffer = BytesMut::with_capacity(BUFFER);
        while from_runtime
            .read_buf(&mut buffer)
            .await
            .is_ok_and(|read| read > 0)
        {
            if to_client
                .send(Message::Binary(buffer.split().freeze()))
                .await
                .is_err()
            {
                return;
            }
            buffer.reserve(BUFFER);
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
    // The peer may have gone already.
    let _ = to_client.send(normal_close()).await;
}
