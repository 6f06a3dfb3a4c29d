//! A server shaped like `DataKit`'s API. In: the collector's requests. Out: what they held, decoded, in order of arrival.
//! A test can have it answer 200, answer anything else, never answer, or not listen at all. It checks nothing but that bodies
//! decode; what they say is the tests' affair.

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request as HttpRequest, State};
use axum::http::StatusCode;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use tokio::runtime::Runtime;

use crate::flows::Flows;
use crate::ports;
use crate::wait;
use crate::wire::{self, Point};

/// What the receiver does with a request after it has recorded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Answers 200: the points are taken.
    Take,
    /// Answers this status: the points are not taken.
    Refuse(u16),
    /// Accepts the request and never answers.
    Hang,
}

/// One recorded upload.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path, `/v1/write/network`.
    pub path: String,
    /// The query as it was on the wire, `input=ebpf-net%2Fnetflow`.
    pub query: String,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The length of the body as it was on the wire.
    pub len: usize,
    /// The length of the body that its sender encoded.
    pub plain_len: usize,
    /// The points in the body.
    pub points: Vec<Point>,
    /// What it was answered.
    pub answer: Answer,
}

impl Request {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

type Matches = Box<dyn Fn(&[Point]) -> bool + Send>;

/// Requests on which the receiver fails, whenever they come.
struct Poison {
    status: u16,
    matches: Matches,
    /// Whether the first one that matches is the only one.
    only_one: bool,
    first: Option<Bytes>,
}

type Watch = Box<dyn FnMut(&[Point]) + Send>;

struct Record {
    answer: Answer,
    watch: Option<Watch>,
    to_last_errors: Option<Answer>,
    poison: Option<Poison>,
    refuses_gzip: bool,
    requests: Vec<Request>,
    last_errors: Vec<serde_json::Value>,
    faults: Vec<String>,
}

type Shared = Arc<Mutex<Record>>;

/// The server; gone when dropped.
pub struct Receiver {
    address: SocketAddr,
    record: Shared,
    serving: Mutex<Option<Runtime>>,
}

impl Receiver {
    /// A receiver that listens on its own port of 127.0.0.1 and takes everything.
    pub fn start() -> Self {
        let receiver = Self::closed();
        receiver.open();
        receiver
    }

    /// The same, which shows the points of each upload to `watch` and keeps nothing: for very many of them.
    pub fn watched(watch: impl FnMut(&[Point]) + Send + 'static) -> Self {
        let receiver = Self::closed();
        receiver.record().watch = Some(Box::new(watch));
        receiver.open();
        receiver
    }

    /// A receiver that has a port and does not listen yet.
    pub fn closed() -> Self {
        let record = Record {
            answer: Answer::Take,
            watch: None,
            to_last_errors: None,
            poison: None,
            refuses_gzip: false,
            requests: Vec::new(),
            last_errors: Vec::new(),
            faults: Vec::new(),
        };
        Self {
            address: ports::free_address(),
            record: Arc::new(Mutex::new(record)),
            serving: Mutex::new(None),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does from the next request on.
    pub fn answer(&self, answer: Answer) {
        self.record().answer = answer;
    }

    /// Changes what it does with `/v1/lasterror`, which it treats like uploads otherwise.
    pub fn answer_last_errors(&self, answer: Answer) {
        self.record().to_last_errors = Some(answer);
    }

    /// From now on it answers this status to the first upload whose points match, as often as that one comes, and to no
    /// other.
    pub fn refuse_one(&self, status: u16, matches: impl Fn(&[Point]) -> bool + Send + 'static) {
        self.poison(status, true, Box::new(matches));
    }

    /// From now on it answers this status to every upload whose points match.
    pub fn refuse_every(&self, status: u16, matches: impl Fn(&[Point]) -> bool + Send + 'static) {
        self.poison(status, false, Box::new(matches));
    }

    fn poison(&self, status: u16, only_one: bool, matches: Matches) {
        self.record().poison = Some(Poison { status, matches, only_one, first: None });
    }

    /// From now on it answers 415 to compressed uploads.
    pub fn refuse_gzip(&self) {
        self.record().refuses_gzip = true;
    }

    /// Starts to listen.
    pub fn open(&self) {
        let listener = wait::until("the receiver listens on its own port", || {
            TcpListener::bind(self.address).map_err(|error| error.to_string())
        });
        listener.set_nonblocking(true).expect("a listener can be non-blocking");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("receiver")
            .enable_all()
            .build()
            .expect("a runtime starts");
        let router = Router::new()
            .fallback(serve)
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::clone(&self.record));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("it is a listener");
            axum::serve(listener, router).await
        });
        *lock(&self.serving) = Some(runtime);
    }

    /// Stops to listen and cuts every connection: the next connect is refused.
    pub fn close(&self) {
        drop(lock(&self.serving).take());
        // A process that was just forked shares the listener until it execs.
        wait::until("the receiver's port is closed", || match TcpStream::connect(self.address) {
            Ok(_) => Err("still open".to_owned()),
            Err(_) => Ok(()),
        });
    }

    /// Every upload so far, whatever it was answered.
    pub fn requests(&self) -> Vec<Request> {
        let record = self.record();
        assert!(
            record.faults.is_empty(),
            "the receiver got what it cannot read: {:#?}",
            record.faults
        );
        record.requests.clone()
    }

    /// How many uploads got this answer.
    pub fn answered(&self, answer: Answer) -> usize {
        self.record().requests.iter().filter(|request| request.answer == answer).count()
    }

    /// The points that were taken: those of requests that were answered 200.
    pub fn points(&self) -> Vec<Point> {
        let requests = self.requests().into_iter();
        requests.filter(|request| request.answer == Answer::Take).flat_map(|r| r.points).collect()
    }

    /// The taken points of one measurement.
    pub fn measurement(&self, name: &str) -> Flows {
        self.points().into_iter().filter(|point| point.name == name).collect()
    }

    /// The taken `netflow` points.
    pub fn netflow(&self) -> Flows {
        self.measurement("netflow")
    }

    /// The bodies posted to `/v1/lasterror`.
    pub fn last_errors(&self) -> Vec<serde_json::Value> {
        self.record().last_errors.clone()
    }

    /// Waits until a body with this text is posted to `/v1/lasterror`, which may be after the status has shown it.
    #[track_caller]
    pub fn wait_for_last_error(&self, text: &str) -> serde_json::Value {
        wait::until(&format!("a last error says `{text}`"), || {
            let errors = self.last_errors();
            let says = |error: &&serde_json::Value| {
                error["err_content"].as_str().is_some_and(|content| content.contains(text))
            };
            errors.iter().find(says).cloned().ok_or_else(|| format!("{errors:?}"))
        })
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }
}

/// A panic elsewhere leaves a record that can still be read.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(State(shared): State<Shared>, request: HttpRequest) -> StatusCode {
    let (head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
        return StatusCode::BAD_REQUEST; // The sender gave up half-way.
    };
    let answer = note(&mut lock(&shared), &head, &body);
    match answer {
        Answer::Take => StatusCode::OK,
        Answer::Refuse(status) => {
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        }
        Answer::Hang => std::future::pending().await,
    }
}

impl Poison {
    fn is(&mut self, body: &Bytes, points: &[Point]) -> bool {
        if !self.only_one {
            return (self.matches)(points);
        }
        if self.first.is_none() && (self.matches)(points) {
            self.first = Some(body.clone());
        }
        self.first.as_ref() == Some(body)
    }
}

/// The body without the compression that its header says it has.
fn plain(head: &axum::http::request::Parts, body: &Bytes) -> io::Result<Bytes> {
    match head.headers.get("content-encoding").map(axum::http::HeaderValue::as_bytes) {
        None => Ok(body.clone()),
        Some(b"gzip") => {
            let mut plain = Vec::new();
            MultiGzDecoder::new(&**body).read_to_end(&mut plain)?;
            Ok(plain.into())
        }
        Some(other) => Err(io::Error::other(format!("Content-Encoding {other:?} is unknown"))),
    }
}

fn note(record: &mut Record, head: &axum::http::request::Parts, body: &Bytes) -> Answer {
    let mut answer = record.answer;
    let path = head.uri.path().to_owned();
    if path == "/v1/lasterror" {
        match serde_json::from_slice(body) {
            Ok(error) => record.last_errors.push(error),
            Err(error) => record.faults.push(format!("{path}: {error}")),
        }
        return record.to_last_errors.unwrap_or(answer);
    }
    let plain = plain(head, body).unwrap_or_else(|error| {
        record.faults.push(format!("{}: {error}", head.uri));
        Bytes::new()
    });
    let points = wire::decode(&plain).unwrap_or_else(|error| {
        record.faults.push(format!("{}: {error:#}", head.uri));
        Vec::new()
    });
    if let Some(poison) = &mut record.poison
        && poison.is(body, &points)
    {
        answer = Answer::Refuse(poison.status);
    }
    if record.refuses_gzip && head.headers.contains_key("content-encoding") {
        answer = Answer::Refuse(415);
    }
    if let Some(watch) = &mut record.watch {
        if answer == Answer::Take {
            watch(&points);
        }
        return answer;
    }
    let headers = head.headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    record.requests.push(Request {
        method: head.method.to_string(),
        path,
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: headers.collect(),
        len: body.len(),
        plain_len: plain.len(),
        points,
        answer,
    });
    answer
}
