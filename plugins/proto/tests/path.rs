//! Budgets of paths: what holds for any paths in any order.

use std::collections::BTreeSet;

use plugin_proto::path::{Limits, Paths};
use proptest::prelude::*;

fn path() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        Just(String::new()),
        "[a-c]",
        "[0-9]{1,3}",
        "[0-9a-f]{32}",
        "[a-z]{1,3}",
        Just("*".to_owned())
    ];
    proptest::collection::vec(segment, 0..6).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn limits(budget: usize) -> Limits {
    Limits { budget, services: 4, text: 1 << 20, idle_rounds: 1 }
}

proptest! {
    #[test]
    fn names_that_rules_make_are_within_the_budget(
        paths in proptest::collection::vec(path(), 1..100),
        budget in 1..20usize,
    ) {
        let mut names = Paths::new(limits(budget));
        for path in &paths {
            names.name(0, path);
        }
        // Rules only grow: once all were seen, what they give stays.
        let last: BTreeSet<_> = paths.iter().map(|path| names.name(0, path).into_owned()).collect();
        prop_assert!(last.len() <= budget, "{:?}", last);
        let again: BTreeSet<_> = paths.iter().map(|path| names.name(0, path).into_owned()).collect();
        prop_assert_eq!(last, again);
    }

    #[test]
    fn names_do_not_depend_on_the_order_if_all_paths_are_shown_first(
        (paths, shuffled) in proptest::collection::vec(path(), 1..60)
            .prop_flat_map(|paths| (Just(paths.clone()), Just(paths).prop_shuffle())),
        budget in 8..20usize,
    ) {
        let name_all = |order: &[String]| -> Vec<String> {
            let mut names = Paths::new(limits(budget));
            for path in order {
                names.observe(0, path);
            }
            paths.iter().map(|path| names.name(0, path).into_owned()).collect()
        };
        prop_assert_eq!(name_all(&paths), name_all(&shuffled));
    }

    #[test]
    fn a_name_is_its_own_name(paths in proptest::collection::vec(path(), 1..60), budget in 1..9usize) {
        let mut names = Paths::new(limits(budget));
        for path in &paths {
            names.observe(0, path);
        }
        for path in &paths {
            let name = names.name(0, path).into_owned();
            let again = names.name(0, &name).into_owned();
            prop_assert_eq!(again, name);
        }
    }

    #[test]
    fn any_text_does_no_harm(paths in proptest::collection::vec(any::<String>(), 0..40)) {
        let mut names = Paths::new(Limits { text: 100, ..limits(3) });
        for path in &paths {
            names.name(0, path);
            prop_assert!(names.text() <= 100);
        }
    }
}
