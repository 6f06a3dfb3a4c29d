//! Bytes through `io_uring`: no system call that reads or writes. In: a connected socket. Out: bytes moved with
//! `IORING_OP_SEND` and `IORING_OP_RECV` alone.

use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};

/// Sends all of `bytes`.
pub fn send(stream: &TcpStream, bytes: &[u8]) {
    let fd = types::Fd(stream.as_raw_fd());
    let mut left = bytes;
    while !left.is_empty() {
        let sent = wait_for(&opcode::Send::new(fd, left.as_ptr(), left.len() as u32).build());
        left = &left[sent..];
    }
}

/// Receives for as long as `more` says so of what has come.
pub fn receive(stream: &TcpStream, more: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let fd = types::Fd(stream.as_raw_fd());
    let (mut all, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    while more(&all) {
        let room = buffer.len() as u32;
        let received = wait_for(&opcode::Recv::new(fd, buffer.as_mut_ptr(), room).build());
        all.extend_from_slice(&buffer[..received]);
    }
    all
}

/// Has the kernel do it, and waits for the end; how many bytes it moved.
fn wait_for(entry: &Entry) -> usize {
    let mut ring = IoUring::new(2).expect("the kernel has io_uring");
    #[expect(unsafe_code, reason = "io_uring takes plain pointers")]
    // SAFETY: both callers own the buffer, and wait here until the kernel is done with it.
    let pushed = unsafe { ring.submission().push(entry) };
    pushed.expect("the queue is empty");
    ring.submit_and_wait(1).expect("the kernel takes it");
    let result = ring.completion().next().expect("one completion was awaited").result();
    assert!(result > 0, "io_uring moved nothing: {result}");
    result as usize
}
