//! Adds the tags that every point of this host carries. A tag that the plugin has set wins.

use bytes::Bytes;

use crate::pipeline::wire::{Batch, PbField};

/// The global tags, ready to be added.
#[derive(Debug)]
pub(crate) struct Enricher {
    tags: Vec<(Bytes, Bytes)>,
}

impl Enricher {
    /// `tags` are the operator's; `host` and `service` are set in any case. A given host name
    /// wins over a tag `host`, and that over the system's own name.
    pub(crate) fn new(tags: &[(String, String)], hostname: Option<&str>, service: &str) -> Self {
        let of_tag = tags.iter().find(|(key, _)| key == "host").map(|(_, value)| value.as_str());
        let host = hostname.or(of_tag).map_or_else(system_hostname, str::to_owned);
        let mut all: Vec<_> = tags
            .iter()
            .filter(|(key, _)| key != "host" && key != "service")
            .map(|(key, value)| (Bytes::from(key.clone()), Bytes::from(value.clone())))
            .collect();
        all.push((Bytes::from_static(b"host"), Bytes::from(host)));
        all.push((Bytes::from_static(b"service"), Bytes::from(service.to_owned())));
        Self { tags: all }
    }

    pub(crate) fn tag(&self, mut batch: Batch) -> Batch {
        for point in &mut batch.points {
            for (key, value) in &self.tags {
                if !point.has(key) {
                    point.fields.push(PbField::tag(key.clone(), value.clone()));
                }
            }
        }
        batch
    }
}

fn system_hostname() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "no-value".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::Enricher;
    use crate::pipeline::wire::tests::batch;

    fn tags(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_plugins_own_tag_is_not_overridden() {
        let enricher =
            Enricher::new(&tags(&[("src_ip", "x"), ("env", "prod")]), Some("node-1"), "ebpf");
        let batch = enricher.tag(batch());
        let point = &batch.points[0];
        assert_eq!(point.tag("src_ip"), "10.0.0.5");
        assert_eq!(point.tag("env"), "prod");
        assert_eq!((point.tag("host"), point.tag("service")), ("node-1".into(), "ebpf".into()));
    }

    #[test]
    fn the_host_name_is_the_flag_or_else_the_tag_or_else_the_systems() {
        let host = |tag: &[(&str, &str)], flag| {
            Enricher::new(&tags(tag), flag, "ebpf").tag(batch()).points[0].tag("host").into_owned()
        };
        assert_eq!(host(&[("host", "tag")], Some("flag")), "flag");
        assert_eq!(host(&[("host", "tag")], None), "tag");
        assert_ne!(host(&[], None), "");
    }

    #[test]
    fn a_custom_service_tag_gives_way_to_the_option() {
        let batch = Enricher::new(&tags(&[("service", "mine")]), None, "ebpf").tag(batch());
        let services = batch.points[0].fields.iter().filter(|field| field.key == "service");
        assert_eq!(services.map(|field| field.text()).collect::<Vec<_>>(), ["ebpf"]);
    }
}
