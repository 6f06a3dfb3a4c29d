//! The Huffman code of RFC 7541, appendix B. In: coded bytes. Out: the text. The code is a
//! canonical one: the lengths say it all, and the tables are made from them when this is compiled.

/// Bits of the code of each byte.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

const LONGEST: usize = 30;
/// Codes up to this length are looked up, longer ones searched.
const SHORT: usize = 8;

struct Tables {
    /// Bytes by length of code, then by value: the order of their codes.
    symbols: [u8; 256],
    /// By length: the first code, how many there are, and where they start in `symbols`.
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    start: [u32; LONGEST + 1],
    /// By the next eight bits: byte and length of its code; length 0 if the code is longer.
    short: [(u8, u8); 1 << SHORT],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut tables = Tables {
        symbols: [0; 256],
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        start: [0; LONGEST + 1],
        short: [(0, 0); 1 << SHORT],
    };
    let (mut code, mut filled, mut len) = (0u32, 0usize, 1);
    while len <= LONGEST {
        code <<= 1;
        tables.first[len] = code;
        tables.start[len] = filled as u32;
        let mut symbol = 0;
        while symbol < 256 {
            if LENGTHS[symbol] as usize == len {
                if len <= SHORT {
                    let mut slot = (code as usize) << (SHORT - len);
                    while slot < (code as usize + 1) << (SHORT - len) {
                        tables.short[slot] = (symbol as u8, len as u8);
                        slot += 1;
                    }
                }
                tables.symbols[filled] = symbol as u8;
                filled += 1;
                code += 1;
            }
            symbol += 1;
        }
        tables.count[len] = code - tables.first[len];
        len += 1;
    }
    tables
}

/// The byte whose code these bits start with, and its length; `None` for the end-of-string code.
fn symbol(window: u32) -> Option<(u8, u32)> {
    let (byte, len) = TABLES.short[(window >> (32 - SHORT)) as usize];
    if len > 0 {
        return Some((byte, u32::from(len)));
    }
    for len in SHORT + 1..=LONGEST {
        let nth = (window >> (32 - len)).wrapping_sub(TABLES.first[len]);
        if nth < TABLES.count[len] {
            return Some((TABLES.symbols[(TABLES.start[len] + nth) as usize], len as u32));
        }
    }
    None
}

/// Appends the text to `out`. `None` if it is not coded so, or is not padded as it must be.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    // The next bits are at the top.
    let (mut bits, mut count) = (0u64, 0u32);
    let mut input = coded.iter();
    loop {
        while count <= 56 {
            let Some(byte) = input.next() else { break };
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        // Behind the end stand ones, as the padding is.
        let window = ((bits | u64::MAX.checked_shr(count).unwrap_or(0)) >> 32) as u32;
        if count < 8 && window == u32::MAX {
            return Some(());
        }
        let (byte, len) = symbol(window)?;
        if len > count {
            return None;
        }
        out.push(byte);
        bits <<= len;
        count -= len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(coded: &[u8]) -> Option<String> {
        let mut out = Vec::new();
        decode(coded, &mut out)?;
        Some(String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        let coded = b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
        assert_eq!(text(coded).as_deref(), Some("www.example.com"));
        assert_eq!(text(b"\xa8\xeb\x10\x64\x9c\xbf").as_deref(), Some("no-cache"));
        assert_eq!(text(b"").as_deref(), Some(""));
    }

    #[test]
    fn every_byte_has_its_code() {
        // Written bit by bit from the canonical order, read back by the tables.
        for wanted in 0..=255u8 {
            let len = usize::from(LENGTHS[usize::from(wanted)]);
            let nth = (0..wanted).filter(|b| usize::from(LENGTHS[usize::from(*b)]) == len).count();
            let code = u64::from(TABLES.first[len]) + nth as u64;
            let bits = code << (64 - len) | u64::MAX >> len;
            let coded = &bits.to_be_bytes()[..len.div_ceil(8)];
            let mut out = Vec::new();
            assert_eq!((decode(coded, &mut out), out), (Some(()), vec![wanted]));
        }
    }

    #[test]
    fn bad_padding_and_the_end_code_are_refused() {
        assert_eq!(text(b"\xff"), None, "eight bits of padding");
        assert_eq!(text(b"\xff\xff\xff\xff"), None, "the code that must not be sent");
        assert_eq!(text(b"\x00"), None, "padding of zeros");
    }
}
