//! The side of an HTTP/1 connection that answers. In: its new bytes, and holes. Out: what requests were answered with, and whether
//! the connection goes on as something else.

use plugin_proto::http1::{
    BodyLength, ChunkedScanner, HeadError, Progress, parse_request_head, parse_response_head,
};
use plugin_proto::http2;

use super::{Answer, Http1, MAX_HEAD, Message, Next, State};

impl Http1 {
    pub(super) fn response_bytes(
        &mut self,
        bytes: &[u8],
        time: u64,
        tell: &mut impl FnMut(Message),
    ) -> (usize, Next) {
        let used = match &mut self.response.state {
            State::Head => return self.response_head(bytes, time, tell),
            State::Body(left) => {
                let used = (*left).min(bytes.len() as u64);
                *left -= used;
                let ended = *left == 0;
                self.answered(used, ended);
                used as usize
            }
            State::Chunked(scanner) => match scanner.feed(bytes) {
                Progress::More(_) => {
                    self.answered(bytes.len() as u64, false);
                    bytes.len()
                }
                Progress::Done(used) => {
                    self.answered(used as u64, true);
                    used
                }
                Progress::Lost => {
                    self.lose(tell);
                    bytes.len()
                }
            },
            State::UntilClose => {
                self.answered(bytes.len() as u64, false);
                bytes.len()
            }
            // Only requests have a rest.
            State::Rest(_) | State::Lost => bytes.len(),
        };
        (used, Next::Http1)
    }

    fn response_head(
        &mut self,
        bytes: &[u8],
        time: u64,
        tell: &mut impl FnMut(Message),
    ) -> (usize, Next) {
        let before = self.response.gather(bytes, time);
        let head = std::mem::take(&mut self.response.head);
        let parsed = parse_response_head(&head);
        let response = match &parsed {
            Ok(response) if response.len.is_some() => response,
            Ok(_) | Err(HeadError::NeedMore) if head.len() < MAX_HEAD => {
                self.response.head = head;
                return (bytes.len(), Next::Http1);
            }
            _ => {
                self.not_understood += 1;
                self.lose(tell);
                return (bytes.len(), Next::Http1);
            }
        };
        let len = response.len.unwrap_or_default();
        let begun = self.response.begun;
        let used = len - before;
        let Some(message) = self.open.iter_mut().find(|message| !message.is_answered) else {
            self.not_understood += 1;
            self.response.state = State::Lost;
            return (bytes.len(), Next::Http1);
        };
        message.response_bytes += len as u64;
        if response.is_interim() {
            return (used, Next::Http1);
        }
        message.answer =
            Some(Answer { version: response.version, status: response.status, at: begun });
        match BodyLength::of_response(Some(message.method), response) {
            BodyLength::None => self.answered(0, true),
            BodyLength::Length(length) => self.response.state = State::Body(length),
            BodyLength::Chunked => self.response.state = State::Chunked(ChunkedScanner::new()),
            BodyLength::UntilClose => self.response.state = State::UntilClose,
            BodyLength::Unknown => {
                self.answered(0, true);
                self.response.state = State::Lost;
            }
            BodyLength::Tunnel if response.starts_h2c() => {
                if let Some(connection) = self.upgraded() {
                    return (used, Next::Http2(connection, 0));
                }
                return (used, Next::Tunnel);
            }
            BodyLength::Tunnel => {
                self.close(tell);
                return (used, Next::Tunnel);
            }
        }
        self.tell_ended(tell);
        (used, Next::Http1)
    }

    /// The connection in HTTP/2 that answers the latest request.
    fn upgraded(&mut self) -> Option<Box<http2::Connection>> {
        let request = parse_request_head(&self.upgrade).ok()?;
        let message = self.open.pop_back()?;
        let mut connection = Box::new(http2::Connection::new(http2::Limits::default()));
        let asked = http2::Message {
            first: Some(message.asked_at),
            last: message.asked_at,
            wire: message.request_bytes,
            ..http2::Message::default()
        };
        connection.upgrade(&request, asked);
        Some(connection)
    }

    pub(super) fn response_missing(&mut self, count: u64, tell: &mut impl FnMut(Message)) {
        if count == 0 {
            return;
        }
        match &mut self.response.state {
            State::Body(left) if count <= *left => {
                *left -= count;
                let ended = *left == 0;
                self.answered(count, ended);
            }
            State::Chunked(scanner) => match scanner.skip(count) {
                Progress::Lost => self.lose(tell),
                _ => self.answered(count, false),
            },
            State::UntilClose => self.answered(count, false),
            State::Lost => {}
            _ => self.lose(tell),
        }
    }

    /// So many bytes of the response to the first request that waits were sent.
    fn answered(&mut self, bytes: u64, ended: bool) {
        if let Some(message) = self.open.iter_mut().find(|message| !message.is_answered) {
            message.response_bytes += bytes;
            message.is_answered |= ended;
        }
        if ended {
            self.response.state = State::Head;
        }
    }
}

pub(super) fn begins_response(bytes: &[u8]) -> bool {
    !bytes.is_empty() && !matches!(parse_response_head(bytes), Err(HeadError::NotHttp))
}
