//! HTTP/1: the heads of requests and responses, and where their bodies end.
//!
//! In: the first bytes of a message, often cut by the capture. Out: what they say, and whether
//! the path was cut. It does not pair requests with responses, and it validates no more than it
//! takes to know that this is HTTP.
//!
//! Read by hand rather than by `httparse`: that crate gives no target while the request line is
//! cut, which is the usual case of a long path, and fills an array of all headers where six are
//! wanted. The tests hold both against each other.

mod body;
mod head;

use std::fmt;

pub use body::{BodyLength, ChunkedScanner, Progress};
pub use head::{
    Fields, HeadError, Headers, RequestHead, ResponseHead, Target, has_token, parse_request_head,
    parse_response_head,
};

/// The methods by which a request is recognised. Others (those of `WebDAV`) are taken as not HTTP: their
/// names are too many to tell them from the first word of some other protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are the names that HTTP gives them")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Patch,
    Trace,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Get,
        Self::Head,
        Self::Post,
        Self::Put,
        Self::Delete,
        Self::Connect,
        Self::Options,
        Self::Patch,
        Self::Trace,
    ];

    /// As it is written in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Trace => "TRACE",
        }
    }

    /// The method of exactly this name.
    pub fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str().as_bytes() == name)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `HTTP/<major>.<minor>`, one digit each. Displayed without the `HTTP/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version {
    /// The first digit.
    pub major: u8,
    /// The second digit.
    pub minor: u8,
}

impl Version {
    /// 1.0
    pub const HTTP_10: Self = Self { major: 1, minor: 0 };
    /// 1.1
    pub const HTTP_11: Self = Self { major: 1, minor: 1 };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
