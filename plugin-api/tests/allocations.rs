//! What a batch costs the plugin that fills it; the crate's documentation quotes it.

use std::net::Ipv4Addr;

use plugin_api::{Category, Points};

#[test]
fn ten_thousand_points_cost_a_plugin_less_than_one_allocation_per_hundred() {
    let points = 10_000;
    let mut batch = Points::new(Category::Network, "flows");
    let cost = allocation_counter::measure(|| {
        for number in 0..points {
            let mut point = batch.point("flow", i64::from(number));
            let ip = point.text(Ipv4Addr::from_bits(number));
            for key in ["src_ip", "client_ip", "dst_ip", "server_ip"] {
                point.tag(key, ip);
            }
            for key in ["pid", "netns", "src_port", "dst_port", "process_name", "other_port"] {
                point.tag_display(key, number);
            }
            for key in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"] {
                point.tag(key, "a constant");
            }
            for key in ["n", "o", "p", "q", "r", "s", "t", "u", "v"] {
                point.field(key, i64::from(number));
            }
        }
    });
    println!("{} allocations for {} points", cost.count_total, batch.len());
    assert_eq!(batch.len(), points as usize);
    assert!(cost.count_total < 100, "{} allocations", cost.count_total);
}
