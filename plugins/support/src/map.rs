//! The few things that are done to a map by hand.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::{Result, bail, ensure};
use aya::maps::{self, Array, MapData, PerCpuArray};
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
        let data = data_of(map)?;
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
