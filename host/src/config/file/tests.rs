use super::*;

fn parse_ok(text: &str) -> File {
    parse(&Options::load().unwrap(), text, "x.toml").unwrap()
}

fn error(text: &str) -> String {
    parse(&Options::load().unwrap(), text, "x.toml").unwrap_err().to_string()
}

fn items_of(layer: &Layer, name: &str) -> Vec<String> {
    layer.get(name).map(|given| given.items.clone()).unwrap_or_default()
}

#[test]
fn a_number_is_as_good_as_the_text_of_it() {
    for text in ["limit_cpu = 2.0", "limit_cpu = \"2.0\""] {
        let file = parse_ok(&format!("[resource_limit]\n{text}"));
        assert_eq!(items_of(&file.keys, "res-cpu"), ["2.0"]);
    }
}

#[test]
fn the_place_of_a_value_is_its_path_and_file() {
    let file = parse_ok("[resource_limit]\nlimit_cpu = 2");
    let given = file.keys.get("res-cpu").unwrap();
    assert_eq!(given.origin, "resource_limit.limit_cpu in x.toml");
}

#[test]
fn an_unknown_key_of_our_own_layout_is_an_error_that_names_it() {
    for (text, key) in [
        ("intervall = 1", "intervall"),
        ("[sampling]\nrat = 1", "sampling.rat"),
        ("[samplin]\nrate = 1", "samplin"),
        ("sampling = 1", "sampling"),
    ] {
        assert!(error(text).starts_with(&format!("unknown key {key} in x.toml;")), "{text}");
    }
}

#[test]
fn an_unknown_key_of_datakits_layout_is_a_warning() {
    let file = parse_ok("[[inputs.ebpf]]\nname = 'ebpf'\nbrand_new = 1\ninterval = '90s'");
    assert_eq!(file.keys.warnings, ["unknown key brand_new in x.toml is ignored"]);
    assert_eq!(items_of(&file.keys, "interval"), ["90s"]);
}

#[test]
fn args_are_flags_and_envs_are_variables() {
    let file = parse_ok(
        "[[inputs.ebpf]]\nargs = ['--res-net', '1MB']\nenvs = ['DKE_K8S_URL=https://k?a=b']",
    );
    let given = file.args.get("res-bandwidth").unwrap();
    assert_eq!(given.origin, "--res-net in args in x.toml");
    assert_eq!(items_of(&file.environment, "k8s-url"), ["https://k?a=b"]);
}

#[test]
fn tags_are_a_table_or_an_array_and_only_the_array_is_split_further() {
    let table = parse_ok("[[inputs.ebpf]]\n[inputs.ebpf.tags]\na = '1;2'\nb = 2");
    assert_eq!(items_of(&table.keys, "tags"), ["a=1;2", "b=2"]);
    let array = parse_ok("tags = ['a=1;b=2', 'c=3']");
    assert_eq!(items_of(&array.keys, "tags"), ["a=1", "b=2", "c=3"]);
}

#[test]
fn the_tables_of_plugins_pass_through() {
    let file = parse_ok("[plugins.mine]\ndepth = 3\n[plugins.mine.more]\nx = 'y'");
    assert_eq!(file.plugins["mine"]["depth"].as_integer(), Some(3));
    assert_eq!(file.plugins["mine"]["more"]["x"].as_str(), Some("y"));
    assert_eq!(error("[plugins]\nmine = 3"), "plugins.mine in x.toml is not a table");
}

#[test]
fn a_value_of_the_wrong_shape_is_an_error_that_says_the_right_one() {
    assert_eq!(error("interval = [1]"), "interval in x.toml: [1] is not a text; write \"...\"");
    assert!(error("enabled = [[]]").ends_with("is not a list; write [\"a\", \"b\"]"));
}

#[test]
fn a_file_that_is_no_toml_or_is_missing_is_one_sentence() {
    assert!(error("interval = '1s'\nservice = ").starts_with("x.toml, line 2: "));
    assert!(!error("a = ").contains('\n'));
    let missing = read(&Options::load().unwrap(), Path::new("/nowhere/x")).unwrap_err();
    assert!(format!("{missing:#}").starts_with("--config: read /nowhere/x: No such file"));
}
