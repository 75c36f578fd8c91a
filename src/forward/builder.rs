//! The settings of `Forward`.

use std::{sync::Arc, time::Duration};

use super::{
    Forward,
    connect::Connector,
    pool::{Limits, Pool},
};

/// Builds a [`Forward`].
///
/// ```
/// use std::time::Duration;
/// use tower_openai_proxy::Forward;
///
/// let forward = Forward::builder()
///     .max_idle_per_origin(32)
///     .pool_idle_timeout(Duration::from_secs(30))
///     .build();
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ForwardBuilder {
    limits: Limits,
}

impl ForwardBuilder {
    /// How many idle connections are kept for each scheme, host and port. 0 keeps none. Default: 512.
    ///
    /// HTTP/2 connections, which are shared, don't count.
    pub fn max_idle_per_origin(mut self, connections: usize) -> Self {
        self.limits.max_idle_per_origin = connections;
        self
    }

    /// How long a connection is kept while it is idle. Default: 90 seconds.
    ///
    /// This is best shorter than the backend's own limit. Whatever it is, a connection that is older
    /// than 10 minutes isn't used again.
    pub fn pool_idle_timeout(mut self, period: Duration) -> Self {
        self.limits.idle_timeout = period;
        self
    }

    /// Makes the client.
    pub fn build(self) -> Forward {
        Forward {
            pool: Arc::new(Pool::new(Arc::new(Connector::new()), self.limits)),
        }
    }
}
