//! The few things that are done to a map by hand.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{self, Array, MapData, PerCpuArray};
use plugin_api::Host;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::raw;

/// A hash map with keys `K` and values `V`.
#[derive(Debug)]
pub struct Map<K, V> {
    fd: OwnedFd,
    types: PhantomData<fn(K) -> V>,
}

impl<K: IntoBytes + Immutable, V: FromBytes + IntoBytes> Map<K, V> {
    pub(crate) fn open(map: &maps::Map) -> Result<Self> {
        Self::of(data_of(map)?)
    }

    /// The map that another plugin offers under `name` now, if there is one.
    pub fn of_host(host: &Host, name: &str) -> Result<Option<Self>> {
        let Some(number) = host.map(name) else { return Ok(None) };
        // The number is the host's. A duplicate through our own pidfd trusts nothing in it.
        let process = pidfd_open(getpid(), PidfdFlags::empty()).context("open a pidfd")?;
        let map = pidfd_getfd(process, number, PidfdGetfdFlags::empty())
            .with_context(|| format!("duplicate the descriptor of map {name}"))?;
        let data = MapData::from_fd(map).with_context(|| format!("open map {name}"))?;
        Self::of(&data).with_context(|| format!("open map {name}")).map(Some)
    }

    fn of(data: &MapData) -> Result<Self> {
        let info = data.info()?;
        let (key, value) = (size_of::<K>() as u32, size_of::<V>() as u32);
        ensure!(
            (info.key_size(), info.value_size()) == (key, value),
            "its elements have {} and {} bytes, not {key} and {value}",
            info.key_size(),
            info.value_size()
        );
        Ok(Self { fd: data.fd().as_fd().try_clone_to_owned()?, types: PhantomData })
    }

    /// Adds an element; `false` if there is one of that key.
    pub fn add(&self, key: &K, value: &V) -> io::Result<bool>
    where
        V: Immutable,
    {
        raw::map_add(self.fd.as_fd(), key, value)
    }

    /// Removes an element and returns its last value, in one step; `None` if it is not there.
    pub fn take(&self, key: &K) -> io::Result<Option<V>> {
        raw::map_take(self.fd.as_fd(), key)
    }

    /// The value of an element; `None` if it is not there.
    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        raw::map_get(self.fd.as_fd(), key)
    }

    /// Sets an element.
    pub fn put(&self, key: &K, value: &V) -> io::Result<()>
    where
        V: Immutable,
    {
        raw::map_put(self.fd.as_fd(), key, value)
    }

    /// Removes an element; whether it was there.
    pub fn remove(&self, key: &K) -> io::Result<bool> {
        raw::map_remove(self.fd.as_fd(), key)
    }

    /// Passes on every element. It must not be changed meanwhile: removing the element that was
    /// passed on last starts over.
    pub fn walk(&self, mut each: impl FnMut(&K, V)) -> io::Result<()>
    where
        K: FromBytes,
    {
        let mut key = raw::map_next(self.fd.as_fd(), None::<&K>)?;
        while let Some(found) = key {
            if let Some(value) = self.get(&found)? {
                each(&found, value);
            }
            key = raw::map_next(self.fd.as_fd(), Some(&found))?;
        }
        Ok(())
    }
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Counters that programs add to, one cell per CPU.
pub struct Counters {
    array: PerCpuArray<MapData, u64>,
}

impl Counters {
    pub(crate) fn open(map: maps::Map) -> Result<Self> {
        Ok(Self { array: map.try_into()? })
    }

    /// The sum over all CPUs; 0 if the kernel does not answer.
    pub fn sum(&self, index: u32) -> u64 {
        self.array.get(&index, 0).map_or(0, |cells| cells.iter().sum())
    }
}

/// One number that programs read.
pub struct Number {
    array: Array<MapData, u32>,
}

impl Number {
    pub(crate) fn open(map: maps::Map) -> Result<Self> {
        Ok(Self { array: map.try_into()? })
    }

    /// Sets it.
    pub fn set(&mut self, value: u32) -> Result<()> {
        Ok(self.array.set(0, value, 0)?)
    }
}

/// The descriptor of a map of any of the kinds that iterators walk.
pub(crate) fn fd_of(map: &maps::Map) -> Result<BorrowedFd<'_>> {
    Ok(data_of(map)?.fd().as_fd())
}

fn data_of(map: &maps::Map) -> Result<&MapData> {
    match map {
        // A task storage is among the kinds that aya has no name for.
        maps::Map::HashMap(data) | maps::Map::SkStorage(data) | maps::Map::Unsupported(data) => {
            Ok(data)
        }
        other => bail!("it is not a hash map or a storage: {other:?}"),
    }
}
