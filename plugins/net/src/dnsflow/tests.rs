pub(crate) const CLIENT: &str = "10.0.0.5:40000";
pub(crate) const SERVER: &str = "10.0.0.2:53";
