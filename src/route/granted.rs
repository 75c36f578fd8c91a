//! Whether a client may use the model of its request.

use http::{Extensions, Method, request::Parts};

use crate::{
    client::Grant,
    endpoint,
    error::{Error, Kind},
    header::is_websocket,
    model::Place,
};

/// Whether the model decides if a request is allowed.
pub(super) fn needs_model(extensions: &Extensions) -> bool {
    Grant::of(extensions).is_some_and(|grant| grant.needs_model())
}

/// Fails where a client may not use this model, the one that it asks for; `None`: it can't be seen.
pub(super) fn check(
    grant: &Grant,
    model: Option<&str>,
    place: Place,
    request: &Parts,
) -> Result<(), Error> {
    let Parts {
        method, headers, ..
    } = request;
    let is_allowed = match model {
        Some(model) => grant.allows_model(model),
        None => {
            let is_upgrade = is_websocket(method, request.version, headers);
            grant.allows_unseen_model(method, endpoint::path_of(request), is_upgrade)
        }
    };
    match model {
        _ if is_allowed => Ok(()),
        // As if it weren't there: it isn't in the client's list of models either.
        Some(model) if place == Place::Path && *method != Method::DELETE => {
            Err(Error::model_not_found(model))
        }
        _ => Err(Error::new(Kind::ModelNotAllowed).with_param("model")),
    }
}
