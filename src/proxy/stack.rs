use tower::ServiceBuilder;

use super::state::State;
use crate::{
    auth::AuthPassthrough,
    model::{ModelOverride, ModelOverrideLayer},
    models::MergeModels,
    observe::Observe,
    ping::Ping,
    route::BackendRoute,
    timeout::{Deadline, Timeout, TimeoutLayer},
};

/// What proxied requests go through.
pub(super) type Stack<F> =
    Ping<Observe<Deadline<AuthPassthrough<MergeModels<BackendRoute<ModelOverride<Timeout<F>>>>>>>>;

/// The order of the stages.
pub(super) fn stack<F>(state: &State, forward: F) -> Stack<F> {
    ServiceBuilder::new()
        .layer(state.ping.clone())
        .layer(state.observe.clone())
        .layer(state.deadline.clone())
        .layer(state.auth.clone())
        .layer(state.models.clone())
        .layer(state.route.clone())
        .layer(ModelOverrideLayer::new())
        .layer(TimeoutLayer::new())
        .service(forward)
}
