//! What UDP conversations did since they were last asked. In: the kernel's table of them. Out: what
//! each has moved; those that were idle are removed from the table, to make room.

use std::collections::HashMap;
use std::io;

use anyhow::Result;
use bpf::net::abi;
use plugin_support::iter::Iterator;
use plugin_support::loader::Loaded;
use plugin_support::map::Map;
use zerocopy::IntoBytes as _;

use crate::decode::{self, DecodeError, Delta};
use crate::probes::REPORT_UDP;

/// All conversations that the kernel counts.
pub(crate) struct Conversations {
    flows: Map<abi::udp_key, abi::udp_flow>,
    way: Way,
}

/// How they are read.
enum Way {
    /// By a program, which writes into the table what it has reported.
    Program(Iterator),
    /// One by one. What was reported is kept here, for each conversation of the table.
    LookUps(HashMap<[u8; size_of::<abi::udp_key>()], Reported>),
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Reported {
    sent: u64,
    received: u64,
}

impl Conversations {
    pub(crate) fn open(loaded: &Loaded) -> Result<Self> {
        let way = if loaded.is_loaded(REPORT_UDP) {
            Way::Program(loaded.iterator(REPORT_UDP, Some("udp_flows"))?)
        } else {
            Way::LookUps(HashMap::new())
        };
        Ok(Self { flows: loaded.map("udp_flows")?, way })
    }

    /// Passes on what each conversation did. One that did nothing is removed; what came in
    /// between is passed on too.
    pub(crate) fn read(
        &mut self,
        mut each: impl FnMut(Result<Delta, DecodeError>),
    ) -> io::Result<()> {
        let Self { flows, way } = self;
        let mut idle = Vec::new();
        match way {
            Way::Program(deltas) => {
                deltas.run(size_of::<abi::udp_delta>(), |record| match decode::udp(record) {
                    Ok((delta, key)) if delta.sent == 0 && delta.received == 0 => idle.push(key),
                    decoded => each(decoded.map(|(delta, _)| delta)),
                })?;
            }
            Way::LookUps(reported) => flows.walk(|key, flow| {
                let total = Reported { sent: flow.sent, received: flow.received };
                let before = reported.entry(bytes_of(key)).or_default();
                if *before == total {
                    idle.push(*key);
                } else {
                    each(decode::udp_rest(key, &since(*before, flow)));
                    *before = total;
                }
            })?,
        }
        for key in idle {
            let Some(mut rest) = flows.take(&key)? else { continue };
            if let Way::LookUps(reported) = way {
                rest = since(reported.remove(&bytes_of(&key)).unwrap_or_default(), rest);
            }
            each(decode::udp_rest(&key, &rest));
        }
        Ok(())
    }
}

/// The same conversation, of which this was reported.
fn since(reported: Reported, flow: abi::udp_flow) -> abi::udp_flow {
    let Reported { sent: sent_reported, received: received_reported } = reported;
    abi::udp_flow { sent_reported, received_reported, ..flow }
}

fn bytes_of(key: &abi::udp_key) -> [u8; size_of::<abi::udp_key>()] {
    let mut bytes = [0; size_of::<abi::udp_key>()];
    bytes.copy_from_slice(key.as_bytes());
    bytes
}
