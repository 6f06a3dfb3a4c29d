//! Reports to the host, in batches of a size that it takes well.

use plugin_api::{Category, Host, Points};

/// Points in one batch.
const BATCH: usize = 512;

/// Sends a point for each item, which `add` makes of it.
pub(crate) fn send<T>(
    host: &Host,
    feed: &'static str,
    items: impl IntoIterator<Item = T>,
    add: impl Fn(&mut Points, T),
) {
    let empty = || Points::new(Category::Network, feed);
    let mut points = empty();
    for item in items {
        add(&mut points, item);
        if points.len() == BATCH {
            // What the host has no room for, the host counts.
            host.send(std::mem::replace(&mut points, empty()));
        }
    }
    host.send(points);
}
