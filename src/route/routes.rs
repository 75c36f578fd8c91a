//! Which backends a request goes to, and in which order: what the configuration says, and what
//! decides of the request.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, request::Parts};

use super::{
    candidates::{has_models, place, serving, taking_websockets},
    granted,
    select::{Affinity, LeastBusy, Order, Select, Selection},
    value,
};
use crate::{
    affinity::Source,
    backend::Backend,
    body::{Budget, RequestBody, Scan},
    client::Grant,
    config::{Balance, Config},
    endpoint::Matched,
    error::{Error, Kind},
    header::{X_PROXY_BACKEND, is_websocket, preflighted_method, retry_after, values},
};

/// What the configuration says of backends and request bodies.
#[derive(Clone)]
pub(super) struct Routes {
    pub(super) backends: Arc<[Backend]>,
    failover_on: Arc<[StatusCode]>,
    pub(super) selector: Option<Arc<dyn Select>>,
    /// What the configuration says, where that isn't just its order.
    balance: Option<Arc<dyn Select>>,
    affinity: Arc<[Source]>,
    pub(super) queue_timeout: Duration,
    pub(super) max_body_bytes: u64,
    pub(super) max_upload_bytes: u64,
    pub(super) idle_timeout: Duration,
    pub(super) budget: Arc<Budget>,
}

/// What the request's head decides.
pub(super) enum Plan {
    /// It can only go to this backend, so its body is streamed.
    One(Backend),
    /// The body is buffered, then the order of these is decided; at least one.
    Select(Vec<Backend>),
}

impl Routes {
    /// Keeps what `previous` knows of backends that are still there, and its selector.
    pub(super) fn new(config: &Config, previous: Option<&Self>) -> Self {
        let settings = &config.settings;
        let budget: Arc<Budget> = match previous {
            Some(previous) => previous.budget.clone(),
            None => Arc::default(),
        };
        budget.set_limit(settings.max_held_bytes);
        let known = previous.map(|previous| &*previous.backends);
        let backends = Backend::all(config, known.unwrap_or_default());
        let affinity = settings.affinity.iter();
        let affinity: Arc<[Source]> = affinity.filter_map(|text| Source::parse(text)).collect();
        Self {
            balance: balance(settings.balance, !affinity.is_empty(), &backends),
            backends,
            affinity,
            queue_timeout: settings.queue_timeout,
            failover_on: settings.failover_on.as_slice().into(),
            selector: previous.and_then(|previous| previous.selector.clone()),
            max_body_bytes: settings.max_body_bytes,
            max_upload_bytes: settings.max_upload_bytes,
            idle_timeout: settings.idle_timeout,
            budget,
        }
    }

    /// What the head of a request decides. Fails where no backend serves it.
    pub(super) fn plan<B>(&self, request: &Request<B>) -> Result<Plan, Error> {
        let (method, headers) = (request.method(), request.headers());
        let path = Matched::of(request.extensions(), request.uri())
            .ok_or_else(|| Error::new(Kind::DotSegments))?
            .path(request.uri());
        let is_upgrade = is_websocket(method, request.version(), headers);
        let preflighted = preflighted_method(method, headers);
        let method = preflighted.as_ref().unwrap_or(method);
        let grant = Grant::of(request.extensions());
        let needs_model = granted::needs_model(request.extensions());
        let is_allowed =
            |backend: &&Backend| grant.is_none_or(|grant| grant.allows_backend(backend.name()));
        let serves =
            |backend: &&Backend| backend.serves(method, path, is_upgrade) && is_allowed(backend);
        if let Some(name) = self.named(headers) {
            let mut backends = self.backends.iter();
            let named = backends
                .find(|backend| backend.name().as_bytes() == name.as_bytes())
                .ok_or_else(|| Error::new(Kind::UnknownBackend))?;
            if !is_allowed(&named) {
                return Err(Error::new(Kind::BackendNotAllowed));
            }
            return match serves(&named) {
                false => Err(Error::new(Kind::NoCandidate)),
                true if is_upgrade && !named.takes_websockets() => {
                    Err(Error::new(Kind::WebSocketUnsupported))
                }
                true if needs_model => Ok(Plan::Select(vec![named.clone()])),
                true => Ok(Plan::One(named.clone())),
            };
        }
        let is_only = |backend: &Backend| {
            self.selector.is_none() && backend.models().is_none() && !is_upgrade && !needs_model
        };
        let mut candidates: Vec<_> = match &*self.backends {
            // Usual, and without a list.
            [only] if is_only(only) && serves(&only) => return Ok(Plan::One(only.clone())),
            backends => backends.iter().filter(serves).cloned().collect(),
        };
        if candidates.is_empty() {
            return Err(Error::new(Kind::NoCandidate));
        }
        // The model comes first.
        if is_upgrade && !has_models(&candidates) {
            candidates = taking_websockets(candidates)?;
        }
        match &*candidates {
            [only] if self.selector.is_none() && only.models().is_none() && !needs_model => {
                Ok(Plan::One(only.clone()))
            }
            _ => Ok(Plan::Select(candidates)),
        }
    }

    /// The backend that a request selects by its name.
    fn named<'a>(&self, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let name = values(headers, &X_PROXY_BACKEND).next()?;
        let is_selectable = self.backends.iter().all(Backend::is_selectable);
        is_selectable.then_some(name)
    }

    /// How the body is read: scanned if the model decides, or a candidate replaces it.
    pub(super) fn scan(
        &self,
        candidates: &[Backend],
        request: &Parts,
        body: &RequestBody,
    ) -> Result<Scan, Error> {
        let is_overridden = |backend: &Backend| backend.model().is_some();
        let scan = |is_strict| {
            let place = place(candidates, request, body);
            place.scan(&request.headers, is_strict)
        };
        match &self.selector {
            _ if has_models(candidates) || granted::needs_model(&request.extensions) => scan(true),
            Some(selector) if selector.needs_model() => scan(false),
            None if candidates.iter().all(is_overridden) => scan(true),
            // A candidate without an override takes what can't be scanned.
            _ if candidates.iter().any(is_overridden) => Ok(scan(false).unwrap_or(Scan::No)),
            _ => Ok(Scan::No),
        }
    }

    /// The backends to try, in order; at least one.
    pub(super) fn select(
        &self,
        candidates: Vec<Backend>,
        request: &Parts,
        body: &RequestBody,
    ) -> Result<Vec<Backend>, Error> {
        let grant = Grant::of(&request.extensions).filter(|grant| grant.needs_model());
        let is_named = self.named(&request.headers).is_some();
        let decides = has_models(&candidates) && !is_named;
        let selector = self.selector.as_ref().filter(|_| !is_named);
        let needs_model = grant.is_some() || selector.is_some_and(|it| it.needs_model());
        let model = if decides || needs_model {
            let place = place(&candidates, request, body);
            let model = place.model(request, body)?;
            if let Some(grant) = grant {
                granted::check(grant, model.as_deref(), place, request)?;
            }
            model
        } else {
            None
        };
        let mut candidates = candidates;
        if let Some(model) = model.as_deref().filter(|_| decides) {
            candidates = serving(candidates, model)?;
        }
        if decides && is_websocket(&request.method, request.version, &request.headers) {
            candidates = taking_websockets(candidates)?;
        }
        let selector = selector.or(self.balance.as_ref());
        let mut order = match selector {
            None => candidates,
            Some(selector) => {
                let model = model.as_deref();
                let affinity = value::hash(&self.affinity, request, body);
                selector.select(&Selection::new(request, model, &candidates, affinity))
            }
        };
        if !order.iter().all(Backend::is_available) {
            order.sort_by_cached_key(|backend| !backend.is_available());
        }
        if order.is_empty() {
            return Err(Error::new(Kind::NoCandidate));
        }
        Ok(order)
    }

    /// Whether the next backend is tried, if there is one. Records what failed and what succeeded.
    ///
    /// The first answer to a preflight stands, whatever its status.
    pub(super) fn should_failover<R>(
        &self,
        backend: &Backend,
        result: &Result<Response<R>, Error>,
        is_preflight: bool,
    ) -> bool {
        match result {
            Ok(response) => {
                let is_failed = self.failover_on.contains(&response.status());
                if !is_failed {
                    backend.record_success();
                } else if !is_preflight {
                    backend.record_failure(retry_after(response.headers()));
                }
                is_failed && !is_preflight
            }
            Err(error) => {
                if error.is_backend_failure() {
                    backend.record_failure(None);
                }
                error.was_not_sent()
            }
        }
    }
}

/// The selector that a configuration asks for, unless it is the order of its backends.
fn balance(balance: Balance, has_affinity: bool, backends: &[Backend]) -> Option<Arc<dyn Select>> {
    let otherwise: Arc<dyn Select> = match balance {
        Balance::LeastBusy => Arc::new(LeastBusy::new()),
        Balance::Order => Arc::new(Order),
    };
    if has_affinity {
        return Some(Arc::new(Affinity::shared(otherwise)));
    }
    let is_ordered = backends.is_sorted_by_key(Backend::priority);
    (balance != Balance::Order || !is_ordered).then_some(otherwise)
}
