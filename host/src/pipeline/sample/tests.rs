//! What is kept, over many flows and minutes. Here: the points that are offered.

mod rate;
mod target;

use super::*;

/// A minute's begin.
const START_NS: i64 = 1_761_800_040_000_000_000;

const MINUTE_NS: i64 = 60_000_000_000;

/// Some of what the network plugin says of a flow.
fn flow(points: &mut Points, number: i64, time_ns: i64) {
    let mut point = points.point("netflow", time_ns);
    point.tag_display("src_ip", format_args!("10.0.{}.{}", number / 256 % 256, number % 256));
    point.tag("dst_ip", "10.96.0.1").tag("direction", "outgoing").tag("transport", "tcp");
    point.tag_display("src_port", 32_768 + number / 65_536);
    point.field("bytes_read", 5_i64);
}

/// One batch of `flows` per minute.
fn flows(flows: i64, minutes: i64) -> impl Iterator<Item = Points> {
    (0..minutes).map(move |minute| {
        let mut points = Points::new(Category::Network, "netflow");
        (0..flows).for_each(|number| flow(&mut points, number, START_NS + minute * MINUTE_NS));
        points
    })
}

/// A batch of one point for each group.
fn groups(feed: &'static str, groups: impl IntoIterator<Item = u64>) -> Points {
    let mut points = Points::new(Category::Network, feed);
    for group in groups {
        points.point("netflow", START_NS).group(group);
    }
    points
}
