//! The table that other plugins read, and the order in which its elements leave.
//!
//! One connection is several elements, so that readers who know less of it find it too: the
//! connection in its namespace; the same in any namespace, because a container's socket does not
//! know where on its way it is translated; and for UDP both once more without the source port,
//! which readers mask. Elements that stand for several connections say nothing when these go to
//! different places.
//!
//! The map is the only store: what is not in it is not in memory either, but for a queue of those
//! that are about to leave.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use bpf::conntrack::abi::{
    NAT_AMBIGUOUS, NAT_ELEMENTS, NAT_FROM_DUMP, NAT_GONE, NAT_NETNS_ANY, NAT_PORT_ANY, nat_key,
    nat_value,
};
use plugin_support::map::Map;
use plugin_support::memory;

use crate::decode::{Path, Translation, UDP, is_loopback};

/// A queue that was longer than this gives its memory back when it is empty.
const LARGE: usize = 8192;

/// Who says that a connection is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Event,
    Dump,
}

/// What could be done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Kept,
    /// There is no room.
    Refused,
}

#[derive(Debug)]
pub(crate) struct Table {
    map: Map<nat_key, nat_value>,
    /// Elements it may hold.
    room: usize,
    elements: usize,
    connections: usize,
    grace: Duration,
    stamp: u64,
    leaving: VecDeque<Leaving>,
}

/// A connection that is gone, unless its element has another stamp by then.
#[derive(Debug)]
struct Leaving {
    at: Instant,
    key: nat_key,
    stamp: u64,
}

impl Table {
    pub(crate) fn new(map: Map<nat_key, nat_value>, grace: Duration) -> Self {
        Self {
            map,
            room: NAT_ELEMENTS as usize,
            elements: 0,
            connections: 0,
            grace,
            stamp: 0,
            leaving: VecDeque::new(),
        }
    }

    pub(crate) fn map(&self) -> &Map<nat_key, nat_value> {
        &self.map
    }

    /// Connections in it, those included that are about to leave.
    pub(crate) fn connections(&self) -> usize {
        self.connections
    }

    /// When [`Table::expire`] has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.leaving.front().map(|leaving| leaving.at)
    }

    /// A connection is there.
    pub(crate) fn add(
        &mut self,
        netns: u32,
        translation: &Translation,
        source: Source,
    ) -> io::Result<Outcome> {
        let key = key_of(netns, translation);
        let mut flags = if source == Source::Dump { NAT_FROM_DUMP } else { 0 };
        match self.map.get(&key)? {
            Some(old) if path_of(&old) == translation.to => {
                // An event has shown that there will be another one at the end.
                if old.flags & (NAT_FROM_DUMP | NAT_GONE) == 0 {
                    flags = 0;
                }
                self.put(&key, &translation.to, flags)?;
                return Ok(Outcome::Kept);
            }
            Some(old) => self.remove(&key, &old)?,
            None => {}
        }
        let views = views_of(&key);
        if !self.make_room(1 + views.len())? {
            return Ok(Outcome::Refused);
        }
        self.put(&key, &translation.to, flags)?;
        self.elements += 1;
        self.connections += 1;
        for view in views {
            self.hold(&view, &translation.to)?;
        }
        Ok(Outcome::Kept)
    }

    /// A connection is gone; it leaves the table later.
    pub(crate) fn end(
        &mut self,
        netns: u32,
        translation: &Translation,
        now: Instant,
    ) -> io::Result<()> {
        let key = key_of(netns, translation);
        match self.map.get(&key)? {
            Some(value) if path_of(&value) == translation.to => self.leave(key, &value, now),
            // Another connection with the same ends came after it, or it was never seen.
            _ => Ok(()),
        }
    }

    /// What a dump of a namespace must be newer than, to be told apart from what was there before.
    pub(crate) fn mark(&self) -> u64 {
        self.stamp
    }

    /// After a dump of the namespace that began at `mark`: what was not in it is gone. Returns
    /// whether there are connections whose end the kernel may not tell.
    pub(crate) fn sweep(&mut self, netns: u32, mark: u64, now: Instant) -> io::Result<bool> {
        if self.elements == 0 {
            return Ok(false);
        }
        let mut gone = Vec::new();
        let mut unwatched = false;
        self.map.walk(|key, value| {
            if key.netns != netns || !is_connection(key) || value.flags & NAT_GONE != 0 {
                return;
            }
            if value.stamp <= mark {
                gone.push((*key, value));
            } else {
                unwatched |= value.flags & NAT_FROM_DUMP != 0;
            }
        })?;
        for (key, value) in gone {
            self.leave(key, &value, now)?;
        }
        Ok(unwatched)
    }

    /// Removes those that have been gone for long enough.
    pub(crate) fn expire(&mut self, now: Instant) -> io::Result<()> {
        while self.leaving.front().is_some_and(|leaving| leaving.at <= now) {
            self.expire_first()?;
        }
        Ok(())
    }

    fn expire_first(&mut self) -> io::Result<()> {
        let Some(Leaving { key, stamp, .. }) = self.leaving.pop_front() else { return Ok(()) };
        if self.leaving.is_empty() && self.leaving.capacity() > LARGE {
            self.leaving = VecDeque::new();
            memory::give_back();
        }
        match self.map.get(&key)? {
            Some(value) if value.stamp == stamp => self.remove(&key, &value),
            _ => Ok(()),
        }
    }

    fn leave(&mut self, key: nat_key, value: &nat_value, now: Instant) -> io::Result<()> {
        if value.flags & NAT_GONE != 0 {
            return Ok(());
        }
        self.put(&key, &path_of(value), value.flags | NAT_GONE)?;
        self.leaving.push_back(Leaving { at: now + self.grace, key, stamp: self.stamp });
        Ok(())
    }

    /// Those that are about to leave do so early where there is no room.
    fn make_room(&mut self, elements: usize) -> io::Result<bool> {
        while self.elements + elements > self.room && !self.leaving.is_empty() {
            self.expire_first()?;
        }
        Ok(self.elements + elements <= self.room)
    }

    fn put(&mut self, key: &nat_key, to: &Path, flags: u32) -> io::Result<()> {
        self.stamp += 1;
        self.map.put(key, &value_of(to, flags, self.stamp))
    }

    fn remove(&mut self, key: &nat_key, value: &nat_value) -> io::Result<()> {
        if self.map.remove(key)? {
            self.elements -= 1;
            self.connections -= 1;
        }
        for view in views_of(key) {
            self.release(&view)?;
        }
        debug_assert!(value.holders == 0, "only views are held");
        Ok(())
    }

    /// One more connection is behind a view.
    fn hold(&mut self, view: &nat_key, to: &Path) -> io::Result<()> {
        let to = path_behind(view, to);
        let value = if let Some(mut value) = self.map.get(view)? {
            value.holders += 1;
            if path_of(&value) != to {
                value.flags |= NAT_AMBIGUOUS;
            }
            value
        } else {
            self.elements += 1;
            nat_value { holders: 1, ..value_of(&to, 0, self.stamp) }
        };
        self.map.put(view, &value)
    }

    fn release(&mut self, view: &nat_key) -> io::Result<()> {
        match self.map.get(view)? {
            Some(value) if value.holders <= 1 => {
                if self.map.remove(view)? {
                    self.elements -= 1;
                }
                Ok(())
            }
            Some(value) => self.map.put(view, &nat_value { holders: value.holders - 1, ..value }),
            None => Ok(()),
        }
    }
}

fn key_of(netns: u32, translation: &Translation) -> nat_key {
    let Translation { protocol, from, to: _ } = *translation;
    let Path { src_addr, src_port, dst_addr, dst_port } = from;
    nat_key { src_addr, dst_addr, src_port, dst_port, netns, protocol, padding: [0; 3] }
}

fn value_of(to: &Path, flags: u32, stamp: u64) -> nat_value {
    let Path { src_addr, src_port, dst_addr, dst_port } = *to;
    nat_value { src_addr, dst_addr, src_port, dst_port, holders: 0, stamp, flags, padding: 0 }
}

fn path_of(value: &nat_value) -> Path {
    let nat_value { src_addr, dst_addr, src_port, dst_port, .. } = *value;
    Path { src_addr, src_port, dst_addr, dst_port }
}

fn is_connection(key: &nat_key) -> bool {
    key.netns != NAT_NETNS_ANY && u32::from(key.src_port) != NAT_PORT_ANY
}

/// The elements that stand for the connection and for others.
fn views_of(key: &nat_key) -> Vec<nat_key> {
    let any_port = nat_key { src_port: NAT_PORT_ANY as u16, ..*key };
    let anywhere = |key: nat_key| nat_key { netns: NAT_NETNS_ANY, ..key };
    let mut views = Vec::with_capacity(3);
    // Packets from a loopback address are translated in their own namespace or nowhere.
    let leaves = !is_loopback(key.src_addr);
    if leaves {
        views.push(anywhere(*key));
    }
    if key.protocol == UDP {
        views.push(any_port);
        if leaves {
            views.push(anywhere(any_port));
        }
    }
    views
}

/// A view without a source port says nothing of the translated one.
fn path_behind(view: &nat_key, to: &Path) -> Path {
    let any_port = u32::from(view.src_port) == NAT_PORT_ANY;
    Path { src_port: if any_port { NAT_PORT_ANY as u16 } else { to.src_port }, ..*to }
}

#[cfg(test)]
mod tests;
