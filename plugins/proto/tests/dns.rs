//! DNS messages against those that another implementation writes, and against arbitrary bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use plugin_proto::dns::{Data, Message, TcpMessages, TcpStep};
use plugin_proto::piece::Piece;
use proptest::prelude::*;
use simple_dns::rdata::{A, AAAA, CNAME, MX, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, ResourceRecord, TYPE};

#[derive(Clone, Debug, PartialEq)]
enum Said {
    Address(IpAddr),
    Alias(String),
    Mail(String),
}

fn name() -> impl Strategy<Value = String> {
    let label = "[a-zA-Z0-9_-]{1,12}";
    // A few, so that they are compressed, and with the same ends.
    (proptest::collection::vec(label, 0..3), 0..3usize).prop_map(|(labels, end)| {
        let ends = ["example.com", "cdn.example.com", "net"];
        [&labels[..], &[ends[end].to_owned()]].concat().join(".")
    })
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Said::Address(Ipv4Addr::from(bits).into())),
        any::<u128>().prop_map(|bits| Said::Address(Ipv6Addr::from(bits).into())),
        name().prop_map(Said::Alias),
        name().prop_map(Said::Mail),
    ]
}

fn record<'a>(owner: &'a str, ttl: u32, said: &'a Said) -> ResourceRecord<'a> {
    let data = match said {
        Said::Address(IpAddr::V4(address)) => RData::A(A::from(*address)),
        Said::Address(IpAddr::V6(address)) => RData::AAAA(AAAA::from(*address)),
        Said::Alias(name) => RData::CNAME(CNAME(Name::new(name).expect("a name"))),
        Said::Mail(name) => {
            RData::MX(MX { preference: 1, exchange: Name::new(name).expect("a name") })
        }
    };
    ResourceRecord::new(Name::new(owner).expect("a name"), CLASS::IN, ttl, data)
}

/// (owner, ttl, data) as we read them.
fn read(message: &Message<'_>) -> Vec<(String, u32, Said)> {
    let text = |name: plugin_proto::dns::Name<'_>| name.text().expect("a name");
    let answers = message.answers().map(|answer| {
        let said = match answer.data {
            Data::A(address) => Said::Address(address.into()),
            Data::Aaaa(address) => Said::Address(address.into()),
            Data::Cname(name) => Said::Alias(text(name)),
        };
        (text(answer.owner), answer.ttl, said)
    });
    answers.collect()
}

proptest! {
    #[test]
    fn what_another_implementation_writes_is_read(
        id: u16,
        asked in name(),
        answers in proptest::collection::vec((name(), 0..=0x7fff_ffffu32, said()), 0..6),
        compressed: bool,
    ) {
        let mut packet = Packet::new_reply(id);
        packet.set_flags(PacketFlag::TRUNCATION);
        packet.questions.push(Question::new(
            Name::new(&asked).expect("a name"),
            QTYPE::TYPE(TYPE::AAAA),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        packet.answers = answers.iter().map(|(owner, ttl, said)| record(owner, *ttl, said)).collect();
        let bytes = if compressed { packet.build_bytes_vec_compressed() } else { packet.build_bytes_vec() };
        let bytes = bytes.expect("it is written");

        let message = Message::parse(&bytes).expect("it is one");
        prop_assert_eq!((message.id, message.response, message.truncated), (id, true, true));
        let question = message.question.expect("one was asked");
        prop_assert_eq!(question.name.text(), Some(asked.to_ascii_lowercase()));
        prop_assert_eq!(question.kind, 28);
        let wanted: Vec<_> = answers
            .into_iter()
            .filter(|(_, _, said)| !matches!(said, Said::Mail(_)))
            .map(|(owner, ttl, said)| {
                let said = match said {
                    Said::Alias(name) => Said::Alias(name.to_ascii_lowercase()),
                    said => said,
                };
                (owner.to_ascii_lowercase(), ttl, said)
            })
            .collect();
        prop_assert_eq!(read(&message), wanted.clone());

        for len in 0..bytes.len() {
            if let Ok(cut) = Message::parse(&bytes[..len]) {
                let some = read(&cut);
                prop_assert_eq!(&some[..], &wanted[..some.len()], "cut at {}", len);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(
        tail in proptest::collection::vec(prop_oneof![Just(0xc0), Just(0x0c), 0..4u8, any::<u8>()], 0..200),
        counts in [0..4u8, 0..4, 0..4, 0..4],
    ) {
        let [questions, answers, authorities, additionals] = counts;
        let mut bytes = vec![1, 2, 0x80, 0, 0, questions, 0, answers, 0, authorities, 0, additionals];
        bytes.extend(tail);
        if let Ok(message) = Message::parse(&bytes) {
            for answer in message.answers() {
                let text = answer.owner.text();
                prop_assert!(text.is_none_or(|text| text.len() <= 4 * 255));
            }
        }
    }

    #[test]
    fn messages_on_tcp_are_the_same_in_any_pieces(
        bytes in proptest::collection::vec(prop_oneof![Just(0), 0..9u8, any::<u8>()], 0..300),
        pieces in proptest::collection::vec(1..40usize, 0..40),
    ) {
        let told = |pieces: &[Piece<'_>]| {
            let mut messages = TcpMessages::new(0);
            let mut told = Vec::new();
            for piece in pieces {
                messages.feed(piece, |step| told.push(match step {
                    TcpStep::Message { bytes, len } => (bytes.to_vec(), len),
                    TcpStep::Lost => (b"lost".to_vec(), 0),
                }));
            }
            told
        };
        let mut split = Vec::new();
        let (mut at, mut lens) = (0, pieces.into_iter().chain(std::iter::repeat(7)));
        while at < bytes.len() {
            let end = (at + lens.next().expect("endless")).min(bytes.len());
            split.push(Piece::whole(at as u64, &bytes[at..end], 0));
            at = end;
        }
        prop_assert_eq!(told(&[Piece::whole(0, &bytes, 0)]), told(&split));
    }
}
