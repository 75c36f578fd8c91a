//! How much a client may use.

/// How much a client may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) requests_per_minute: Option<u32>,
    /// Requests, streams and tunnels included until their end.
    pub(crate) max_in_flight: Option<u32>,
}
