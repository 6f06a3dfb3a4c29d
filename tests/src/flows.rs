//! Questions about points. In: points. Out: the ones asked for, and their sums: a connection is reported piece by piece, so
//! only sums over the points of one identity mean anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};

use crate::hosts::Netns;
use crate::wire::Point;

/// Which end of a flow its point describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The end that connected: `outgoing`.
    Client,
    /// The end that was connected to: `incoming`.
    Server,
}

impl Side {
    /// The value of the tag `direction`.
    pub fn direction(self) -> &'static str {
        match self {
            Self::Client => "outgoing",
            Self::Server => "incoming",
        }
    }
}

/// What the TCP points of an identity add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// `bytes_read`.
    pub read: i64,
    /// `bytes_written`.
    pub written: i64,
    /// `tcp_established`.
    pub established: i64,
    /// `tcp_closed`.
    pub closed: i64,
}

impl Tcp {
    /// An end of one connection that came and went.
    #[must_use]
    pub fn once(read: i64, written: i64) -> Self {
        Self { read, written, established: 1, closed: 1 }
    }
}

/// What the UDP points of an identity add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Udp {
    /// `bytes_read`.
    pub read: i64,
    /// `bytes_written`.
    pub written: i64,
}

/// Some points, to be narrowed down and added up.
#[derive(Clone, Default)]
pub struct Flows(Vec<Point>);

impl FromIterator<Point> for Flows {
    fn from_iter<I: IntoIterator<Item = Point>>(points: I) -> Self {
        Self(points.into_iter().collect())
    }
}

impl Flows {
    /// Those with this tag value.
    #[must_use]
    pub fn with(&self, tag: &str, value: impl Display) -> Self {
        let value = value.to_string();
        self.0.iter().filter(|point| point.tag(tag) == Some(&value)).cloned().collect()
    }

    /// Those of sockets in this namespace.
    #[must_use]
    pub fn of(&self, netns: &Netns) -> Self {
        self.with("netns", netns.inode())
    }

    /// Those of one side of a server port.
    #[must_use]
    pub fn on(&self, side: Side, server_port: u16) -> Self {
        self.with("direction", side.direction()).with("server_port", server_port)
    }

    /// The points themselves.
    pub fn points(&self) -> &[Point] {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values that a tag takes.
    pub fn values(&self, tag: &str) -> BTreeSet<&str> {
        self.0.iter().map(|point| point.tag(tag).unwrap_or("<no such tag>")).collect()
    }

    /// All tags of a point together, of all points.
    pub fn identities(&self) -> BTreeSet<&BTreeMap<String, String>> {
        self.0.iter().map(|point| &point.tags).collect()
    }

    /// The sum of an integer field that every point must have.
    #[track_caller]
    pub fn sum(&self, field: &str) -> i64 {
        let int = |point: &Point| {
            point.int(field).unwrap_or_else(|| panic!("no integer `{field}` in {point:?}"))
        };
        self.0.iter().map(int).sum()
    }

    /// The sums of TCP points, after checking that each is a sound TCP point.
    #[track_caller]
    pub fn tcp(&self) -> Tcp {
        const FIELDS: [&str; 9] = [
            "bytes_read",
            "bytes_written",
            "client_sent",
            "retransmits",
            "rtt",
            "rtt_var",
            "server_sent",
            "tcp_closed",
            "tcp_established",
        ];
        self.check("tcp", &FIELDS);
        Tcp {
            read: self.sum("bytes_read"),
            written: self.sum("bytes_written"),
            established: self.sum("tcp_established"),
            closed: self.sum("tcp_closed"),
        }
    }

    /// The sums of UDP points, after checking that each is a sound UDP point.
    #[track_caller]
    pub fn udp(&self) -> Udp {
        self.check("udp", &["bytes_read", "bytes_written", "client_sent", "server_sent"]);
        Udp { read: self.sum("bytes_read"), written: self.sum("bytes_written") }
    }

    #[track_caller]
    fn check(&self, transport: &str, fields: &[&str]) {
        for point in &self.0 {
            assert_eq!(point.tag("transport"), Some(transport), "{point:?}");
            let names: Vec<&str> = point.fields.keys().map(String::as_str).collect();
            assert_eq!(names, fields, "the fields of a {transport} point: {point:?}");
            for name in names {
                assert!(point.int(name).is_some_and(|value| value >= 0), "`{name}` in {point:?}");
            }
            let (client, server) = match point.tag("direction") {
                Some("outgoing") => ("bytes_written", "bytes_read"),
                Some("incoming") => ("bytes_read", "bytes_written"),
                other => panic!("direction {other:?} in {point:?}"),
            };
            assert_eq!(point.int("client_sent"), point.int(client), "client_sent: {point:?}");
            assert_eq!(point.int("server_sent"), point.int(server), "server_sent: {point:?}");
        }
    }
}

impl Display for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("(no points)");
        }
        for point in &self.0 {
            let tag = |name: &str| point.tag(name).unwrap_or("-");
            write!(f, "\n  {} {} {}", point.name, tag("transport"), tag("direction"))?;
            write!(f, " {}:{}", tag("src_ip"), tag("src_port"))?;
            write!(f, " -> {}:{}", tag("dst_ip"), tag("dst_port"))?;
            write!(f, " netns {} pid {} {}:", tag("netns"), tag("pid"), tag("process_name"))?;
            for name in ["bytes_read", "bytes_written", "tcp_established", "tcp_closed"] {
                write!(f, " {name} {}", point.int(name).map_or("-".to_owned(), |n| n.to_string()))?;
            }
        }
        Ok(())
    }
}
