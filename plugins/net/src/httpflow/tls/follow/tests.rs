use super::super::decode::{Record, Session, Socket, Way, What};
use super::{Losses, Sessions};
use crate::decode::{Direction, Endpoint, Owner};
use plugin_proto::http2::PREFACE;
use plugin_proto::piece::Piece;

const GET: &[u8] = b"GET /a?x HTTP/1.1\r\nHost: h\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";

struct Talk {
    sessions: Sessions,
    born_ns: u64,
    moved: [u64; 2],
    time: u64,
    socket: Option<Socket>,
    told: Vec<(String, u16, Direction, u64)>,
}

impl Talk {
    fn new(socket: Option<Socket>) -> Self {
        let sessions = Sessions::default();
        Self { sessions, born_ns: 1, moved: [0; 2], time: 10, socket, told: Vec::new() }
    }

    fn observe(&mut self, what: What<'_>) {
        let record = Record {
            session: Session { pid: 7, address: 0x1000 },
            born_ns: self.born_ns,
            time_ns: self.time,
            owner: Owner { pid: 7, comm: [0; 16] },
            socket: self.socket,
            what,
        };
        let told = &mut self.told;
        self.sessions.observe(&record, &mut |exchange| {
            let path = exchange.path.clone().into_owned();
            told.push((path, exchange.status, exchange.ends.direction, exchange.latency_sum_ns));
        });
    }

    fn say(&mut self, way: Way, bytes: &[u8]) {
        self.time += 5;
        let position = self.moved[way as usize];
        self.moved[way as usize] += bytes.len() as u64;
        self.observe(What::Moved(way, Piece::whole(position, bytes, self.time)));
    }
}

fn socket() -> Socket {
    let end = |port| Endpoint { ip: [10, 0, 0, 1].into(), port: Some(port) };
    Socket { local: end(40_000), remote: end(443), netns: 1, asks: None }
}

fn get(direction: Direction) -> (String, u16, Direction, u64) {
    ("/a".to_owned(), 200, direction, 5)
}

#[test]
fn who_hands_a_request_over_is_the_client() {
    let mut talk = Talk::new(Some(socket()));
    talk.say(Way::Out, GET);
    talk.say(Way::In, OK);
    assert_eq!(talk.told, [get(Direction::Outgoing)]);
    let mut talk = Talk::new(Some(socket()));
    talk.say(Way::In, GET);
    talk.say(Way::Out, OK);
    assert_eq!(talk.told, [get(Direction::Incoming)]);
}

#[test]
fn an_exchange_waits_until_the_socket_is_known() {
    let mut talk = Talk::new(None);
    talk.say(Way::In, GET);
    talk.say(Way::Out, OK);
    assert!(talk.told.is_empty());
    talk.socket = Some(socket());
    talk.observe(What::Ended);
    assert_eq!(talk.told, [get(Direction::Incoming)]);
    assert_eq!(talk.sessions.take_losses(), Losses::default());
}

#[test]
fn an_exchange_without_a_socket_is_counted() {
    let mut talk = Talk::new(None);
    talk.say(Way::In, GET);
    talk.say(Way::Out, OK);
    talk.observe(What::Ended);
    assert!(talk.told.is_empty());
    assert_eq!(talk.sessions.take_losses().without_socket, 1);
}

#[test]
fn a_new_session_at_an_old_address_has_nothing_of_the_old_one() {
    let mut talk = Talk::new(Some(socket()));
    talk.say(Way::Out, GET);
    talk.born_ns = 2;
    talk.moved = [0; 2];
    talk.say(Way::In, OK);
    assert!(talk.told.is_empty());
    talk.say(Way::Out, GET);
    talk.say(Way::In, OK);
    assert_eq!(talk.told, [get(Direction::Outgoing)]);
}

#[test]
fn a_server_that_speaks_first_is_understood_once_the_client_has_spoken() {
    // SETTINGS; then HEADERS of stream 1: GET, https, "/", ":status 200".
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const ASK: &[u8] = &[0, 0, 3, 1, 5, 0, 0, 0, 1, 0x82, 0x87, 0x84];
    const ANSWER: &[u8] = &[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88];
    let mut talk = Talk::new(Some(socket()));
    talk.say(Way::Out, SETTINGS);
    talk.say(Way::In, &[PREFACE, SETTINGS, ASK].concat());
    talk.say(Way::Out, ANSWER);
    assert_eq!(talk.told, [("/".to_owned(), 200, Direction::Incoming, 5)]);
}

#[test]
fn what_follows_a_request_that_went_missing_is_counted() {
    // The first request, which puts its path into the table, is missing; the second one names its place there.
    const AGAIN: &[u8] = &[0, 0, 3, 1, 5, 0, 0, 0, 3, 0x82, 0x87, 0xbe];
    const ANSWER: &[u8] = &[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88];
    const SECOND: &[u8] = &[0, 0, 1, 1, 5, 0, 0, 0, 3, 0x88];
    let mut talk = Talk::new(Some(socket()));
    talk.say(Way::Out, PREFACE);
    talk.say(Way::In, ANSWER);
    talk.say(Way::Out, AGAIN);
    talk.say(Way::In, SECOND);
    assert!(talk.told.is_empty());
    assert_eq!(talk.sessions.take_losses().not_understood, 2);
}

#[test]
fn a_process_that_is_gone_has_no_sessions() {
    let mut talk = Talk::new(Some(socket()));
    talk.say(Way::Out, GET);
    talk.say(Way::In, b"HTTP/1.0 200 OK\r\n\r\nuntil the end");
    let mut told = 0;
    talk.sessions.retain(|session, _| session.pid != 7, &mut |_| told += 1);
    assert_eq!(told, 1);
}
