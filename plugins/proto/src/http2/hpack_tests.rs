use super::*;

/// What is not known is `?`.
fn decoded(decoder: &mut Decoder, hex: &str) -> Result<Vec<String>, Corrupt> {
    let mut fields = Vec::new();
    decoder.decode(&bytes(hex), true, |field| fields.push(shown(field)))?;
    Ok(fields)
}

fn shown(field: Field<'_>) -> String {
    let text = |part: Option<&[u8]>| match part {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => "?".to_owned(),
    };
    format!("{}: {}", text(field.name), text(field.value))
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn table(decoder: &Decoder) -> Vec<String> {
    decoder.table.iter().map(|entry| shown(entry.field())).collect()
}

#[test]
fn c_2_representations() {
    let mut decoder = Decoder::from_start(4096);
    let custom = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
    assert_eq!(decoded(&mut decoder, custom).unwrap(), ["custom-key: custom-header"]);
    assert_eq!((table(&decoder).len(), decoder.size), (1, 55));

    let mut decoder = Decoder::from_start(4096);
    let without = "040c 2f73 616d 706c 652f 7061 7468";
    assert_eq!(decoded(&mut decoder, without).unwrap(), [":path: /sample/path"]);
    let never = "1008 7061 7373 776f 7264 0673 6563 7265 74";
    assert_eq!(decoded(&mut decoder, never).unwrap(), ["password: secret"]);
    assert_eq!(decoded(&mut decoder, "82").unwrap(), [":method: GET"]);
    assert!(table(&decoder).is_empty());
}

const REQUESTS: [[&str; 3]; 2] = [
    [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ],
    [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ],
];

#[test]
fn c_3_and_c_4_requests() {
    for [first, second, third] in REQUESTS {
        let mut decoder = Decoder::from_start(4096);
        let head = [":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"];
        assert_eq!(decoded(&mut decoder, first).unwrap(), head);
        let fields = decoded(&mut decoder, second).unwrap();
        assert_eq!(fields[..4], head);
        assert_eq!(fields[4..], ["cache-control: no-cache"]);
        assert_eq!(
            decoded(&mut decoder, third).unwrap(),
            [
                ":method: GET",
                ":scheme: https",
                ":path: /index.html",
                ":authority: www.example.com",
                "custom-key: custom-value"
            ]
        );
        assert_eq!(
            table(&decoder),
            ["custom-key: custom-value", "cache-control: no-cache", ":authority: www.example.com"]
        );
        assert_eq!(decoder.size, 164);
    }
}

const RESPONSES: [[&str; 3]; 2] = [
    [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a \
         3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 \
         677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 \
         553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
    ],
    [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e \
         919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 \
         821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed \
         4ee5 b106 3d50 07",
    ],
];

#[test]
fn c_5_and_c_6_responses_with_eviction() {
    for [first, second, third] in RESPONSES {
        let mut decoder = Decoder::from_start(4096);
        // The examples assume a table of 256.
        decoder.agreed = Some(256);
        let rest = [
            "cache-control: private",
            "date: Mon, 21 Oct 2013 20:13:21 GMT",
            "location: https://www.example.com",
        ];
        let fields = decoded(&mut decoder, first).unwrap();
        assert_eq!(
            (fields[0].as_str(), &fields[1..]),
            (":status: 302", &rest.map(String::from)[..])
        );
        assert_eq!(decoder.size, 222);
        let fields = decoded(&mut decoder, second).unwrap();
        assert_eq!(
            (fields[0].as_str(), &fields[1..]),
            (":status: 307", &rest.map(String::from)[..])
        );
        assert_eq!(decoder.size, 222);
        assert_eq!(
            decoded(&mut decoder, third).unwrap(),
            [
                ":status: 200",
                "cache-control: private",
                "date: Mon, 21 Oct 2013 20:13:22 GMT",
                "location: https://www.example.com",
                "content-encoding: gzip",
                "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            ]
        );
        assert_eq!((table(&decoder).len(), decoder.size), (3, 215));
    }
}

#[test]
fn who_joins_late_knows_what_was_added_since_and_nothing_before() {
    let [_, second, third] = REQUESTS[0];
    let mut decoder = Decoder::joined(4096);
    assert_eq!(decoded(&mut decoder, second).unwrap()[3..], ["?: ?", "cache-control: no-cache"]);
    assert_eq!(decoded(&mut decoder, third).unwrap()[3], "?: ?");
    assert_eq!(decoded(&mut decoder, "bf").unwrap(), ["cache-control: no-cache"]);
}

#[test]
fn a_known_value_under_an_unknown_name_stays_so() {
    let mut decoder = Decoder::joined(4096);
    assert_eq!(decoded(&mut decoder, "7e 01 61").unwrap(), ["?: a"]);
    assert_eq!(decoded(&mut decoder, "be").unwrap(), ["?: a"]);
}

#[test]
fn an_entry_that_we_do_not_keep_is_still_counted() {
    // Room for one small entry, while the peers have 4096.
    for mut decoder in [Decoder::from_start(40), Decoder::joined(40)] {
        decoded(&mut decoder, "40 01 61 01 62").unwrap();
        let large = format!("40 01 63 14 {}", "64".repeat(20));
        decoded(&mut decoder, &large).unwrap();
        assert_eq!(decoded(&mut decoder, "be").unwrap(), ["?: ?"], "not `a: b`");
        assert_eq!(decoded(&mut decoder, "bf").unwrap(), ["?: ?"], "dropped for it");
        decoded(&mut decoder, "40 01 65 01 66").unwrap();
        assert_eq!(decoded(&mut decoder, "be").unwrap(), ["e: f"]);
    }
}

#[test]
fn a_new_size_empties_the_table() {
    let mut decoder = Decoder::from_start(4096);
    decoded(&mut decoder, REQUESTS[0][0]).unwrap();
    assert_eq!(decoded(&mut decoder, "20 3f e1 1f 82").unwrap(), [":method: GET"]);
    assert!(table(&decoder).is_empty());
    assert_eq!(decoded(&mut decoder, "be"), Err(Corrupt), "there is nothing");
}

#[test]
fn what_cannot_be_is_corrupt() {
    for hex in ["80", "be", "ff ff ff ff ff ff", "82 20", "00 85 ff ff ff ff ff", "40", "00 05 61"]
    {
        assert_eq!(decoded(&mut Decoder::from_start(4096), hex), Err(Corrupt), "{hex}");
    }
}

#[test]
fn of_a_cut_block_the_beginning_is_read_and_the_table_is_unknown_after() {
    let block = bytes(REQUESTS[1][0]);
    for len in 0..block.len() {
        let mut decoder = Decoder::from_start(4096);
        let mut fields = Vec::new();
        decoder.decode(&block[..len], false, |field| fields.push(shown(field))).unwrap();
        assert_eq!(fields.len(), len.min(3));
        assert_eq!(decoded(&mut decoder, "be").unwrap(), ["?: ?"]);
    }
}
