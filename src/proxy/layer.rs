use std::{
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tower::{Layer, ServiceBuilder};

use super::service::OpenAiProxy;
use crate::{
    auth::{AuthPassthrough, AuthPassthroughLayer},
    backend::Backend,
    config::Config,
    endpoint,
    forward::Forward,
    model::{ModelOverride, ModelOverrideLayer},
    route::{BackendRoute, BackendRouteLayer, Rule},
    timeout::{Timeout, TimeoutLayer},
};

/// Applies [`OpenAiProxy`] to a service.
///
/// A layer, its clones and the services made of them share the connections to the backends and the
/// configuration, which [`reload`](Self::reload) replaces for all of them.
#[derive(Clone)]
pub struct OpenAiProxyLayer<F = Forward> {
    shared: Arc<Shared>,
    forward: F,
}

/// What the requests that are ours go through.
pub(super) type Stack<F> = AuthPassthrough<BackendRoute<ModelOverride<Timeout<F>>>>;

/// What a layer and its services share.
pub(super) struct Shared {
    mount: Mount,
    current: RwLock<Arc<Settings>>,
    /// That of the current settings, to be looked at without a lock.
    generation: AtomicU64,
    is_draining: AtomicBool,
}

/// What the host says, whatever the configuration is.
#[derive(Clone, Default)]
pub(super) struct Mount {
    pub(super) paths: endpoint::Mount,
    pub(super) health_path: Option<Arc<str>>,
    rule: Option<Arc<dyn Rule>>,
}

/// What the configuration says.
#[derive(Clone)]
pub(super) struct Settings {
    generation: u64,
    auth: AuthPassthroughLayer,
    route: BackendRouteLayer,
    pub(super) max_body_bytes: u64,
    pub(super) idle_timeout: Duration,
    pub(super) total_timeout: Option<Duration>,
}

impl OpenAiProxyLayer {
    /// Proxies to the backends of this configuration. Its [warnings](Config::warnings) are logged.
    pub fn from_config(config: Config) -> Self {
        let layer = Self::with_forward(config, Forward::new());
        layer.forward.prepare(&layer.backends());
        layer
    }

    /// The same layer with connections of its own, for a thread with a runtime of its own. The
    /// configuration and what is known of the backends stay shared.
    #[must_use]
    pub fn with_separate_pool(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            forward: self.forward.with_separate_pool(),
        }
    }
}

impl<F> OpenAiProxyLayer<F> {
    /// Sends requests by this service in place of [`Forward`]: a client of one's own, or a
    /// stand-in in a test.
    pub fn with_forward(config: Config, forward: F) -> Self {
        warn(&config);
        Self {
            shared: Arc::new(Shared::new(
                Mount::default(),
                Settings::new(&config, 0, BackendRouteLayer::from_config(&config)),
            )),
            forward,
        }
    }

    /// Where the endpoint is: `/chat/completions` below each of these paths. They take the place of
    /// the usual two, `/` and `/v1`.
    ///
    /// ```
    /// # use tower_openai_proxy::{Config, OpenAiProxyLayer};
    /// // POST /llm/v1/chat/completions
    /// let layer = OpenAiProxyLayer::from_config(Config::default()).with_prefixes(["/llm/v1"]);
    /// ```
    #[must_use]
    pub fn with_prefixes<P: AsRef<str>>(self, prefixes: impl IntoIterator<Item = P>) -> Self {
        self.mounted(|mount| mount.paths.set_prefixes(prefixes))
    }

    /// Answers `GET` and `HEAD` at this path, such as `/health`, with the state of the backends.
    /// Off by default, so that an application's own stays its own.
    #[must_use]
    pub fn with_health(self, path: impl Into<String>) -> Self {
        let path = path.into().into();
        self.mounted(|mount| mount.health_path = Some(path))
    }

    /// Chooses the backends of each request by a rule of one's own: see
    /// [`BackendRouteLayer::with_rule`].
    #[must_use]
    pub fn with_rule<R: Rule>(self, rule: R) -> Self {
        let rule: Arc<dyn Rule> = Arc::new(rule);
        self.mounted(|mount| mount.rule = Some(rule))
    }

    /// The same layer mounted otherwise. Services made of it before keep what they have.
    fn mounted(self, change: impl FnOnce(&mut Mount)) -> Self {
        let mut mount = self.shared.mount.clone();
        change(&mut mount);
        let mut settings = (*self.shared.current()).clone();
        if let Some(rule) = mount.rule.clone() {
            settings.route = settings.route.with_shared_rule(rule);
        }
        Self {
            shared: Arc::new(Shared::new(mount, settings)),
            ..self
        }
    }

    /// Replaces the configuration for this layer, its clones, and the services made of them.
    ///
    /// Exchanges in flight finish on the one they began with. Connections stay, so those to
    /// backends that haven't changed are used again. The [warnings](Config::warnings) of the new one
    /// are logged.
    ///
    /// ```
    /// # use tower_openai_proxy::{BackendConfig, Config, OpenAiProxyLayer};
    /// let layer = OpenAiProxyLayer::from_config(Config::default());
    ///
    /// let local = BackendConfig::new("local", "http://127.0.0.1:11434/v1");
    /// layer.reload(Config::builder().backend(local).build()?);
    ///
    /// assert_eq!(layer.backends()[0].name(), "local");
    /// # Ok::<(), tower_openai_proxy::ConfigError>(())
    /// ```
    pub fn reload(&self, config: Config) {
        warn(&config);
        self.shared.replace(&config);
    }

    /// Begins to wind down: from now on requests are answered with 503 and `Connection: close`, and
    /// health says `draining`. Exchanges in flight go on. There is no way back.
    pub fn drain(&self) {
        self.shared.is_draining.store(true, Ordering::Relaxed);
    }

    /// Whether [`drain`](Self::drain) has been called.
    pub fn is_draining(&self) -> bool {
        self.shared.is_draining()
    }

    /// The backends, in the order of the configuration.
    pub fn backends(&self) -> Arc<[Backend]> {
        self.shared.current().backends()
    }
}

fn warn(config: &Config) {
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
}

impl Shared {
    fn new(mount: Mount, settings: Settings) -> Self {
        Self {
            mount,
            generation: AtomicU64::new(settings.generation),
            current: RwLock::new(Arc::new(settings)),
            is_draining: AtomicBool::new(false),
        }
    }

    fn replace(&self, config: &Config) {
        let mut route = BackendRouteLayer::from_config(config);
        if let Some(rule) = self.mount.rule.clone() {
            route = route.with_shared_rule(rule);
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let generation = current.generation + 1;
        *current = Arc::new(Settings::new(config, generation, route));
        self.generation.store(generation, Ordering::Release);
    }

    pub(super) fn mount(&self) -> &Mount {
        &self.mount
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    pub(super) fn current(&self) -> Arc<Settings> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    /// Whether these settings have been replaced.
    pub(super) fn is_outdated(&self, settings: &Settings) -> bool {
        self.generation.load(Ordering::Acquire) != settings.generation
    }
}

impl Settings {
    fn new(config: &Config, generation: u64, route: BackendRouteLayer) -> Self {
        let settings = &config.settings;
        Self {
            generation,
            auth: AuthPassthroughLayer::new().with_required(settings.require_auth),
            route,
            max_body_bytes: settings.max_body_bytes,
            idle_timeout: settings.idle_timeout,
            total_timeout: settings.total_timeout,
        }
    }

    /// The order of the stages.
    pub(super) fn stack<F>(&self, forward: F) -> Stack<F> {
        ServiceBuilder::new()
            .layer(self.auth)
            .layer(self.route.clone())
            .layer(ModelOverrideLayer::new())
            .layer(TimeoutLayer::new())
            .service(forward)
    }

    pub(super) fn backends(&self) -> Arc<[Backend]> {
        self.route.shared_backends()
    }
}

impl<S, F: Clone> Layer<S> for OpenAiProxyLayer<F> {
    type Service = OpenAiProxy<S, F>;

    fn layer(&self, inner: S) -> OpenAiProxy<S, F> {
        OpenAiProxy::new(inner, self.shared.clone(), self.forward.clone())
    }
}

impl<F> fmt::Debug for OpenAiProxyLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiProxyLayer")
            .field("backends", &self.backends())
            .finish_non_exhaustive()
    }
}
