//! Which conversations are reported at all.

use crate::decode::{Delta, Endpoint};

/// Whether `delta` goes into a flow: it has two real ends, not on loopback unless asked for, and
/// something happened.
pub(crate) fn is_reported(delta: &Delta, include_loopback: bool) -> bool {
    let happened = delta.sent != 0
        || delta.received != 0
        || delta.tcp.as_ref().is_some_and(|tcp| tcp.opened || tcp.closed);
    happened && has_reported_ends([delta.local, delta.remote], include_loopback)
}

/// Whether what happens between these ends is reported.
pub(crate) fn has_reported_ends(ends: [Endpoint; 2], include_loopback: bool) -> bool {
    ends.iter().all(|end| !end.ip.is_unspecified())
        && (include_loopback || !ends.iter().any(is_loopback))
}

/// 127.0.0.0/8 and `::1`, also as `::ffff:127.x.y.z` beside a real IPv6 address.
fn is_loopback(end: &Endpoint) -> bool {
    end.ip.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::is_reported;
    use crate::decode::tests::closed;
    use crate::decode::{Delta, tcp};
    use zerocopy::IntoBytes as _;

    fn delta(local: &str, remote: &str) -> Delta {
        let mut delta = tcp(closed().as_bytes()).unwrap();
        delta.local.ip = local.parse().unwrap();
        delta.remote.ip = remote.parse().unwrap();
        delta
    }

    #[test]
    fn loopback_at_either_end_is_left_out_unless_asked_for() {
        for (local, remote) in [
            ("127.0.0.1", "10.0.0.1"),
            ("10.0.0.1", "127.8.0.1"),
            ("::1", "::1"),
            ("::ffff:127.0.0.1", "fd00::1"),
        ] {
            assert!(!is_reported(&delta(local, remote), false), "{local} {remote}");
            assert!(is_reported(&delta(local, remote), true), "{local} {remote}");
        }
    }

    #[test]
    fn link_local_and_equal_ends_are_kept() {
        assert!(is_reported(&delta("169.254.1.1", "10.0.0.1"), false));
        assert!(is_reported(&delta("10.0.0.1", "10.0.0.1"), false));
    }

    #[test]
    fn an_unspecified_end_is_left_out() {
        assert!(!is_reported(&delta("0.0.0.0", "10.0.0.1"), true));
        assert!(!is_reported(&delta("fd00::1", "::"), true));
    }

    #[test]
    fn a_conversation_in_which_nothing_happened_is_left_out() {
        let mut delta = delta("10.0.0.1", "10.0.0.2");
        (delta.sent, delta.received) = (0, 0);
        assert!(is_reported(&delta, false), "it opened and closed");
        let tcp = delta.tcp.as_mut().unwrap();
        (tcp.opened, tcp.closed) = (false, false);
        assert!(!is_reported(&delta, false));
    }
}
