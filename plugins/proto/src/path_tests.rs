use super::*;

fn paths(budget: usize) -> Paths<u8> {
    Paths::new(Limits { budget, services: 2, text: 1 << 16, idle_rounds: 1 })
}

#[test]
fn words_are_words_and_values_are_values() {
    for word in [
        "",
        "api",
        "v1",
        "v12",
        "oauth2",
        "users",
        "index.html",
        "report-2024",
        "*",
        "2fa",
        "getUserById2",
        "a1b2",
        "ipv4",
        "héllo1",
        "very-long-name-of-some-route-2",
    ] {
        assert!(!is_value(word), "{word}");
    }
    for value in [
        "0",
        "42",
        "2024-05-01",
        "10.0.0.1",
        "-12",
        "12,13",
        "deadbeef00",
        "550e8400-e29b-41d4-a716-446655440000",
        "550E8400E29B41D4A716446655440000",
        "dGhpcyBpcyBhIHRva2VuIDE3",
        "eyJhbGciOiJIUzI1NiJ9",
        "01hq3z5k7m9n1p3r5t7v9x1z3b",
    ] {
        assert!(is_value(value), "{value}");
    }
}

#[test]
fn within_the_budget_each_path_is_its_own_name() {
    let mut paths = paths(3);
    for path in ["/user/1", "/user/2", "/user/3", "/user/1"] {
        assert_eq!(paths.name(0, path), path);
    }
    assert_eq!(paths.counters(), Counters::default());
}

#[test]
fn beyond_the_budget_values_are_merged_first() {
    let mut paths = paths(3);
    for id in 0..4 {
        paths.name(0, &format!("/user/{id}/cart"));
    }
    assert_eq!(paths.name(0, "/user/17/cart"), "/user/*/cart");
    assert_eq!(paths.name(0, "/health"), "/health");
    assert_eq!(paths.name(1, "/user/17/cart"), "/user/17/cart", "the other service has its own");
    assert_eq!(paths.counters().merged, 2);
}

#[test]
fn then_the_position_with_the_most_segments_is_merged() {
    let mut paths = paths(3);
    for name in ["ann", "bob", "cid", "dan"] {
        paths.name(0, &format!("/user/{name}/cart"));
    }
    assert_eq!(paths.name(0, "/user/eve/cart"), "/user/*/cart");
    assert_eq!(paths.name(0, "/user/eve/orders"), "/user/*/orders");
}

#[test]
fn paths_of_too_many_lengths_are_all_one() {
    let mut paths = paths(3);
    let mut names = BTreeSet::new();
    for len in 0..40 {
        names.insert(paths.name(0, &"/a".repeat(len)).into_owned());
    }
    assert_eq!(paths.name(0, "/anything"), MERGED);
    assert!(names.len() <= 4, "{names:?}");
}

#[test]
fn a_budget_of_none_switches_it_off() {
    let mut paths = paths(0);
    for id in 0..1000 {
        let path = format!("/{id}");
        assert_eq!(paths.name(0, &path), path);
    }
    assert_eq!(paths.text(), 0);
}

#[test]
fn paths_of_too_many_services_are_counted() {
    let mut paths = paths(3);
    assert_eq!(paths.name(0, "/a"), "/a");
    assert_eq!(paths.name(1, "/a"), "/a");
    assert_eq!(paths.name(2, "/a"), MERGED);
    assert_eq!(paths.counters(), Counters { merged: 1, refused: 1 });
}

#[test]
fn a_service_that_was_not_heard_of_is_forgotten() {
    let mut paths = paths(3);
    for id in 0..9 {
        paths.name(0, &format!("/{id}"));
    }
    paths.end_round();
    assert_eq!(paths.name(0, "/10"), "/*", "rules stay while it is heard of");
    paths.end_round();
    paths.end_round();
    assert_eq!(paths.text(), 0);
    assert_eq!(paths.name(0, "/10"), "/10");
}

#[test]
fn text_is_bounded_whatever_is_asked_for() {
    let mut paths = Paths::new(Limits { budget: 100, services: 50, text: 1000, idle_rounds: 9 });
    for service in 0..50 {
        for id in 0..50 {
            paths.name(service, &format!("/{}/{}", "word".repeat(id), "x".repeat(id * 7)));
            assert!(paths.text() <= 1000);
        }
    }
}
