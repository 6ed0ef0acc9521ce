//! The thread that writes and syncs, one write at a time, while the owner assembles the next.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, sync_channel};
use std::thread;

use crate::disk::Disk;
use crate::owner::Message;

/// Bytes to append.
#[derive(Debug)]
pub struct Write {
    pub file: Arc<File>,
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// Starts the thread; it ends when the returned sender is dropped. Each write is answered by one
/// [`Message::Written`].
pub fn start(disk: Disk, owner: Sender<Message>) -> io::Result<SyncSender<Write>> {
    let (sender, writes) = sync_channel(1);
    thread::Builder::new()
        .name("store-sync".into())
        .spawn(move || run(&disk, &writes, &owner))?;
    Ok(sender)
}

fn run(disk: &Disk, writes: &Receiver<Write>, owner: &Sender<Message>) {
    for write in writes {
        let result = disk.write_synced(&write.file, write.offset, &write.bytes);
        if owner.send(Message::Written(result)).is_err() {
            return;
        }
    }
}
