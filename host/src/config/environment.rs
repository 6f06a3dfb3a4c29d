//! Environment variables.
//!
//! In: variables, ours or those that DataKit's file lists under `envs`. Out: a [`Layer`]. It
//! reads no environment itself, and variables that are nobody's option are left alone.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{
    layers::Layer,
    options::{Kind, Options},
    units,
};

/// Variables that begin like this are meant for the collector, so an unknown one is a slip.
const OURS: [&str; 3] = ["ENV_INPUT_EBPF_", "DKE_K8S_", "DKE_NETLOG_"];

/// Reads variables; `place` is added to each name to say where they stand, empty for our own
/// environment.
pub(crate) fn read(
    options: &Options,
    variables: impl IntoIterator<Item = (String, String)>,
    place: &str,
) -> Result<Layer> {
    let mut variables: BTreeMap<String, String> = variables
        .into_iter()
        .map(|(name, text)| (name.trim().to_owned(), text.trim().to_owned()))
        .collect();
    let mut layer = Layer::default();
    for entry in options.iter() {
        let said: Vec<(&String, String)> = entry
            .env
            .iter()
            .filter_map(|name| Some((name, variables.remove(name)?)))
            .filter(|(_, text)| entry.counts(&[text]))
            .collect();
        let Some((name, text)) = said.into_iter().next() else { continue };
        let origin = format!("{name}{place}");
        let items = match entry.kind {
            Kind::Switch => vec![is_on(&text, &origin, &mut layer.warnings).to_string()],
            kind => kind.items(&text)?,
        };
        layer.add(entry, items, origin);
    }
    let unknown = variables.keys().filter(|name| OURS.iter().any(|ours| name.starts_with(ours)));
    layer.warnings.extend(unknown.map(|name| format!("unknown variable {name}{place} is ignored")));
    Ok(layer)
}

/// A switch as DataKit reads it: off if empty or a way to say false, else on.
fn is_on(text: &str, origin: &str, warnings: &mut Vec<String>) -> bool {
    if text.is_empty() {
        return false;
    }
    units::switch(text).unwrap_or_else(|unfit| {
        warnings.push(format!("{origin}: \"{text}\" {unfit}; it is taken for true"));
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_ok(variables: &[(&str, &str)]) -> Layer {
        let variables = variables.iter().map(|&(name, text)| (name.to_owned(), text.to_owned()));
        read(&Options::load().unwrap(), variables, "").unwrap()
    }

    fn items(layer: &Layer, name: &str) -> Option<Vec<String>> {
        layer.get(name).map(|given| given.items.clone())
    }

    fn of(items: &[&str]) -> Vec<String> {
        items.iter().map(|&item| item.to_owned()).collect()
    }

    #[test]
    fn names_and_values_are_trimmed() {
        let layer = read_ok(&[(" ENV_INPUT_EBPF_INTERVAL ", " 90s\n")]);
        assert_eq!(items(&layer, "interval"), Some(of(&["90s"])));
    }

    #[test]
    fn the_launchers_own_spelling_of_the_label_prefix_is_read() {
        let layer = read_ok(&[("K8S_WORKLOAD_LABEL_PREFIX", "label_")]);
        assert_eq!(items(&layer, "k8s-workload-label-prefix"), Some(of(&["label_"])));
    }

    #[test]
    fn an_old_name_counts_only_where_the_new_one_is_silent() {
        let old = ("ENV_NETLOG_LOG", "true");
        assert_eq!(items(&read_ok(&[old]), "netlog-log"), Some(of(&["true"])));
        let both = read_ok(&[old, ("ENV_INPUT_EBPF_NETLOG_LOG", "false")]);
        assert_eq!(items(&both, "netlog-log"), Some(of(&["false"])));
        assert!(both.warnings.is_empty());
    }

    #[test]
    fn a_switch_is_off_when_empty_and_on_when_it_is_any_other_word() {
        for (text, on) in [("", "false"), ("0", "false"), ("False", "false"), ("yes", "true")] {
            let layer = read_ok(&[("ENV_INPUT_EBPF_IPV6_DISABLED", text)]);
            assert_eq!(items(&layer, "ipv6-disabled"), Some(of(&[on])), "{text:?}");
            assert_eq!(layer.warnings.len(), usize::from(text == "yes"), "{text:?}");
        }
    }

    #[test]
    fn an_empty_text_says_nothing_and_an_empty_list_does() {
        let layer = read_ok(&[
            ("ENV_INPUT_EBPF_MEM_LIMIT", ""),
            ("ENV_INPUT_EBPF_ENABLED_PLUGINS", " "),
            ("ENV_INPUT_EBPF_L7NET_ENABLED", ""),
        ]);
        assert_eq!(items(&layer, "res-mem"), None);
        assert_eq!(items(&layer, "enabled"), None);
        assert_eq!(items(&layer, "l7net-enabled"), Some(of(&[])));
    }

    #[test]
    fn an_unknown_variable_of_ours_is_a_warning() {
        let layer = read_ok(&[("ENV_INPUT_EBPF_INTERVALL", "90s"), ("PATH", "/bin")]);
        assert_eq!(layer.warnings, ["unknown variable ENV_INPUT_EBPF_INTERVALL is ignored"]);
    }
}
