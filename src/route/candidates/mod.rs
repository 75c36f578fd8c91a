//! Which backends could answer a request.

#[cfg(test)]
mod tests;

use http::request::Parts;

use super::granted;
use crate::{
    backend::Backend,
    body::RequestBody,
    error::{Error, Kind},
    model::Place,
};

/// Whether the model decides which of these are candidates.
pub(super) fn has_models(backends: &[Backend]) -> bool {
    backends.iter().any(|backend| backend.models().is_some())
}

/// Where the model of a request stands that may go to these.
pub(super) fn place(candidates: &[Backend], request: &Parts, body: &RequestBody) -> Place {
    let place = Place::of(request, body);
    let is_overridden = |backend: &Backend| backend.model().is_some();
    let decides = has_models(candidates) || granted::needs_model(&request.extensions);
    if decides && !candidates.iter().any(is_overridden) {
        place.without_override()
    } else {
        place
    }
}

/// Those that serve a model by the most specific of their patterns; at least one.
pub(super) fn serving(mut candidates: Vec<Backend>, model: &str) -> Result<Vec<Backend>, Error> {
    let best = candidates.iter().map(|it| it.specificity(model)).max();
    let Some(best) = best.flatten() else {
        return Err(Error::model_not_found(model));
    };
    candidates.retain(|backend| backend.specificity(model) == Some(best));
    Ok(candidates)
}

/// Those that WebSockets are sent to; at least one.
pub(super) fn taking_websockets(mut candidates: Vec<Backend>) -> Result<Vec<Backend>, Error> {
    candidates.retain(Backend::takes_websockets);
    if candidates.is_empty() {
        return Err(Error::new(Kind::WebSocketUnsupported));
    }
    Ok(candidates)
}
