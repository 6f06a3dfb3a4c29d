//! Heads: a first line and header lines. In: the first captured bytes of a message. Out: views
//! into them. Headers are read as far as their lines were captured to the end.

use super::{Method, Version};

/// Why there is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// These bytes are not the beginning of such a message, whatever follows.
    NotHttp,
    /// They may be, but end before enough is known.
    NeedMore,
}

/// What a request is aimed at, by the form in which it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `/path?query`
    Origin,
    /// `http://host/path?query`, to a proxy.
    Absolute,
    /// `host:port`, of CONNECT. There is no path.
    Authority,
    /// `*`, of OPTIONS. The path is `*`.
    Asterisk,
}

/// The beginning of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// What it asks for.
    pub method: Method,
    /// How its target is written.
    pub target: Target,
    /// The path without query, as it was sent: not decoded, and not always UTF-8.
    pub path: &'a [u8],
    /// The path goes on behind the captured bytes.
    pub truncated: bool,
    /// Its version, if captured.
    pub version: Option<Version>,
    /// The headers that say how the message goes on, if captured.
    pub fields: Fields<'a>,
    /// All headers that were captured to their end.
    pub headers: Headers<'a>,
    /// How many bytes the head has, if all of it was captured.
    pub len: Option<usize>,
}

/// The beginning of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead<'a> {
    /// Its version.
    pub version: Version,
    /// Its status, 0 to 999.
    pub status: u16,
    /// The headers that say how the message goes on, if captured.
    pub fields: Fields<'a>,
    /// All headers that were captured to their end.
    pub headers: Headers<'a>,
    /// How many bytes the head has, if all of it was captured.
    pub len: Option<usize>,
}

impl RequestHead<'_> {
    /// Asks to go on in HTTP/2 on the same connection.
    pub fn wants_h2c(&self) -> bool {
        self.fields.upgrade.is_some_and(|list| has_token(list, b"h2c"))
    }
}

impl ResponseHead<'_> {
    /// Another response to the same request follows: 1xx, but for 101, which is the last word in
    /// this protocol.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// What follows is HTTP/2.
    pub fn starts_h2c(&self) -> bool {
        self.status == 101 && self.fields.upgrade.is_some_and(|list| has_token(list, b"h2c"))
    }
}

/// The headers that say how a message goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a header of its own")]
pub struct Fields<'a> {
    /// Length of the body. `None` too if it is not a number or is given twice with two values;
    /// then `bad_length` is set.
    pub content_length: Option<u64>,
    /// Nobody can tell where the body ends.
    pub bad_length: bool,
    /// There is a transfer coding.
    pub transfer_coded: bool,
    /// The last transfer coding is `chunked`.
    pub chunked: bool,
    /// Protocols to go on with.
    pub upgrade: Option<&'a [u8]>,
    /// `Expect: 100-continue`.
    pub expects_continue: bool,
    /// `Connection: close`.
    pub close: bool,
    /// `Connection: keep-alive`.
    pub keep_alive: bool,
}

/// Whether a comma-separated header value contains this word, in any case.
pub fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

impl<'a> Fields<'a> {
    fn of(headers: &Headers<'a>) -> Self {
        let mut fields = Self::default();
        for (name, value) in headers.clone() {
            fields.add(name, value);
        }
        fields
    }

    fn add(&mut self, name: &[u8], value: &'a [u8]) {
        // The length alone rules out nearly all names.
        match name.len() {
            6 if name.eq_ignore_ascii_case(b"expect") => {
                self.expects_continue |= value.eq_ignore_ascii_case(b"100-continue");
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.upgrade.get_or_insert(value);
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                self.close |= has_token(value, b"close");
                self.keep_alive |= has_token(value, b"keep-alive");
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => self.add_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.transfer_coded = true;
                let last = value.rsplit(|byte| *byte == b',').next().unwrap_or(value);
                self.chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
            }
            _ => {}
        }
    }

    fn add_length(&mut self, value: &[u8]) {
        // A list of equal numbers is what joined headers look like.
        for item in value.split(|byte| *byte == b',') {
            let length = number(item.trim_ascii());
            if length.is_none() || self.content_length.is_some_and(|known| Some(known) != length) {
                self.bad_length = true;
            }
            self.content_length = length;
        }
        if self.bad_length {
            self.content_length = None;
        }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// Header lines: an iterator over (name, value without the blanks around it). Ends where the head
/// or what was captured of it ends. Lines that are no header and continuations of folded lines
/// are passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    rest: &'a [u8],
}

impl<'a> Headers<'a> {
    /// The value of the first header of this name.
    pub fn value(&self, wanted: &[u8]) -> Option<&'a [u8]> {
        self.clone().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (line, rest) = split_line(self.rest)?;
            if line.is_empty() {
                self.rest = line;
                return None;
            }
            self.rest = rest;
            let Some(colon) = memchr::memchr(b':', line) else { continue };
            let name = &line[..colon];
            if !name.is_empty() && name.iter().all(u8::is_ascii_graphic) {
                return Some((name, line[colon + 1..].trim_ascii()));
            }
        }
    }
}

/// The first line without its end, and what follows; `None` if its end was not captured.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\n', bytes)?;
    let line = &bytes[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), &bytes[end + 1..]))
}

/// Where the empty line ends that closes a head whose header lines start here.
fn end_of_head(lines: &[u8]) -> Option<usize> {
    let mut rest = lines;
    loop {
        let (line, after) = split_line(rest)?;
        rest = after;
        if line.is_empty() {
            return Some(lines.len() - rest.len());
        }
    }
}

/// Reads the beginning of a request.
pub fn parse_request_head(bytes: &[u8]) -> Result<RequestHead<'_>, HeadError> {
    let (method, rest) = method(bytes)?;
    let end = rest.iter().position(|byte| *byte <= b' ' || *byte == 0x7f);
    let written = &rest[..end.unwrap_or(rest.len())];
    if end.is_some_and(|end| rest[end] != b' ' || end == 0) {
        return Err(HeadError::NotHttp);
    }
    let (target, path, path_ended) = target(method, written, end.is_some())?;
    let after = end.map_or(&[][..], |end| &rest[end + 1..]);
    let (version, lines) = match version(after) {
        Ok((version, rest)) => match line_end(rest) {
            Ok(lines) => (Some(version), Some(lines)),
            // The second digit may have been followed by a third.
            Err(HeadError::NeedMore) => (None, None),
            Err(error) => return Err(error),
        },
        Err(HeadError::NeedMore) => (None, None),
        Err(error) => return Err(error),
    };
    let headers = Headers { rest: lines.unwrap_or_default() };
    Ok(RequestHead {
        method,
        target,
        path,
        truncated: !path_ended,
        version,
        fields: Fields::of(&headers),
        headers,
        len: lines.and_then(|lines| Some(bytes.len() - lines.len() + end_of_head(lines)?)),
    })
}

/// Reads the beginning of a response.
pub fn parse_response_head(bytes: &[u8]) -> Result<ResponseHead<'_>, HeadError> {
    let (version, rest) = version(bytes)?;
    let (b' ', rest) = first(rest)? else { return Err(HeadError::NotHttp) };
    let mut status = 0;
    let mut rest = rest;
    for _ in 0..3 {
        let (digit, after) = first(rest)?;
        if !digit.is_ascii_digit() {
            return Err(HeadError::NotHttp);
        }
        status = status * 10 + u16::from(digit - b'0');
        rest = after;
    }
    if !matches!(first(rest)?.0, b' ' | b'\r' | b'\n') {
        return Err(HeadError::NotHttp);
    }
    let lines = split_line(rest).map(|(_, lines)| lines);
    let headers = Headers { rest: lines.unwrap_or_default() };
    Ok(ResponseHead {
        version,
        status,
        fields: Fields::of(&headers),
        headers,
        len: lines.and_then(|lines| Some(bytes.len() - lines.len() + end_of_head(lines)?)),
    })
}

fn first(bytes: &[u8]) -> Result<(u8, &[u8]), HeadError> {
    bytes.split_first().map(|(first, rest)| (*first, rest)).ok_or(HeadError::NeedMore)
}

/// What follows the word; it may be cut.
fn after<'a>(bytes: &'a [u8], word: &[u8]) -> Result<&'a [u8], HeadError> {
    match bytes.strip_prefix(word) {
        Some(rest) => Ok(rest),
        None if word.starts_with(bytes) => Err(HeadError::NeedMore),
        None => Err(HeadError::NotHttp),
    }
}

fn method(bytes: &[u8]) -> Result<(Method, &[u8]), HeadError> {
    let mut result = Err(HeadError::NotHttp);
    for method in Method::ALL {
        match after(bytes, method.as_str().as_bytes()).and_then(|rest| after(rest, b" ")) {
            Ok(rest) => return Ok((method, rest)),
            Err(HeadError::NeedMore) => result = Err(HeadError::NeedMore),
            Err(HeadError::NotHttp) => {}
        }
    }
    result
}

fn version(bytes: &[u8]) -> Result<(Version, &[u8]), HeadError> {
    let (major, rest) = first(after(bytes, b"HTTP/")?)?;
    if !major.is_ascii_digit() {
        return Err(HeadError::NotHttp);
    }
    let (minor, rest) = first(after(rest, b".")?)?;
    if !minor.is_ascii_digit() {
        return Err(HeadError::NotHttp);
    }
    Ok((Version { major: major - b'0', minor: minor - b'0' }, rest))
}

fn line_end(bytes: &[u8]) -> Result<&[u8], HeadError> {
    match first(bytes)? {
        (b'\n', rest) => Ok(rest),
        _ => after(bytes, b"\r\n"),
    }
}

/// The target's form, its path, and whether the path's end was captured.
fn target(method: Method, written: &[u8], ended: bool) -> Result<(Target, &[u8], bool), HeadError> {
    if method == Method::Connect {
        return match (written.contains(&b':'), ended) {
            (true, true) => Ok((Target::Authority, b"", true)),
            (_, false) => Err(HeadError::NeedMore),
            (false, true) => Err(HeadError::NotHttp),
        };
    }
    if written.starts_with(b"/") {
        let (path, path_ended) = cut_query(written, ended);
        return Ok((Target::Origin, path, path_ended));
    }
    if method == Method::Options && written.starts_with(b"*") {
        return match (written.len(), ended) {
            (1, true) => Ok((Target::Asterisk, written, true)),
            (1, false) => Err(HeadError::NeedMore),
            _ => Err(HeadError::NotHttp),
        };
    }
    let rest = after_scheme(written, ended)?;
    let Some(start) = rest.iter().position(|byte| matches!(byte, b'/' | b'?')) else {
        let no_path = if ended { Ok((Target::Absolute, &b"/"[..], true)) } else { Err(()) };
        return no_path.map_err(|()| HeadError::NeedMore);
    };
    if rest[start] == b'?' {
        return Ok((Target::Absolute, b"/", true));
    }
    let (path, path_ended) = cut_query(&rest[start..], ended);
    Ok((Target::Absolute, path, path_ended))
}

fn after_scheme(written: &[u8], ended: bool) -> Result<&[u8], HeadError> {
    let mut cut = false;
    for scheme in [&b"http://"[..], b"https://"] {
        let len = scheme.len().min(written.len());
        if written[..len].eq_ignore_ascii_case(&scheme[..len]) {
            if len == scheme.len() {
                return Ok(&written[len..]);
            }
            cut = !ended;
        }
    }
    Err(if cut { HeadError::NeedMore } else { HeadError::NotHttp })
}

fn cut_query(target: &[u8], ended: bool) -> (&[u8], bool) {
    match target.iter().position(|byte| *byte == b'?') {
        Some(query) => (&target[..query], true),
        None => (target, ended),
    }
}
