//! Under which ids a backend's models are listed.

use crate::backend::Backend;

/// The ids by which clients reach the model that `backend`, one of `backends`, calls `name`: those
/// for which it is a candidate.
pub(super) fn ids(name: &str, backend: &Backend, backends: &[Backend]) -> Vec<String> {
    let mut ids = match backend.models() {
        Some(models) => models.aliases(name),
        None => vec![name.to_owned()],
    };
    ids.retain(|id| {
        let best = backends.iter().map(|other| other.specificity(id)).max();
        best == Some(backend.specificity(id))
    });
    ids
}
