//! Which of the candidates gets a request, and which are tried after it.

mod affinity;
#[cfg(test)]
mod figures;
mod least_busy;
mod order;
#[cfg(test)]
mod tests;

use std::{cmp::Ordering, fmt, sync::Arc};

use http::request::Parts;

pub use self::{affinity::Affinity, least_busy::LeastBusy, order::Order};
use crate::{affinity::StableHash, backend::Backend, client::ClientName, endpoint};

/// Selects the backends of a request.
///
/// ```
/// use tower_openai_proxy::{Backend, route::{Select, Selection}};
///
/// /// Requests of the `batch` team go to the last backend, all others to any but that.
/// struct ByTeam;
///
/// impl Select for ByTeam {
///     fn select(&self, request: &Selection<'_>) -> Vec<Backend> {
///         let (last, others) = request.backends().split_last().expect("at least one");
///         match request.head().headers.get("x-team") {
///             Some(team) if team == "batch" => vec![last.clone()],
///             _ => others.to_vec(),
///         }
///     }
///
///     fn needs_model(&self) -> bool {
///         false
///     }
/// }
/// ```
pub trait Select: Send + Sync + 'static {
    /// The backends to try, in order; none answers the request with 404.
    fn select(&self, request: &Selection<'_>) -> Vec<Backend>;

    /// Whether [`Selection::model`] is needed: the request body is then buffered and scanned for it.
    /// Default: yes.
    fn needs_model(&self) -> bool {
        true
    }
}

impl<S: Select + ?Sized> Select for Arc<S> {
    fn select(&self, request: &Selection<'_>) -> Vec<Backend> {
        (**self).select(request)
    }

    fn needs_model(&self) -> bool {
        (**self).needs_model()
    }
}

impl<S: Select + ?Sized> Select for Box<S> {
    fn select(&self, request: &Selection<'_>) -> Vec<Backend> {
        (**self).select(request)
    }

    fn needs_model(&self) -> bool {
        (**self).needs_model()
    }
}

/// Makes a [`Select`] of a closure, which may look at the model.
pub fn select_fn<F>(select: F) -> SelectFn<F>
where
    F: Fn(&Selection<'_>) -> Vec<Backend> + Send + Sync + 'static,
{
    SelectFn(select)
}

/// A [`Select`] made by [`select_fn`].
#[derive(Clone, Copy)]
pub struct SelectFn<F>(F);

impl<F> Select for SelectFn<F>
where
    F: Fn(&Selection<'_>) -> Vec<Backend> + Send + Sync + 'static,
{
    fn select(&self, request: &Selection<'_>) -> Vec<Backend> {
        (self.0)(request)
    }
}

impl<F> fmt::Debug for SelectFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelectFn").finish_non_exhaustive()
    }
}

/// What a [`Select`] decides on.
#[derive(Debug)]
#[non_exhaustive]
pub struct Selection<'a> {
    head: &'a Parts,
    model: Option<&'a str>,
    backends: &'a [Backend],
    affinity: Option<StableHash>,
}

impl<'a> Selection<'a> {
    pub(super) fn new(
        head: &'a Parts,
        model: Option<&'a str>,
        backends: &'a [Backend],
        affinity: Option<StableHash>,
    ) -> Self {
        Self {
            head,
            model,
            backends,
            affinity,
        }
    }

    /// The request's head, with its extensions.
    pub fn head(&self) -> &'a Parts {
        self.head
    }

    /// The client's name, if it is known: see [`ClientName`].
    pub fn client(&self) -> Option<&'a str> {
        let name = self.head.extensions.get::<ClientName>()?;
        Some(name.as_str())
    }

    /// The path below the prefix, such as `/chat/completions`.
    pub fn path(&self) -> &'a str {
        endpoint::path_of(self.head)
    }

    /// The top-level `model` of the request's JSON; `None` if there is none.
    pub fn model(&self) -> Option<&'a str> {
        self.model
    }

    /// The backends that serve the path and the model, in the order of the configuration. Each tells
    /// what it has [in flight](Backend::in_flight) and whether it is
    /// [available](Backend::is_available); both change at any time.
    pub fn backends(&self) -> &'a [Backend] {
        self.backends
    }
}

/// What sorts backends, the least first: the priority, then what else each selector takes.
type Rank = (i64, f64, f64);

/// The backends by their ranks, each of which is found once.
fn ranked(backends: &[Backend], mut rank: impl FnMut(&Backend) -> Rank) -> Vec<Backend> {
    let mut ranked: Vec<_> = backends.iter().map(|it| (rank(it), it)).collect();
    ranked.sort_by(|(a, _), (b, _)| a.partial_cmp(b).unwrap_or(Ordering::Equal));
    ranked.into_iter().map(|(_, it)| it.clone()).collect()
}
