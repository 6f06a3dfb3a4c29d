use super::*;

const WWW: &[u8] = b"\x03wWw\x07example\x03com\0";

/// A response: `www.example.com` is `x.cdn.net`, which has an address of each family; then an OPT
/// record with the upper bits of the rcode.
fn response() -> Vec<u8> {
    let mut bytes = b"\x12\x34\x81\x83\0\x01\0\x03\0\0\0\x01".to_vec();
    bytes.extend_from_slice(WWW);
    bytes.extend_from_slice(b"\0\x01\0\x01");
    bytes.extend_from_slice(b"\xc0\x0c\0\x05\0\x01\0\0\x01\x2c\0\x0b\x01x\x03cdn\x03net\0");
    let cdn = (bytes.len() - 11) as u8;
    bytes.extend_from_slice(&[0xc0, cdn]);
    bytes.extend_from_slice(b"\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x04");
    bytes.extend_from_slice(&[0xc0, cdn]);
    bytes.extend_from_slice(b"\0\x1c\0\x01\xff\0\0\0\0\x10");
    bytes.extend_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    bytes.extend_from_slice(b"\0\0\x29\x04\xd0\x01\0\0\0\0\0");
    bytes
}

#[test]
fn a_response_says_its_question_and_answers() {
    let bytes = response();
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.id, message.response, message.opcode), (0x1234, true, 0));
    assert_eq!(message.rcode, 0x13, "with the bits of EDNS");
    assert!(!message.truncated);
    let question = message.question.unwrap();
    assert_eq!((question.name.text().as_deref(), question.kind), (Some("www.example.com"), 1));
    let answers: Vec<_> = message.answers().collect();
    assert_eq!(answers.len(), 3);
    assert!(answers[0].owner.same(question.name));
    assert_eq!(answers[0].ttl, 300);
    let Data::Cname(target) = answers[0].data else { panic!("{:?}", answers[0]) };
    assert_eq!(target.text().as_deref(), Some("x.cdn.net"));
    assert_eq!((answers[1].owner, answers[1].ttl), (target, 60));
    assert_eq!(answers[1].data, Data::A(Ipv4Addr::new(1, 2, 3, 4)));
    assert_eq!(answers[2].ttl, 0, "a negative time is none");
    assert_eq!(answers[2].data, Data::Aaaa("2001:db8::1".parse().unwrap()));
}

#[test]
fn of_a_cut_message_everything_before_the_cut_is_the_same() {
    let bytes = response();
    let whole = Message::parse(&bytes).unwrap();
    let answers: Vec<_> = whole.answers().collect();
    let question_end = HEADER_LEN + WWW.len() + 4;
    for len in 0..bytes.len() {
        match Message::parse(&bytes[..len]) {
            Err(error) => assert_eq!((error, len < question_end), (DnsError::NeedMore, true)),
            Ok(cut) => {
                assert!(len >= question_end);
                assert_eq!((cut.id, cut.question), (whole.id, whole.question));
                let found: Vec<_> = cut.answers().collect();
                assert_eq!(found[..], answers[..found.len()]);
                assert_eq!(cut.rcode, 3, "the OPT record is the last");
            }
        }
    }
}

fn name_text(bytes: &[u8], at: usize) -> Option<String> {
    skip_name(bytes, at).ok()?;
    Name::new(bytes, at).text()
}

#[test]
fn names_are_lower_case_and_odd_bytes_are_escaped() {
    assert_eq!(name_text(b"\x03WwW\x02A_\0", 0).as_deref(), Some("www.a_"));
    assert_eq!(name_text(b"\x05a.\\ \x07\0", 0).as_deref(), Some(r"a\.\\\032\007"));
    assert_eq!(name_text(b"\x02\xc3\xa9\0", 0).as_deref(), Some(r"\195\169"));
    assert_eq!(name_text(b"\0", 0).as_deref(), Some("."));
}

#[test]
fn pointers_that_go_in_circles_or_forwards_are_no_names() {
    let mut bytes = [0; 20];
    for (at, to) in [(12, 12), (12, 14), (14, 2)] {
        bytes[at] = 0xc0;
        bytes[at + 1] = to;
        assert_eq!(skip_name(&bytes, at), Err(DnsError::NotDns), "{at} to {to}");
    }
    // A label before a pointer to itself, seen from behind.
    let looped = b"............\x01a\xc0\x0c\xc0\x0c";
    assert_eq!(name_text(looped, 16), None);
    assert!(!Name::new(looped, 16).same(Name::new(looped, 16)), "nothing is the same as no name");
}

#[test]
fn names_longer_than_a_name_may_be_are_none() {
    let labels = |count: usize| [b"\x01a".repeat(count), vec![0]].concat();
    assert!(name_text(&labels(127), 0).is_some());
    assert_eq!(name_text(&labels(128), 0), None);
    // Short parts that add up.
    let mut bytes = b"............".to_vec();
    bytes.extend_from_slice(&labels(100));
    let second = bytes.len();
    bytes.extend_from_slice(&b"\x01b".repeat(100));
    bytes.extend_from_slice(b"\xc0\x0c");
    assert_eq!(skip_name(&bytes, second), Ok(bytes.len()));
    assert_eq!(Name::new(&bytes, second).text(), None);
}

#[test]
fn what_is_no_dns_is_refused() {
    let mut bytes = response();
    bytes[3] |= 0x40;
    assert_eq!(Message::parse(&bytes), Err(DnsError::NotDns));
    assert_eq!(Message::parse(b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\n"), Err(DnsError::NotDns));
}

#[test]
fn the_number_of_records_looked_at_is_bounded() {
    let mut bytes = b"\0\x01\x80\0\0\0\xff\xff\0\0\0\0".to_vec();
    for _ in 0..1000 {
        bytes.extend_from_slice(b"\0\0\x01\0\x01\0\0\0\x01\0\x04\x01\x02\x03\x04");
    }
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.answers().count(), usize::from(MAX_RECORDS));
}

mod over_tcp {
    use super::super::tcp::{TcpMessages, TcpStep};
    use crate::piece::Piece;

    fn steps(messages: &mut TcpMessages, piece: &Piece<'_>) -> Vec<String> {
        let mut steps = Vec::new();
        messages.feed(piece, |step| {
            steps.push(match step {
                TcpStep::Message { bytes, len } => {
                    format!("{} of {len}", String::from_utf8_lossy(bytes))
                }
                TcpStep::Lost => "lost".to_owned(),
            });
        });
        steps
    }

    const TWO: &[u8] = b"\0\x03abc\0\x02de";

    #[test]
    fn messages_are_told_however_they_are_split() {
        for split in 0..=TWO.len() {
            let mut messages = TcpMessages::new(0);
            let mut told = steps(&mut messages, &Piece::whole(0, &TWO[..split], 0));
            told.extend(steps(&mut messages, &Piece::whole(split as u64, &TWO[split..], 0)));
            assert_eq!(told, ["abc of 3", "de of 2"], "split at {split}");
        }
    }

    #[test]
    fn of_a_message_with_a_hole_the_beginning_is_told() {
        let mut messages = TcpMessages::new(0);
        let cut = Piece { position: 0, bytes: &TWO[..3], len: 5, time: 0 };
        assert_eq!(steps(&mut messages, &cut), ["a of 3"]);
        assert_eq!(steps(&mut messages, &Piece::whole(5, &TWO[5..], 0)), ["de of 2"]);
    }

    #[test]
    fn a_hole_over_a_length_is_a_loss() {
        let mut messages = TcpMessages::new(0);
        let cut = Piece { position: 0, bytes: &TWO[..3], len: 6, time: 0 };
        assert_eq!(steps(&mut messages, &cut), ["a of 3", "lost"]);
        assert!(steps(&mut messages, &Piece::whole(6, &TWO[6..], 0)).is_empty());
    }

    #[test]
    fn of_a_large_message_the_beginning_is_kept() {
        let mut messages = TcpMessages::new(0);
        let mut bytes = vec![0xff, 0xff];
        bytes.resize(2 + 0xffff, b'x');
        let (first, second) = bytes.split_at(30_000);
        assert!(steps(&mut messages, &Piece::whole(0, first, 0)).is_empty());
        let told = steps(&mut messages, &Piece::whole(30_000, second, 0));
        assert_eq!(told, [format!("{} of 65535", "x".repeat(4096))]);
    }
}
