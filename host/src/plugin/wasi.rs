//! WASI 0.2 for components whose language brings it along: clocks and random numbers, and otherwise
//! an empty world. No files, sockets, environment or arguments; what is printed joins the log.
//!
//! Nothing here waits, since the worker would: a call that would have to wait ends its instance.

use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::Level;
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::bindings::io::{poll as ready, streams as waiting};
use wasmtime_wasi::p2::bindings::sockets::network::{self, ErrorCode, IpAddressFamily};
use wasmtime_wasi::p2::bindings::sync::io::{poll, streams};
use wasmtime_wasi::p2::bindings::sync::sockets::udp_create_socket;
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, Network, OutputStream, Pollable, SocketError,
    SocketResult, StreamError, StreamResult, UdpSocket, subscribe,
};
use wasmtime_wasi::{WasiCtx, WasiView, async_trait};

use super::host;
use super::host::{LogGate, State};

/// Random bytes of one call.
const MAX_RANDOM_BYTES: u64 = 64 * 1024;

/// What a plugin may print before it ends the line.
const MAX_LINE_BYTES: usize = 8 * 1024;

pub(super) fn context(plugin: &Arc<str>, log: &Arc<LogGate>) -> WasiCtx {
    let printed = |context| Printed {
        plugin: Arc::clone(plugin),
        log: Arc::clone(log),
        context,
    };
    WasiCtx::builder()
        .stdout(printed("stdout"))
        .stderr(printed("stderr"))
        .max_random_size(MAX_RANDOM_BYTES)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .build()
}

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    wasmtime_wasi::p2::add_to_linker_sync(linker)?;
    // Those that wait do so by blocking on a runtime, which panics on a thread that has one.
    linker.allow_shadowing(true);
    poll::add_to_linker::<_, Unwaiting>(linker, view)?;
    streams::add_to_linker::<_, Unwaiting>(linker, view)?;
    monotonic_clock::add_to_linker::<_, Unwaiting>(linker, view)?;
    udp_create_socket::add_to_linker::<_, Unwaiting>(linker, view)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The functions that could wait, over an instance's resources.
struct Unwaiting;

struct Resources<'a>(&'a mut ResourceTable);

impl HasData for Unwaiting {
    type Data<'a> = Resources<'a>;
}

fn view(state: &mut State) -> Resources<'_> {
    Resources(state.ctx().table)
}

/// Takes the result of what is ready now; ends the instance if it is not.
fn at_once<T>(call: impl Future<Output = T>, function: &str) -> Result<T> {
    match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Ok(result),
        Poll::Pending => host::rule(format!("waited in `{function}`; a call must not wait")),
    }
}

fn stream_at_once<T>(
    call: impl Future<Output = StreamResult<T>>,
    function: &str,
) -> StreamResult<T> {
    at_once(call, function).map_err(StreamError::Trap)?
}

impl poll::Host for Resources<'_> {
    fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> Result<Vec<u32>> {
        at_once(ready::Host::poll(self.0, pollables), "wasi:io/poll.poll")?
    }
}

impl poll::HostPollable for Resources<'_> {
    fn ready(&mut self, pollable: Resource<DynPollable>) -> Result<bool> {
        at_once(
            ready::HostPollable::ready(self.0, pollable),
            "wasi:io/poll.pollable.ready",
        )?
    }

    fn block(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        at_once(
            ready::HostPollable::block(self.0, pollable),
            "wasi:io/poll.pollable.block",
        )?
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        ready::HostPollable::drop(self.0, pollable)
    }
}

impl monotonic_clock::Host for Resources<'_> {
    fn now(&mut self) -> Result<u64> {
        Ok(nanos(START.elapsed()))
    }

    fn resolution(&mut self) -> Result<u64> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, when: u64) -> Result<Resource<DynPollable>> {
        let deadline = self.0.push(Deadline(when))?;
        subscribe(self.0, deadline)
    }

    fn subscribe_duration(&mut self, duration: u64) -> Result<Resource<DynPollable>> {
        let now = nanos(START.elapsed());
        self.subscribe_instant(now.saturating_add(duration))
    }
}

/// Zero of the plugins' clock.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A point on the plugins' clock. It is ready once it has passed, and wakes nobody.
struct Deadline(u64);

#[async_trait]
impl Pollable for Deadline {
    async fn ready(&mut self) {
        if nanos(START.elapsed()) < self.0 {
            std::future::pending().await
        }
    }
}

impl streams::Host for Resources<'_> {
    fn convert_stream_error(&mut self, error: StreamError) -> Result<streams::StreamError> {
        streams::Host::convert_stream_error(self.0, error)
    }
}

impl streams::HostInputStream for Resources<'_> {
    fn read(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        waiting::HostInputStream::read(self.0, stream, len)
    }

    fn blocking_read(
        &mut self,
        stream: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<Vec<u8>> {
        let read = waiting::HostInputStream::blocking_read(self.0, stream, len);
        stream_at_once(read, "wasi:io/streams.input-stream.blocking-read")
    }

    fn skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        waiting::HostInputStream::skip(self.0, stream, len)
    }

    fn blocking_skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        let skip = waiting::HostInputStream::blocking_skip(self.0, stream, len);
        stream_at_once(skip, "wasi:io/streams.input-stream.blocking-skip")
    }

    fn subscribe(&mut self, stream: Resource<DynInputStream>) -> Result<Resource<DynPollable>> {
        waiting::HostInputStream::subscribe(self.0, stream)
    }

    fn drop(&mut self, stream: Resource<DynInputStream>) -> Result<()> {
        let drop = waiting::HostInputStream::drop(self.0, stream);
        at_once(drop, "the end of a wasi:io/streams.input-stream")?
    }
}

impl streams::HostOutputStream for Resources<'_> {
    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        waiting::HostOutputStream::check_write(self.0, stream)
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        waiting::HostOutputStream::write(self.0, stream, bytes)
    }

    fn blocking_write_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        bytes: Vec<u8>,
    ) -> StreamResult<()> {
        let write = waiting::HostOutputStream::blocking_write_and_flush(self.0, stream, bytes);
        stream_at_once(
            write,
            "wasi:io/streams.output-stream.blocking-write-and-flush",
        )
    }

    fn flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        waiting::HostOutputStream::flush(self.0, stream)
    }

    fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        let flush = waiting::HostOutputStream::blocking_flush(self.0, stream);
        stream_at_once(flush, "wasi:io/streams.output-stream.blocking-flush")
    }

    fn subscribe(&mut self, stream: Resource<DynOutputStream>) -> Result<Resource<DynPollable>> {
        waiting::HostOutputStream::subscribe(self.0, stream)
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        waiting::HostOutputStream::write_zeroes(self.0, stream, len)
    }

    fn blocking_write_zeroes_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        len: u64,
    ) -> StreamResult<()> {
        let write = waiting::HostOutputStream::blocking_write_zeroes_and_flush(self.0, stream, len);
        stream_at_once(
            write,
            "wasi:io/streams.output-stream.blocking-write-zeroes-and-flush",
        )
    }

    fn splice(
        &mut self,
        to: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        waiting::HostOutputStream::splice(self.0, to, from, len)
    }

    fn blocking_splice(
        &mut self,
        to: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        let splice = waiting::HostOutputStream::blocking_splice(self.0, to, from, len);
        stream_at_once(splice, "wasi:io/streams.output-stream.blocking-splice")
    }

    fn drop(&mut self, stream: Resource<DynOutputStream>) -> Result<()> {
        let drop = waiting::HostOutputStream::drop(self.0, stream);
        at_once(drop, "the end of a wasi:io/streams.output-stream")?
    }
}

impl network::Host for Resources<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> Result<ErrorCode> {
        error.downcast()
    }

    fn network_error_code(&mut self, _: Resource<wasmtime::Error>) -> Result<Option<ErrorCode>> {
        Ok(None)
    }
}

impl network::HostNetwork for Resources<'_> {
    fn drop(&mut self, network: Resource<Network>) -> Result<()> {
        self.0.delete(network)?;
        Ok(())
    }
}

impl udp_create_socket::Host for Resources<'_> {
    fn create_udp_socket(&mut self, _: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        Err(ErrorCode::AccessDenied.into())
    }
}

/// What a plugin prints, line by line into the log.
struct Printed {
    plugin: Arc<str>,
    log: Arc<LogGate>,
    context: &'static str,
}

struct Printer {
    plugin: Arc<str>,
    log: Arc<LogGate>,
    context: &'static str,
    /// What does not end yet.
    line: Vec<u8>,
}

impl IsTerminal for Printed {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Printed {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Printer {
            plugin: Arc::clone(&self.plugin),
            log: Arc::clone(&self.log),
            context: self.context,
            line: Vec::new(),
        })
    }

    /// Only asked for by later WASI versions.
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

impl OutputStream for Printer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            let room = MAX_LINE_BYTES.saturating_sub(self.line.len());
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                let line = String::from_utf8_lossy(&self.line);
                self.log
                    .write(&self.plugin, Level::DEBUG, self.context, &line);
                self.line.clear();
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_LINE_BYTES)
    }
}

#[async_trait]
impl Pollable for Printer {
    async fn ready(&mut self) {}
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
