//! DNS between two namespaces: a dnsmasq of the test's own, and dig. In: a namespace. Out: a server of the zone `test`, what dig
//! was answered, and the sums of `dnsflow` points. Nothing outside of the namespace is asked.

use std::net::IpAddr;
use std::process::{Command, Stdio};

use crate::flows::{Flows, Side};
use crate::hosts::Netns;
use crate::process::Process;

/// A server, on port 53 if nothing is said; it ends when this is dropped.
pub struct Dnsmasq {
    _process: Process,
}

impl Dnsmasq {
    /// Serves the records that are given as dnsmasq's options, and no other name below `test`.
    #[track_caller]
    pub fn start<S: AsRef<str>>(netns: &Netns, records: impl IntoIterator<Item = S>) -> Self {
        Self::start_on(netns, 53, records)
    }

    /// The same with an option that names another port.
    #[track_caller]
    pub fn start_on<S: AsRef<str>>(
        netns: &Netns,
        port: u16,
        records: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut dnsmasq = Command::new("dnsmasq");
        dnsmasq.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file",
            "--user=root",
        ]);
        dnsmasq.args(["--no-resolv", "--no-hosts", "--local=/test/", "--edns-packet-max=4096"]);
        dnsmasq.args(records.into_iter().map(|record| record.as_ref().to_owned()));
        let process = netns.spawn(dnsmasq.stderr(Stdio::null()));
        netns.wait_for_port("udp", port);
        netns.wait_for_port("tcp", port);
        Self { _process: process }
    }
}

/// What dig was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dug {
    /// `NOERROR` and the like, per answer.
    pub statuses: Vec<String>,
    /// What dig says of how long each took.
    pub micros: Vec<i64>,
}

impl Dug {
    /// How many answers had this status.
    pub fn count(&self, status: &str) -> usize {
        self.statuses.iter().filter(|found| *found == status).count()
    }

    /// All of these in one.
    pub fn all(several: impl IntoIterator<Item = Self>) -> Self {
        several.into_iter().fold(Self::default(), |mut all, one| {
            all.statuses.extend(one.statuses);
            all.micros.extend(one.micros);
            all
        })
    }
}

/// Asks each of `queries`, each dig's arguments for one, one after another from one process. Options that come before all
/// names are for all.
#[track_caller]
pub fn dig<S: AsRef<str>>(from: &Netns, queries: impl IntoIterator<Item = S>) -> Dug {
    // Its exit code is 9 where a server did not answer.
    let mut dig = Command::new("sh");
    dig.args(["-c", "dig \"$@\" || [ $? = 9 ]", "dig", "-r", "-u"]);
    for query in queries {
        dig.args(query.as_ref().split(' '));
    }
    let (_, output) = from.run(&mut dig);
    let words = |line: &str, before: &str| {
        line.split_once(before).map(|(_, rest)| {
            rest.chars().take_while(char::is_ascii_alphanumeric).collect::<String>()
        })
    };
    let statuses = output.lines().filter_map(|line| words(line, "status: ")).collect();
    let micros = output.lines().filter_map(|line| words(line, "Query time: "));
    Dug { statuses, micros: micros.map(|text| text.parse().expect("a number")).collect() }
}

/// What dnsflow points of one code add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchanges {
    /// How many there were.
    pub count: i64,
    /// All latencies together, ns; a little less, for what is lost in the means.
    pub latency: i64,
    /// The longest one, ns.
    pub latency_max: i64,
}

impl Flows {
    /// The dnsflow points of exchanges of one of this host's addresses.
    #[must_use]
    pub fn dns_of(&self, ip: IpAddr, side: Side) -> Self {
        self.with("src_ip", ip).with("direction", side.direction())
    }

    /// The sums over dnsflow points of a code, after checking that each is a sound one.
    #[track_caller]
    pub fn exchanges(&self, rcode: i64) -> Exchanges {
        let mut sums = Exchanges::default();
        for point in self.points() {
            let names: Vec<&str> = point.fields.keys().map(String::as_str).collect();
            assert_eq!(names, ["count", "latency", "latency_max", "rcode"], "{point:?}");
            let field = |name: &str| point.int(name).unwrap_or_else(|| panic!("{name}: {point:?}"));
            if field("rcode") != rcode {
                continue;
            }
            let (count, mean, max) = (field("count"), field("latency"), field("latency_max"));
            assert!(count > 0 && mean <= max, "{point:?}");
            if rcode < 0 {
                assert_eq!((mean, max), (0, 0), "{point:?}");
            } else {
                assert!(mean > 0, "{point:?}");
            }
            sums.count += count;
            sums.latency += count * mean;
            sums.latency_max = sums.latency_max.max(max);
        }
        sums
    }

    /// How many exchanges each code has.
    pub fn rcodes(&self) -> std::collections::BTreeMap<i64, i64> {
        let codes = self.points().iter().filter_map(|point| point.int("rcode"));
        codes.map(|code| (code, self.exchanges(code).count)).collect()
    }
}
