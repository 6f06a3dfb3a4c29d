//! One record: a request and its plugin to bytes, and back. Pure: reads from what it is given,
//! trusts nothing it reads, and writes no file.
//!
//! ```text
//! checksum of the head | of the body | body length | points | lengths: target | plugin | type
//!        u32                u32            u32        u32           u16          u16      u8
//! ```
//!
//! in little endian; then the target and the plugin's name, which are part of the head; then the
//! body. Two checksums, so that a damaged body costs no more than its own record.

use std::io::{self, ErrorKind, Read};

use anyhow::{Context as _, Result};
use bytes::Bytes;

use crate::pipeline::encode::{CONTENT_TYPE, Request};

/// The head without its strings.
const FIXED_BYTES: usize = 21;

/// What the type's byte stands for: a content type, and whether the body is compressed. It is on
/// disk: only append.
const KINDS: [(Option<&str>, bool); 4] =
    [(None, false), (Some(CONTENT_TYPE), false), (None, true), (Some(CONTENT_TYPE), true)];

/// Everything but the body.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) plugin: String,
    pub(super) points: usize,
    pub(super) body_bytes: u32,
    target: String,
    content_type: Option<&'static str>,
    is_gzip: bool,
    body_checksum: u32,
}

/// The head of the record; the request's body follows as it is.
pub(super) fn head(plugin: &str, request: &Request) -> Result<Vec<u8>> {
    let Request { target, content_type, is_gzip, body, points } = request;
    let kind = KINDS
        .iter()
        .position(|known| known == &(*content_type, *is_gzip))
        .with_context(|| format!("the spool does not know the content type {content_type:?}"))?;
    let body_bytes = u32::try_from(body.len()).context("the body is too long for the spool")?;
    let points = u32::try_from(*points).context("too many points for the spool")?;
    let target_bytes = u16::try_from(target.len()).context("the target is too long")?;
    let plugin_bytes = u16::try_from(plugin.len()).context("the plugin's name is too long")?;
    let mut head = Vec::with_capacity(FIXED_BYTES + target.len() + plugin.len());
    head.extend([0; 4]);
    head.extend(crc32fast::hash(body).to_le_bytes());
    head.extend(body_bytes.to_le_bytes());
    head.extend(points.to_le_bytes());
    head.extend(target_bytes.to_le_bytes());
    head.extend(plugin_bytes.to_le_bytes());
    head.push(kind as u8);
    head.extend(target.as_bytes());
    head.extend(plugin.as_bytes());
    let checksum = crc32fast::hash(&head[4..]);
    head[..4].copy_from_slice(&checksum.to_le_bytes());
    Ok(head)
}

impl Head {
    /// Reads a head and nothing beyond it.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut fixed = [0; FIXED_BYTES];
        from.read_exact(&mut fixed)?;
        let mut fields = fixed.as_slice();
        let checksum = u32::from_le_bytes(take(&mut fields)?);
        let body_checksum = u32::from_le_bytes(take(&mut fields)?);
        let body_bytes = u32::from_le_bytes(take(&mut fields)?);
        let points = u32::from_le_bytes(take(&mut fields)?);
        let target_bytes = u16::from_le_bytes(take(&mut fields)?);
        let plugin_bytes = u16::from_le_bytes(take(&mut fields)?);
        let [kind] = take(&mut fields)?;

        let mut target = vec![0; target_bytes.into()];
        from.read_exact(&mut target)?;
        let mut plugin = vec![0; plugin_bytes.into()];
        from.read_exact(&mut plugin)?;

        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&fixed[4..]);
        hasher.update(&target);
        hasher.update(&plugin);
        if hasher.finalize() != checksum {
            return Err(damaged("the checksum of a head is wrong"));
        }
        let (content_type, is_gzip) =
            *KINDS.get(usize::from(kind)).ok_or_else(|| damaged("a content type is unknown"))?;
        let text = |bytes| String::from_utf8(bytes).map_err(|_| damaged("a string is not UTF-8"));
        Ok(Self {
            plugin: text(plugin)?,
            points: points as usize,
            body_bytes,
            target: text(target)?,
            content_type,
            is_gzip,
            body_checksum,
        })
    }

    /// Reads the body. That there is so much to read is for the caller to know.
    pub(super) fn body(&self, from: &mut impl Read) -> io::Result<Bytes> {
        let mut body = vec![0; self.body_bytes as usize];
        from.read_exact(&mut body)?;
        if crc32fast::hash(&body) != self.body_checksum {
            return Err(damaged("the checksum of a body is wrong"));
        }
        Ok(body.into())
    }

    /// Of the whole record.
    pub(super) fn record_bytes(&self) -> u64 {
        (FIXED_BYTES + self.target.len() + self.plugin.len()) as u64 + u64::from(self.body_bytes)
    }

    pub(super) fn into_request(self, body: Bytes) -> (String, Request) {
        let Self { plugin, points, target, content_type, is_gzip, .. } = self;
        (plugin, Request { target, content_type, is_gzip, body, points })
    }
}

pub(super) fn damaged(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

fn take<const N: usize>(fields: &mut &[u8]) -> io::Result<[u8; N]> {
    let (field, rest) = fields.split_first_chunk().ok_or(ErrorKind::UnexpectedEof)?;
    *fields = rest;
    Ok(*field)
}

#[cfg(test)]
mod tests {
    use super::{Head, KINDS, head};
    use crate::pipeline::encode::Request;

    fn request() -> Request {
        let body = vec![1, 2, 3].into();
        let (content_type, is_gzip) = KINDS[1];
        Request { target: "/v1".into(), content_type, is_gzip, body, points: 256 }
    }

    fn record() -> Vec<u8> {
        let mut bytes = head("netflow", &request()).unwrap();
        bytes.extend(request().body);
        bytes
    }

    /// Everything a reader may learn from `bytes`, or nothing.
    fn read(mut bytes: &[u8]) -> Option<(String, Request)> {
        let head = Head::read(&mut bytes).ok()?;
        let body = head.body(&mut bytes).ok()?;
        Some(head.into_request(body))
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        assert_eq!(read(&record()), Some(("netflow".into(), request())));
        let bytes = record().len() as u64;
        assert_eq!(Head::read(&mut record().as_slice()).unwrap().record_bytes(), bytes);
    }

    #[test]
    fn every_content_type_comes_back_compressed_or_not() {
        for (content_type, is_gzip) in KINDS {
            let request = Request { content_type, is_gzip, ..request() };
            let bytes = head("p", &request).unwrap();
            let head = Head::read(&mut bytes.as_slice()).unwrap();
            assert_eq!((head.content_type, head.is_gzip), (content_type, is_gzip));
        }
    }

    #[test]
    fn a_content_type_that_could_not_be_read_is_not_written() {
        let request = Request { content_type: Some("text/plain"), ..request() };
        let error = head("p", &request).unwrap_err();
        assert!(error.to_string().contains("text/plain"), "{error}");
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_noticed() {
        let bytes = record();
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len]), None, "len {len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&bytes), None, "bit {bit}");
        }
    }

    #[test]
    fn zeros_are_no_record() {
        assert_eq!(read(&[0; 4096]), None);
    }
}
