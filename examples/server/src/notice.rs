//! What connections are told: that the server drains, or that descriptors run short.

use tokio::{sync::watch, time::Instant};

/// What all connections are told.
#[derive(Clone, Copy, Default)]
pub(crate) struct Notice {
    /// The server ends: each connection is to end behind its exchanges in flight.
    pub(crate) is_draining: bool,
    /// Descriptors run short: connections idle since this moment are to end.
    pub(crate) idle_since: Option<Instant>,
}

pub(crate) type Notices = watch::Receiver<Notice>;
