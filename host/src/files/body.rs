//! A file on its way to a client, chunk by chunk, each read when the one before has been taken.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::task::JoinHandle;

/// As much as is read at once, and so what a body holds of its file.
const CHUNK_BYTES: u64 = 64 * 1024;

/// What is left to send. How long that is was decided when the file was opened.
#[derive(Default)]
pub(crate) struct Body {
    file: Option<Arc<File>>,
    parts: VecDeque<Part>,
    /// A read that had to wait for a disk.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

/// A piece of a body.
pub(super) enum Part {
    Text(Bytes),
    /// Of the file.
    Range(Range<u64>),
}

impl Part {
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Range(range) => range.end - range.start,
        }
    }
}

impl Body {
    pub(super) fn new(file: File, mut parts: Vec<Part>) -> Self {
        parts.retain(|part| part.length() > 0);
        Self {
            file: (!parts.is_empty()).then(|| Arc::new(file)),
            parts: parts.into(),
            reading: None,
        }
    }

    /// Returns the bytes that are still to come.
    pub(crate) fn remaining(&self) -> u64 {
        self.parts.iter().map(Part::length).sum()
    }

    /// Reads the next chunk: at once if the kernel has it in memory, else on a thread that may wait.
    /// A file that has become shorter is an error, so that nobody takes what has come for all of it.
    pub(crate) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let (Some(file), Some(part)) = (&self.file, self.parts.front_mut()) else {
            return Poll::Ready(None);
        };
        let range = match part {
            Part::Range(range) => range,
            Part::Text(text) => {
                let text = std::mem::take(text);
                self.parts.pop_front();
                return Poll::Ready(Some(Ok(text)));
            }
        };
        let length = usize::try_from((range.end - range.start).min(CHUNK_BYTES)).unwrap_or(0);
        let result = match &mut self.reading {
            Some(reading) => {
                let result = ready!(Pin::new(reading).poll(cx));
                self.reading = None;
                result.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
            None => match read_cached(file, range.start, length) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let (file, at) = (file.clone(), range.start);
                    let read = move || read(&file, at, length);
                    self.reading = Some(tokio::task::spawn_blocking(read));
                    return self.poll_chunk(cx);
                }
                result => result,
            },
        };
        match &result {
            Ok(chunk) => {
                range.start += chunk.len() as u64;
                if range.is_empty() {
                    self.parts.pop_front();
                }
            }
            Err(_) => self.parts.clear(),
        }
        Poll::Ready(Some(result))
    }
}

/// Reads as much of a chunk as is in memory, a byte at least.
fn read_cached(file: &File, at: u64, length: usize) -> io::Result<Bytes> {
    let mut chunk = vec![0; length];
    let into = &mut [IoSliceMut::new(&mut chunk)];
    match preadv2(file, into, at, ReadWriteFlags::NOWAIT) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => {
            chunk.truncate(count);
            Ok(chunk.into())
        }
        // Some file systems cannot say whether they would wait.
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            Err(io::ErrorKind::WouldBlock.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads a whole chunk.
fn read(file: &File, at: u64, length: usize) -> io::Result<Bytes> {
    let mut chunk = vec![0; length];
    file.read_exact_at(&mut chunk, at)?;
    Ok(chunk.into())
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Sends all chunks of a file; how many of them must wait for a disk is the kernel's secret.
    async fn collect(body: &mut Body) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(chunk) = poll_fn(|cx| body.poll_chunk(cx)).await {
            all.extend(chunk?);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn a_file_that_is_not_in_memory_arrives_whole_and_one_that_was_cut_does_not() {
        let path = std::env::temp_dir().join(format!("tidegate-body-{}", std::process::id()));
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let length = content.len() as u64;
        std::fs::write(&path, &content).unwrap();
        let file = || {
            let file = File::options().read(true).write(true).open(&path).unwrap();
            file.sync_all().unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            file
        };
        let parts = || vec![Part::Range(0..length)];
        let mut body = Body::new(file(), parts());
        assert_eq!(body.remaining(), length);
        assert!(collect(&mut body).await.unwrap() == content);
        assert_eq!(body.remaining(), 0);

        // On the threads that may wait, whatever the kernel has.
        let whole = read(&file(), 4, 100).unwrap();
        assert!(whole == content[4..104]);

        let cut = file();
        cut.set_len(length - 1).unwrap();
        assert!(read(&cut, length - 10, 10).is_err());
        let error = collect(&mut Body::new(cut, parts())).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        std::fs::remove_file(&path).unwrap();
    }
}
