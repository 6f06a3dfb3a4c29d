//! Profiles of the real collector. In: requests of `/debug/pprof/` while there is traffic. Out: profiles that say how much, and
//! in which functions of host and plugin, and sentences where there is nothing to tell. The types of the format are this
//! test's own.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use flate2::read::GzDecoder;
use prost::Message;
use system_tests::collector::Collector;
use system_tests::hosts::Hosts;
use system_tests::receiver::Receiver;
use system_tests::wait;

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

impl Profile {
    /// Decodes one, and checks that all that it refers to is there.
    #[track_caller]
    fn decode(gzip: &[u8]) -> Self {
        let mut bytes = Vec::new();
        GzDecoder::new(gzip).read_to_end(&mut bytes).expect("a profile is gzip'ed");
        let profile = Self::decode_message(&bytes);
        assert_eq!(profile.string_table.first().map(String::as_str), Some(""));
        for sample in &profile.sample {
            assert_eq!(sample.value.len(), profile.sample_type.len());
            assert!(!profile.stack(sample).is_empty());
        }
        profile
    }

    #[track_caller]
    fn decode_message(bytes: &[u8]) -> Self {
        Message::decode(bytes).expect("it is profile.proto")
    }

    fn text(&self, index: i64) -> &str {
        &self.string_table[usize::try_from(index).expect("an index is not negative")]
    }

    /// `name/unit` of each value.
    fn kinds(&self) -> Vec<String> {
        let kind = |kind: &ValueType| format!("{}/{}", self.text(kind.kind), self.text(kind.unit));
        self.sample_type.iter().map(kind).collect()
    }

    fn sum(&self, value: usize) -> i64 {
        self.sample.iter().map(|sample| sample.value[value]).sum()
    }

    /// The names on a stack, the innermost first.
    fn stack(&self, sample: &Sample) -> Vec<&str> {
        let find = |id: &u64| {
            let location = self.location.iter().find(|location| location.id == *id);
            let line =
                location.expect("the location is there").line.first().expect("it has a line");
            let mut functions = self.function.iter();
            let function = functions.find(|function| function.id == line.function_id);
            self.text(function.expect("the function is there").name)
        };
        sample.location_id.iter().map(find).collect()
    }

    fn functions(&self) -> BTreeSet<&str> {
        self.sample.iter().flat_map(|sample| self.stack(sample)).collect()
    }

    fn has(&self, part: &str) -> bool {
        self.functions().iter().any(|name| name.contains(part))
    }
}

/// Makes connections and asks for metrics for as long as `work` takes.
fn under_load<T>(hosts: &Hosts, collector: &Collector, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                hosts.talk(6700, 1_000);
                for _ in 0..50 {
                    collector.metrics();
                }
            }
        });
        let outcome = panic::catch_unwind(AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        load.join().expect("the load does not fail");
        outcome.unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

#[test]
fn a_cpu_profile_names_the_functions_of_host_and_plugin() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    under_load(&hosts, &collector, || {
        wait::until("functions of both have been sampled", || {
            let (code, body) = collector.fetch("/debug/pprof/profile?seconds=3");
            assert_eq!(code, 200, "{}", String::from_utf8_lossy(&body));
            let profile = Profile::decode(&body);
            assert_eq!(profile.kinds(), ["samples/count", "cpu/nanoseconds"]);
            // A sample is 10 ms of CPU time.
            assert_eq!(profile.sum(1), profile.sum(0) * 10_000_000);
            let found = profile.has("datakit_ebpf::telemetry::metrics::render")
                && profile.has("datakit_ebpf::main")
                && profile.has("ebpf_net::");
            if found { Ok(()) } else { Err(format!("{:?}", profile.functions())) }
        });
    });
    collector.stop();
}

#[test]
fn a_second_cpu_profile_is_refused_until_the_first_one_is_given_up() {
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let mut long = Vec::new();
    wait::until("a second one is refused", || {
        // It may come after the one below, and is refused itself then.
        let mut stream = TcpStream::connect(collector.status_address()).expect("it listens");
        let request = b"GET /debug/pprof/profile?seconds=120 HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all(request).expect("it reads");
        long.push(stream);
        match collector.fetch("/debug/pprof/profile?seconds=1") {
            (409, body) => {
                let sentence = String::from_utf8_lossy(&body);
                assert!(sentence.contains("another CPU profile"), "{sentence}");
                Ok(())
            }
            (code, _) => Err(code.to_string()),
        }
    });
    // Clients that hang up do not keep others waiting for two minutes.
    drop(long);
    wait::until("another one is taken", || {
        match collector.fetch("/debug/pprof/profile?seconds=1").0 {
            200 => Ok(()),
            code => Err(code.to_string()),
        }
    });
    collector.stop();
}

#[test]
fn a_heap_profile_names_the_functions_of_host_and_plugin() {
    let hosts = Hosts::new();
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    under_load(&hosts, &collector, || {
        wait::until("allocations of both have been sampled", || {
            let (code, body) = collector.fetch("/debug/pprof/heap");
            assert_eq!(code, 200, "{}", String::from_utf8_lossy(&body));
            let profile = Profile::decode(&body);
            assert_eq!(profile.kinds(), ["inuse_objects/count", "inuse_space/bytes"]);
            assert!(profile.sum(0) > 0 && profile.sum(1) > 0, "{profile:?}");
            let found = profile.has("datakit_ebpf::run::run") && profile.has("ebpf_net::");
            if found { Ok(()) } else { Err(format!("{:?}", profile.functions())) }
        });
    });
    collector.stop();
}

#[test]
fn all_other_paths_are_answered() {
    let receiver = Receiver::start();
    let collector = Collector::start(&receiver);
    let (code, threads) = collector.fetch("/debug/pprof/threadcreate");
    assert_eq!(code, 200);
    let threads = Profile::decode(&threads);
    assert_eq!(threads.kinds(), ["threadcreate/count"]);
    assert!(threads.has("datakit-ebpf") && threads.has("ebpf-net"), "{threads:?}");
    for (path, kind) in [
        ("goroutine?debug=1", "goroutine/count"),
        ("block", "contentions/count"),
        ("mutex", "contentions/count"),
        ("allocs", "inuse_objects/count"),
    ] {
        let (code, body) = collector.fetch(&format!("/debug/pprof/{path}"));
        assert_eq!((code, Profile::decode(&body).kinds()[0].as_str()), (200, kind), "{path}");
    }
    for (path, answer, part) in [
        ("", 200, "profile?seconds=30"),
        ("cmdline", 200, "--status-listen"),
        ("symbol", 200, "num_symbols"),
        ("trace", 404, "no trace"),
        ("other", 404, "no profile other"),
        ("profile?seconds=0", 400, "from 1 to 120"),
        ("profile?seconds=121", 400, "from 1 to 120"),
        ("profile?seconds=soon", 400, "from 1 to 120"),
    ] {
        let (code, body) = collector.fetch(&format!("/debug/pprof/{path}"));
        let body = String::from_utf8_lossy(&body);
        assert!(code == answer && body.contains(part), "{path}: {code} {body}");
    }
    collector.stop();
}
