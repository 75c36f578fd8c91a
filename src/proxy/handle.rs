use std::{fmt, sync::Arc};

use super::state::Shared;
use crate::{backend::Backend, config::Config};

/// Controls an [`OpenAiProxyLayer`](super::OpenAiProxyLayer), its clones, and the services made of
/// them while they run.
///
/// ```
/// # use tower_openai_proxy::{BackendConfig, Config, OpenAiProxyLayer};
/// let layer = OpenAiProxyLayer::from_config(Config::default());
/// let handle = layer.handle();
///
/// let local = BackendConfig::new("local", "http://127.0.0.1:11434/v1");
/// handle.reload(Config::builder().backend(local).build()?);
///
/// assert_eq!(handle.backends()[0].name(), "local");
/// # Ok::<(), tower_openai_proxy::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Replaces the configuration.
    ///
    /// Exchanges in flight finish on the one they began with. Connections stay, and so does what is
    /// known of the health of backends whose name and URL stay. The [warnings](Config::warnings) of
    /// the new configuration are logged.
    pub fn reload(&self, config: Config) {
        self.shared.reload(&config);
    }

    /// Starts draining: from now on requests are answered with 503 and `Connection: close`, and
    /// health says `draining`. Exchanges in flight go on. This can't be undone.
    pub fn drain(&self) {
        self.shared.drain();
    }

    /// Whether [`drain`](Self::drain) has been called.
    pub fn is_draining(&self) -> bool {
        self.shared.is_draining()
    }

    /// The backends, in the order of the configuration.
    pub fn backends(&self) -> Arc<[Backend]> {
        self.shared.backends()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("backends", &self.backends())
            .field("is_draining", &self.is_draining())
            .finish()
    }
}
