use super::*;

#[test]
fn a_duration_is_read_as_go_reads_it() {
    for (text, millis) in [
        ("60s", 60_000),
        ("1m30s", 90_000),
        ("1.5m", 90_000),
        ("90s", 90_000),
        ("300ms", 300),
        ("2h", 7_200_000),
        ("1h0m0.5s", 3_600_500),
        ("2000us", 2),
        ("2000µs", 2),
        ("0", 0),
    ] {
        assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
    }
}

#[test]
fn a_text_that_is_no_duration_is_refused() {
    for text in ["", "120", "s", "1 m", "-5s", "1d", "1.2.3s", ".s", "1e3s", "1mm", "9999999h"] {
        assert!(duration(text).is_err(), "{text}");
    }
}

#[test]
fn every_spelling_of_a_unit_is_a_size() {
    for (text, bytes) in [
        ("2MB", 2_000_000),
        ("2MiB", 2_097_152),
        ("2mib", 2_097_152),
        ("4gib", 4_294_967_296),
        ("1.5G", 1_500_000_000),
        ("3k", 3_000),
        ("3KB", 3_000),
        ("3KiB", 3_072),
        ("3Ki", 3_072),
        ("4Gi", 4_294_967_296),
        ("4 GiB", 4_294_967_296),
        ("1TB", 1_000_000_000_000),
        ("1T", 1_000_000_000_000),
        ("1TiB", 1_099_511_627_776),
        ("1024", 1_024),
        ("1024B", 1_024),
        ("0", 0),
    ] {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
}

#[test]
fn a_text_that_is_no_size_is_refused() {
    for text in [
        "",
        "4XB",
        "MB",
        "-1MB",
        "+1MB",
        "1e3",
        "inf",
        "nan",
        "5i",
        "5iB",
        "1.2.3M",
        "1MB/s",
        "99999999999TiB",
        "5BB",
    ] {
        assert!(size(text).is_err(), "{text}");
    }
    assert!(size_above_0("0KB").is_err());
}

#[test]
fn a_bandwidth_may_say_per_second() {
    for text in ["100MiB/s", "100MiB/S", "100MiB", "100 MiB /s", "104857600"] {
        assert_eq!(bandwidth(text), Ok(104_857_600), "{text}");
    }
    assert!(bandwidth("100MiB/m").is_err());
}

#[test]
fn a_number_out_of_its_range_is_refused() {
    assert_eq!(cores("2.0"), Ok(2.0));
    assert_eq!(cores("0"), Ok(0.0));
    assert!(cores("-1").is_err() && cores("two").is_err() && cores("inf").is_err());
    assert_eq!(sampling_rate("0.50"), Ok(0.5));
    assert_eq!(sampling_rate("1.00"), Ok(1.0));
    assert!(sampling_rate("0").is_err() && sampling_rate("0.009").is_err());
    assert!(sampling_rate("1.01").is_err() && sampling_rate("abc").is_err());
    assert_eq!(points_per_minute("1500"), Ok(1500.0));
    assert!(points_per_minute("0").is_err());
}

#[test]
fn a_negative_ephemeral_port_is_none_and_one_above_65535_is_refused() {
    assert_eq!(ephemeral_port("-1"), Ok(0));
    assert_eq!(ephemeral_port("65535"), Ok(65_535));
    assert!(ephemeral_port("65536").is_err() && ephemeral_port("http").is_err());
}

#[test]
fn a_switch_is_read_as_go_reads_it() {
    for text in ["1", "t", "T", "TRUE", "true", "True"] {
        assert_eq!(switch(text), Ok(true), "{text}");
    }
    for text in ["0", "f", "F", "FALSE", "false", "False"] {
        assert_eq!(switch(text), Ok(false), "{text}");
    }
    for text in ["", "yes", "tRUE"] {
        assert!(switch(text).is_err(), "{text}");
    }
}

#[test]
fn an_address_without_a_scheme_is_http() {
    for (text, url) in [
        ("0.0.0.0:9529", "http://0.0.0.0:9529"),
        ("http://dk:9529/", "http://dk:9529"),
        ("https://dk:9529", "https://dk:9529"),
        ("dk", "http://dk"),
        ("[::1]:9529", "http://[::1]:9529"),
    ] {
        assert_eq!(base_url(text).as_deref(), Ok(url));
    }
}

#[test]
fn an_address_with_more_than_host_and_port_is_refused() {
    for text in [
        "http://",
        "dk:",
        "dk:0",
        "dk:+1",
        "dk:99999",
        "dk:9529/v1",
        "a b:1",
        "u@dk:1",
        "::1",
        "[::1",
        "[dk]:1",
        "ftp://dk:1",
        "dk:1?x=1",
    ] {
        assert!(base_url(text).is_err(), "{text}");
    }
}

#[test]
fn an_address_to_listen_on_has_a_port_or_is_none() {
    assert_eq!(listen_address("none"), Ok(None));
    assert_eq!(listen_address("127.0.0.1:0"), Ok(Some("127.0.0.1:0".to_owned())));
    assert!(listen_address("127.0.0.1").is_err() && listen_address(":6061").is_err());
}
