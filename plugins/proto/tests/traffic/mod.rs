//! Real HTTP/2: a client and a server of the `h2` crate talk, and what they wrote is returned in
//! the order in which they wrote it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use plugin_proto::http2::Side;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// One request and how it is answered.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) authority: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) sent: usize,
    pub(crate) status: u16,
    pub(crate) answered: usize,
    pub(crate) grpc_status: Option<u32>,
}

/// What one side wrote at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) side: Side,
    pub(crate) position: u64,
    pub(crate) bytes: Vec<u8>,
}

struct Tap {
    stream: DuplexStream,
    side: Side,
    position: u64,
    log: Arc<Mutex<Vec<Write>>>,
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        if written > 0 {
            let (side, position) = (self.side, self.position);
            let write = Write { side, position, bytes: bytes[..written].to_vec() };
            self.log.lock().expect("nobody panicked").push(write);
            self.position += written as u64;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Lets them talk: the calls are made `at_once` at a time, with HPACK tables of this size.
pub(crate) fn talk(calls: &[Call], at_once: usize, table: u32) -> Vec<Write> {
    let log = Arc::new(Mutex::new(Vec::new()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (client, server) = tokio::io::duplex(1 << 16);
        let tap = |stream, side| Tap { stream, side, position: 0, log: Arc::clone(&log) };
        let server = tokio::spawn(serve(tap(server, Side::Server), calls.to_vec(), table));
        ask(tap(client, Side::Client), calls, at_once, table).await;
        server.await.expect("the server ends well");
    });
    Arc::try_unwrap(log).expect("both have ended").into_inner().expect("nobody panicked")
}

async fn ask(tap: Tap, calls: &[Call], at_once: usize, table: u32) {
    let mut builder = h2::client::Builder::new();
    builder.header_table_size(table).max_header_list_size(1 << 20);
    let (mut sender, connection) = builder.handshake::<_, bytes::Bytes>(tap).await.expect("hello");
    let connection = tokio::spawn(connection);
    for calls in calls.chunks(at_once) {
        let mut answers = Vec::new();
        for call in calls {
            sender = sender.ready().await.expect("room for a stream");
            let uri = format!("http://{}{}", call.authority, target(call));
            let mut request = Request::builder().method(call.method.as_str()).uri(uri);
            for (name, value) in &call.headers {
                request = request.header(name.as_str(), value.as_str());
            }
            if call.grpc_status.is_some() {
                request = request.header("content-type", "application/grpc+proto");
            }
            let request = request.body(()).expect("a request");
            let (answer, body) = sender.send_request(request, call.sent == 0).expect("sent");
            if call.sent > 0 {
                send(body, call.sent, None);
            }
            answers.push(answer);
        }
        // All are read at the same time: they share a window.
        let read = |answer: h2::client::ResponseFuture| async {
            receive(answer.await.expect("an answer").into_body()).await;
        };
        let readers: Vec<_> =
            answers.into_iter().map(|answer| tokio::spawn(read(answer))).collect();
        for reader in readers {
            reader.await.expect("it is read");
        }
    }
    drop(sender);
    connection.await.expect("no panic").expect("ended well");
}

fn target(call: &Call) -> String {
    match &call.query {
        Some(query) => format!("{}?{query}", call.path),
        None => call.path.clone(),
    }
}

async fn serve(tap: Tap, calls: Vec<Call>, table: u32) {
    let mut builder = h2::server::Builder::new();
    builder.header_table_size(table).max_header_list_size(1 << 20);
    let mut connection = builder.handshake::<_, bytes::Bytes>(tap).await.expect("hello");
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted.expect("a request");
        let nth = u32::from(respond.stream_id()) / 2;
        let call = calls[nth as usize].clone();
        tokio::spawn(async move {
            receive(request.into_body()).await;
            let mut response = Response::builder().status(call.status);
            for (name, value) in &call.headers {
                response = response.header(name.as_str(), value.as_str());
            }
            let response = response.body(()).expect("a response");
            let ends = call.answered == 0 && call.grpc_status.is_none();
            let body = respond.send_response(response, ends).expect("sent");
            if !ends {
                send(body, call.answered, call.grpc_status);
            }
        });
    }
}

fn send(mut stream: SendStream<bytes::Bytes>, len: usize, grpc_status: Option<u32>) {
    let body = bytes::Bytes::from(vec![b'x'; len]);
    stream.send_data(body, grpc_status.is_none()).expect("sent");
    if let Some(status) = grpc_status {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.into());
        stream.send_trailers(trailers).expect("sent");
    }
}

async fn receive(mut body: RecvStream) {
    while let Some(data) = body.data().await {
        let data = data.expect("data");
        body.flow_control().release_capacity(data.len()).expect("it was ours");
    }
    body.trailers().await.expect("trailers or none");
}
