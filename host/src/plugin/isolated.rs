//! A plugin in a process of its own: the host's side. The child is this same executable; calls go
//! to it and answers, points and log lines come back as messages on a socket. Messages that the
//! child has sent are in the kernel, so its death does not take them along.
//!
//! ```text
//! keeper --calls--> socket --> child's main thread --> plugin
//! reader <--answers, points, log lines-- socket <-- child's threads
//! ```

use std::env;
use std::error::Error;
use std::fmt::{self, Display};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use anyhow::{Context as _, Result, bail};
use flume::{Receiver, Sender};
use plugin_api::loading::HostApi as _;
use plugin_api::{LogField, Metric, ProbeVerdict};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tracing::{debug, warn};

use crate::pipeline::ledger::DropReason;
use crate::plugin::callbacks::Callbacks;
use crate::plugin::runner::Task;
use crate::supervise;

pub(crate) mod child;
mod frame;
mod points;

use frame::{Answer, Call, Open, Said};

/// What the child may have sent and the host not yet read.
const BUFFER_BYTES: usize = 8 << 20;

/// A plugin's process.
pub(crate) struct Isolated {
    name: String,
    child: Child,
    socket: Arc<OwnedFd>,
    answers: Receiver<Answer>,
    reader: Option<JoinHandle<()>>,
}

impl Isolated {
    /// Starts the process and has it load the plugin; returns the plugin's version too.
    pub(crate) fn open(name: &str, task: &Task, callbacks: Callbacks) -> Result<(Self, String)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .context("make a socket for the plugin's process")?;
        // Without the capability, the limit of the system holds.
        if sockopt::set_socket_send_buffer_size_force(&theirs, BUFFER_BYTES).is_err() {
            sockopt::set_socket_send_buffer_size(&theirs, BUFFER_BYTES).context("size a socket")?;
        }
        let mut command = Command::new(env::current_exe().context("find the own executable")?);
        command.args(["plugin", "host", name]).stdin(Stdio::from(theirs)).stdout(Stdio::null());
        // What is typed at our terminal is for us to pass on.
        supervise::as_child(&mut command).process_group(0);
        let child = command.spawn().context("start the plugin's process")?;
        drop(command);
        let process = child.id();
        let socket = Arc::new(ours);
        let (sender, answers) = flume::unbounded();
        let reader = Reader { socket: Arc::clone(&socket), callbacks, process, seen: 0 };
        let reader = Builder::new()
            .name("isolated".into())
            .spawn(move || reader.run(&sender))
            .context("start the thread that reads from the plugin's process")?;
        let mut isolated =
            Self { name: name.to_owned(), child, socket, answers, reader: Some(reader) };
        let version = isolated.call(Call::Open(Open {
            name: name.to_owned(),
            folder: task.folder.to_str().context("the plugin folder is not UTF-8")?.to_owned(),
            trusts_any: task.trusts_any,
            settings: task.settings.clone(),
        }))?;
        Ok((isolated, version.version))
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        self.call(Call::Start(true)).map(drop)
    }

    pub(crate) fn ask(&mut self) -> Result<(Vec<ProbeVerdict>, Vec<Metric>)> {
        self.call(Call::Ask(true)).map(Answer::into_report)
    }

    /// Stops the plugin, and ends its process.
    pub(crate) fn stop(&mut self) -> Result<()> {
        // One that has ended was told of already.
        let is_dead = self.child.try_wait().context("look after the plugin's process")?.is_some();
        if is_dead { Ok(()) } else { self.call(Call::Stop(true)).map(drop) }
    }

    fn call(&mut self, call: Call) -> Result<Answer> {
        let process = self.process();
        if frame::send_call(&self.socket, call).is_err() {
            return Err(Ended::of(process).into());
        }
        let answer = self.answers.recv().map_err(|_| Ended::of(process))?;
        match answer.error {
            None => Ok(answer),
            Some(error) => bail!(error),
        }
    }
}

impl Drop for Isolated {
    fn drop(&mut self) {
        // The child ends when nobody is at the other end; one that hangs does not.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            warn!(plugin = self.name, %error, "the plugin's process cannot be ended");
        }
        if self.reader.take().is_some_and(|reader| reader.join().is_err()) {
            warn!(plugin = self.name, "the reader of the plugin's process had panicked");
        }
    }
}

/// The thread that takes what the process says.
struct Reader {
    socket: Arc<OwnedFd>,
    callbacks: Callbacks,
    process: u32,
    /// Points that the plugin has handed over, as far as is known here.
    seen: u64,
}

impl Reader {
    fn run(mut self, answers: &Sender<Answer>) {
        let mut buffer = vec![0; frame::MAX_BYTES];
        loop {
            match frame::receive(&self.socket, &mut buffer) {
                Ok(Some(Ok(Said::Answer(answer)))) => {
                    self.settle(answer.handed_over, 0);
                    if answers.send(answer).is_err() {
                        return;
                    }
                }
                Ok(Some(Ok(said))) => self.take(said),
                Ok(Some(Err(error))) => self.complain(&error, "it is left out"),
                Ok(None) => break,
                Err(error) => {
                    self.complain(&error, "the process is ended");
                    break;
                }
            }
        }
        self.callbacks.fail(Ended::of(self.process).0.as_str().into());
    }

    fn complain(&self, error: &anyhow::Error, consequence: &str) {
        let error = format!("{error:#}");
        let plugin = self.callbacks.plugin.as_ref();
        warn!(plugin, error, consequence, "a message of the plugin's process makes no sense");
    }

    fn take(&mut self, said: Said) {
        match said {
            Said::Batch(batch) => {
                let (count, handed_over) = (batch.points.len(), batch.handed_over);
                self.settle(handed_over, count as u64);
                match points::from_batch(batch) {
                    Ok(points) => {
                        self.callbacks.send(points);
                    }
                    Err(error) => {
                        self.callbacks.account.emitted(count);
                        self.callbacks.account.dropped(count, DropReason::Malformed);
                        debug!(error = %format!("{error:#}"), "points dropped");
                    }
                }
            }
            Said::Log(line) => {
                let fields: Vec<_> = line
                    .fields
                    .iter()
                    .map(|field| LogField::new(&field.name, &field.value))
                    .collect();
                let (level, text) = (line.level(), line.message);
                self.callbacks.log(level, text.as_str().into(), fields.as_slice().into());
            }
            Said::Fail(reason) => self.callbacks.fail(reason.as_str().into()),
            Said::Expect(expect) => {
                self.callbacks.threads.expect_of(expect.thread, expect.within());
            }
            Said::Offer(offer) => {
                if let Some(process) = Pid::from_raw(self.process as i32) {
                    self.callbacks.offer_of(process, &offer.name, offer.descriptor);
                }
            }
            Said::Answer(_) => {}
        }
    }

    /// What was handed over before these `points` and never came found the socket full.
    fn settle(&mut self, handed_over: u64, points: u64) {
        let lost = handed_over.saturating_sub(self.seen + points) as usize;
        if lost > 0 {
            self.callbacks.account.emitted(lost);
            self.callbacks.account.dropped(lost, DropReason::InboxFull);
        }
        self.seen = self.seen.max(handed_over);
    }
}

/// The process has ended, and how.
#[derive(Debug)]
pub(crate) struct Ended(String);

impl Display for Ended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for Ended {}

impl Ended {
    fn of(process: u32) -> Self {
        Self(describe_end(process))
    }
}

fn describe_end(process: u32) -> String {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let id = Pid::from_raw(process as i32);
    match id.and_then(|id| waitid(WaitId::Pid(id), options).ok().flatten()) {
        Some(status) => match (status.terminating_signal(), status.exit_status()) {
            (Some(signal), _) => format!("its process was ended by signal {signal}"),
            (None, Some(code)) => format!("its process has ended with exit code {code}"),
            (None, None) => "its process has ended".into(),
        },
        None => "its process has ended".into(),
    }
}
