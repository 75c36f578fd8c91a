use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::watch;

use crate::{
    auth::AuthPassthroughLayer, backend::Backend, config::Config, endpoint, keys::KeysLayer,
    models::MergeModelsLayer, observe::ObserveLayer, ping::PingLayer, route::BackendRouteLayer,
    timeout::DeadlineLayer,
};

/// What a layer, its clones, its handle and its services share.
pub(super) struct Shared {
    pub(super) paths: endpoint::Mount,
    pub(super) health_path: Option<Box<str>>,
    state: watch::Sender<Arc<State>>,
    is_draining: AtomicBool,
    prepare: Option<Prepare>,
}

/// Makes the client of backends ready for a configuration.
pub(super) type Prepare = Arc<dyn Fn(&Config) + Send + Sync>;

/// What the configuration says. A reload replaces it.
pub(super) struct State {
    pub(super) keys: KeysLayer,
    pub(super) ping: PingLayer,
    pub(super) observe: ObserveLayer,
    pub(super) deadline: DeadlineLayer,
    pub(super) auth: AuthPassthroughLayer,
    pub(super) models: MergeModelsLayer,
    pub(super) route: BackendRouteLayer,
}

impl State {
    pub(super) fn new(config: &Config, observe: ObserveLayer, route: BackendRouteLayer) -> Self {
        Self {
            keys: KeysLayer::from_config(config),
            ping: PingLayer::from_config(config),
            observe,
            deadline: DeadlineLayer::from_config(config),
            auth: AuthPassthroughLayer::from_config(config),
            models: MergeModelsLayer::from_config(config),
            route,
        }
    }

    pub(super) fn backends(&self) -> Arc<[Backend]> {
        self.route.shared_backends()
    }
}

impl Shared {
    pub(super) fn new(
        paths: endpoint::Mount,
        health_path: Option<Box<str>>,
        prepare: Option<Prepare>,
        state: State,
    ) -> Self {
        Self {
            prepare,
            paths,
            health_path,
            state: watch::Sender::new(Arc::new(state)),
            is_draining: AtomicBool::new(false),
        }
    }

    pub(super) fn reload(&self, config: &Config) {
        warn(config);
        if let Some(prepare) = &self.prepare {
            prepare(config);
        }
        self.state.send_modify(|state| {
            let route = BackendRouteLayer::reloaded(config, Some(&state.route));
            let keys = KeysLayer::reloaded(config, Some(&state.keys));
            *state = Arc::new(State {
                keys,
                ..State::new(config, state.observe.clone(), route)
            });
        });
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    pub(super) fn backends(&self) -> Arc<[Backend]> {
        self.state.borrow().backends()
    }

    pub(super) fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }
}

/// Logs what is dangerous in a configuration.
pub(super) fn warn(config: &Config) {
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
}
