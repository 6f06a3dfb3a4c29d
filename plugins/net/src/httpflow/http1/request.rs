//! The side of an HTTP/1 connection that asks. In: its new bytes, and holes. Out: requests that are open, and how much of them was
//! sent.

use plugin_proto::http1::{
    BodyLength, ChunkedScanner, HeadError, Progress, RequestHead, parse_request_head,
};

use super::{HeadRest, Http1, MAX_HEAD, MAX_OPEN, Message, State};

impl Http1 {
    /// Takes some bytes; how many.
    pub(super) fn request_bytes(
        &mut self,
        bytes: &[u8],
        time: u64,
        tell: &mut impl FnMut(Message),
    ) -> usize {
        match &mut self.request.state {
            State::Head => self.request_head(bytes, time, tell),
            State::Body(left) => {
                let used = (*left).min(bytes.len() as u64);
                *left -= used;
                let ended = *left == 0;
                self.sent(used, ended);
                used as usize
            }
            State::Chunked(scanner) => match scanner.feed(bytes) {
                Progress::More(_) => {
                    self.sent(bytes.len() as u64, false);
                    bytes.len()
                }
                Progress::Done(used) => {
                    self.sent(used as u64, true);
                    used
                }
                Progress::Lost => {
                    self.lose(tell);
                    bytes.len()
                }
            },
            State::Rest(rest) => {
                let end = rest.end(bytes);
                self.sent(end.unwrap_or(bytes.len()) as u64, end.is_some());
                end.unwrap_or(bytes.len())
            }
            State::UntilClose | State::Lost => bytes.len(),
        }
    }

    fn request_head(&mut self, bytes: &[u8], time: u64, tell: &mut impl FnMut(Message)) -> usize {
        // A line break between two requests is not worth a word.
        if self.request.head.is_empty() && matches!(bytes[0], b'\r' | b'\n') {
            return 1;
        }
        let before = self.request.gather(bytes, time);
        // Only a line's end brings news, unless this is no request at all.
        if before > 0 && !bytes.contains(&b'\n') && self.request.head.len() < MAX_HEAD {
            return bytes.len();
        }
        let head = std::mem::take(&mut self.request.head);
        let parsed = parse_request_head(&head);
        let (request, len) = match &parsed {
            Ok(request) => match request.len {
                Some(len) => (request, len),
                None if head.len() < MAX_HEAD => {
                    self.request.head = head;
                    return bytes.len();
                }
                None => {
                    self.lose(tell);
                    return bytes.len();
                }
            },
            Err(HeadError::NeedMore) if head.len() < MAX_HEAD => {
                self.request.head = head;
                return bytes.len();
            }
            Err(_) => {
                self.not_understood += 1;
                self.lose(tell);
                return bytes.len();
            }
        };
        if !self.open(request, len as u64) {
            self.lose(tell);
            return bytes.len();
        }
        self.upgrade.clear();
        if request.wants_h2c() {
            self.upgrade.extend_from_slice(&head[..len]);
        }
        match BodyLength::of_request(request) {
            BodyLength::None => self.sent(0, true),
            BodyLength::Length(length) => self.request.state = State::Body(length),
            BodyLength::Chunked => self.request.state = State::Chunked(ChunkedScanner::new()),
            BodyLength::UntilClose | BodyLength::Tunnel | BodyLength::Unknown => {
                self.request.state = State::Lost;
            }
        }
        len - before
    }

    pub(super) fn request_missing(&mut self, count: u64, tell: &mut impl FnMut(Message)) {
        if count == 0 {
            return;
        }
        match &mut self.request.state {
            State::Body(left) if count <= *left => {
                *left -= count;
                let ended = *left == 0;
                self.sent(count, ended);
            }
            State::Chunked(scanner) => match scanner.skip(count) {
                Progress::Lost => self.lose(tell),
                _ => self.sent(count, false),
            },
            State::UntilClose | State::Lost => {}
            _ if self.cut_head.is_some() => self.request_is_cut(count, tell),
            _ => self.lose(tell),
        }
    }

    /// `missing` bytes of the first request are not known, but where its head ends. It is taken for
    /// one without a body.
    fn request_is_cut(&mut self, missing: u64, tell: &mut impl FnMut(Message)) {
        let head = std::mem::take(&mut self.request.head);
        let rest = self.cut_head.take().unwrap_or(HeadRest::Nothing);
        let is_open = parse_request_head(&head)
            .is_ok_and(|request| self.open(&request, head.len() as u64 + missing));
        if !is_open {
            self.not_understood += 1;
            self.lose(tell);
            return;
        }
        match rest {
            HeadRest::Nothing => self.sent(0, true),
            rest => self.request.state = State::Rest(rest),
        }
    }

    /// False if there are too many already.
    fn open(&mut self, request: &RequestHead<'_>, bytes: u64) -> bool {
        if self.open.len() >= MAX_OPEN {
            return false;
        }
        self.has_pipelined |= self.open.iter().any(|message| !message.is_answered);
        let has_path = !request.path.is_empty() && request.path != b"*";
        self.open.push_back(Message {
            method: request.method,
            path: has_path.then(|| String::from_utf8_lossy(request.path).into()),
            truncated: request.truncated,
            asked_at: self.request.begun,
            request_bytes: bytes,
            answer: None,
            response_bytes: 0,
            is_sent: false,
            is_answered: false,
        });
        true
    }

    /// So many bytes of the latest request were sent.
    fn sent(&mut self, bytes: u64, ended: bool) {
        if let Some(latest) = self.open.back_mut() {
            latest.request_bytes += bytes;
            latest.is_sent |= ended;
        }
        if ended {
            self.request.state = State::Head;
        }
    }
}

pub(super) fn begins_request(bytes: &[u8]) -> bool {
    !bytes.is_empty() && !matches!(parse_request_head(bytes), Err(HeadError::NotHttp))
}
