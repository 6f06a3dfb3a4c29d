//! Texts to quantities: durations, sizes, rates, ports, addresses, switches.
//!
//! In: one trimmed text. Out: what it means, or an [`Unfit`] that says what to write instead.
//! Pure; floors, limits and defaults are for [`resolve`](super::resolve).

use std::time::Duration;

use super::layers::Unfit;

#[cfg(test)]
mod tests;

/// A duration in Go's syntax: `90s`, `1m30s`, `1.5h`, `0`.
pub(crate) fn duration(text: &str) -> Result<Duration, Unfit> {
    const UNFIT: Unfit =
        Unfit { is_not: "a duration", write: "numbers with units such as 90s, 1m30s or 300ms" };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let (number, unit) = number_and_rest(rest).ok_or(UNFIT)?;
        let (unit, next) = unit.split_at(unit.find(starts_number).unwrap_or(unit.len()));
        nanos += number
            * match unit {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return Err(UNFIT),
            };
        rest = next;
    }
    // i64::MAX nanoseconds, about 292 years, is as far as Go counts.
    if text.is_empty() || nanos > i64::MAX as f64 {
        return Err(UNFIT);
    }
    Ok(Duration::from_nanos(nanos.round() as u64))
}

/// A duration of at least a second.
pub(crate) fn duration_from_1s(text: &str) -> Result<Duration, Unfit> {
    duration(text).ok().filter(|duration| *duration >= Duration::from_secs(1)).ok_or(Unfit {
        is_not: "a duration of 1s or more",
        write: "numbers with units such as 90s or 1m30s",
    })
}

/// A number of bytes: `512MiB`, `4GB`, `1.5 G`, `1024`. Only the `i` makes a unit binary.
pub(crate) fn size(text: &str) -> Result<u64, Unfit> {
    bytes(text)
        .ok_or(Unfit { is_not: "a size", write: "a number and a unit such as 512MiB or 4GB" })
}

/// A size that is not zero.
pub(crate) fn size_above_0(text: &str) -> Result<u64, Unfit> {
    bytes(text).filter(|bytes| *bytes > 0).ok_or(Unfit {
        is_not: "a size above 0",
        write: "a number and a unit such as 512MiB or 4GB",
    })
}

/// A number of bytes a second: a size that `/s` may follow.
pub(crate) fn bandwidth(text: &str) -> Result<u64, Unfit> {
    let per_second = text.strip_suffix("/s").or_else(|| text.strip_suffix("/S"));
    bytes(per_second.unwrap_or(text).trim_end()).ok_or(Unfit {
        is_not: "a bandwidth",
        write: "a number and a unit such as 100MiB/s or 1GB/s",
    })
}

fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = number_and_rest(text)?;
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let (letter, base) = match unit.strip_suffix('i') {
        Some(letter) => (letter, 1024.0_f64),
        None => (unit, 1000.0),
    };
    let power = match letter {
        // "5i" and "5iB" are no units.
        "" if base < 1024.0 => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return None,
    };
    let bytes = number * base.powi(power);
    (bytes < u64::MAX as f64).then_some(bytes as u64)
}

/// A number of CPU cores.
pub(crate) fn cores(text: &str) -> Result<f64, Unfit> {
    whole_number(text)
        .ok_or(Unfit { is_not: "a number of CPU cores", write: "a number such as 2 or 0.5" })
}

/// The share of points to keep.
pub(crate) fn sampling_rate(text: &str) -> Result<f64, Unfit> {
    whole_number(text)
        .filter(|rate| (0.01..=1.0).contains(rate))
        .ok_or(Unfit { is_not: "a sampling rate", write: "a number from 0.01 to 1.00" })
}

/// A number of points a minute.
pub(crate) fn points_per_minute(text: &str) -> Result<f64, Unfit> {
    whole_number(text)
        .filter(|points| *points > 0.0)
        .ok_or(Unfit { is_not: "a number of points a minute", write: "a number such as 1500" })
}

/// The first ephemeral port; negative numbers are 0, which is "all".
pub(crate) fn ephemeral_port(text: &str) -> Result<u16, Unfit> {
    text.parse::<i64>()
        .ok()
        .and_then(|port| u16::try_from(port.max(0)).ok())
        .ok_or(Unfit { is_not: "a port", write: "a number from 0 to 65535" })
}

/// True or false in any of Go's spellings.
pub(crate) fn switch(text: &str) -> Result<bool, Unfit> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(Unfit { is_not: "a switch", write: "true or false" }),
    }
}

/// The base URL of a DataKit: `http://` unless there is a scheme, no path, no slash at the end.
pub(crate) fn base_url(text: &str) -> Result<String, Unfit> {
    let (scheme, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => ("https", rest),
        (None, rest) => ("http", rest.unwrap_or(text)),
    };
    let authority = rest.trim_end_matches('/');
    match host_and_port(authority) {
        Some((_, None | Some(1..))) => Ok(format!("{scheme}://{authority}")),
        _ => Err(Unfit {
            is_not: "an address",
            write: "host:port, such as 127.0.0.1:9529 or https://[::1]:9529",
        }),
    }
}

/// Where to listen: `host:port`, port 0 being any that is free, or `none`.
pub(crate) fn listen_address(text: &str) -> Result<Option<String>, Unfit> {
    if text == "none" {
        return Ok(None);
    }
    match host_and_port(text) {
        Some((_, Some(_))) => Ok(Some(text.to_owned())),
        _ => Err(Unfit {
            is_not: "an address to listen on",
            write: "host:port, such as 127.0.0.1:6061, or none",
        }),
    }
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`, if it is one of them.
fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, rest)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if host.is_empty() || !host.chars().all(is_name) {
        return None;
    }
    if rest.is_empty() {
        return Some((host, None));
    }
    let digits = rest.strip_prefix(':')?;
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((host, Some(digits.parse().ok().filter(|_| all_digits)?)))
}

/// A number of digits and at most one point: no sign, exponent or infinity.
fn whole_number(text: &str) -> Option<f64> {
    number_and_rest(text).filter(|(_, rest)| rest.is_empty()).map(|(number, _)| number)
}

/// The number at the start of a text, and what follows it.
fn number_and_rest(text: &str) -> Option<(f64, &str)> {
    let (number, rest) = text.split_at(text.find(|c| !starts_number(c)).unwrap_or(text.len()));
    Some((number.parse().ok()?, rest))
}

fn starts_number(c: char) -> bool {
    c.is_ascii_digit() || c == '.'
}
