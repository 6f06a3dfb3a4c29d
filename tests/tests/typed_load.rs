//! Very much that is typed. In: commands by the thousand, into many shells at once, typed and pasted. Out: each of them once, byte by
//! byte.

use std::collections::BTreeSet;
use std::thread;

use system_tests::collector::Collector;
use system_tests::receiver::Receiver;
use system_tests::shell::Shell;
use system_tests::typed::{Chance, points_of, start, text};
use system_tests::wait;

/// What somebody has typed into a shell.
struct Typed {
    pid: u32,
    commands: Vec<String>,
}

/// Shells that are typed into at the same time, each by a thread of its own.
#[track_caller]
fn type_at_once(shells: usize, typist: impl Fn(usize) -> Typed + Sync) -> Vec<Typed> {
    thread::scope(|scope| {
        let typist = &typist;
        let typists: Vec<_> = (0..shells).map(|n| scope.spawn(move || typist(n))).collect();
        typists.into_iter().map(|typist| typist.join().expect("nobody fails")).collect()
    })
}

/// Stops the collector when all has arrived: each command once, in its order, byte by byte, and nothing lost.
#[track_caller]
fn all_arrive(receiver: &Receiver, collector: Collector, typed: &[Typed]) {
    let expected: usize = typed.iter().map(|typed| typed.commands.len()).sum();
    let pids: BTreeSet<String> = typed.iter().map(|typed| typed.pid.to_string()).collect();
    wait::until("all commands have arrived", || {
        let points = receiver.points();
        let of_ours = points.iter().filter(|point| pids.contains(text(point, "pid")));
        match of_ours.count() {
            seen if seen < expected => {
                Err(format!("{seen} commands of {expected}: {}", collector.status()))
            }
            _ => Ok(()),
        }
    });
    for what in ["lines_lost", "lines_refused", "ends_lost", "commands_truncated"] {
        assert_eq!(collector.metric("ebpf-bash", &format!("{what}_total")), 0, "{what}");
    }
    collector.stop();
    for Typed { pid, commands } in typed {
        let points = points_of(receiver, *pid);
        assert_eq!(points.len(), commands.len());
        for (point, command) in points.iter().zip(commands) {
            assert_eq!(text(point, "cmd"), command);
        }
    }
}

#[test]
fn four_thousand_commands_typed_into_ten_shells_at_once_arrive_as_they_were_typed() {
    let receiver = Receiver::start();
    let collector = start(&receiver);
    let typed = type_at_once(10, |number| {
        let mut shell = Shell::bash();
        let mut chance = Chance::new(number as u64 + 1);
        let commands: Vec<_> = (0..400).map(|number| chance.command(number)).collect();
        for command in &commands {
            shell.enter(command);
        }
        Typed { pid: shell.pid(), commands }
    });
    all_arrive(&receiver, collector, &typed);
}

#[test]
fn fifty_shells_that_are_given_a_thousand_lines_at_once_lose_none() {
    const LINES: usize = 1_000;
    let receiver = Receiver::start();
    let collector = start(&receiver);
    let typed = type_at_once(50, |number| {
        let mut shell = Shell::bash();
        let lines: Vec<_> = (0..LINES).map(|line| format!(": {number} {line}")).collect();
        // As one paste, which is one command; and as terminals paste that do not say so: each line is one.
        let pasted = lines.join("\n");
        shell.paste(&pasted);
        shell.type_ahead(&lines);
        Typed { pid: shell.pid(), commands: [vec![pasted], lines].concat() }
    });
    all_arrive(&receiver, collector, &typed);
}
