//! The order of the configuration.

use super::{Select, Selection, ranked};
use crate::backend::Backend;

/// The order of the configuration, by priority: `settings.balance` `"order"`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Order;

impl Select for Order {
    fn select(&self, request: &Selection<'_>) -> Vec<Backend> {
        ranked(request.backends(), |backend| (backend.priority(), 0.0, 0.0))
    }

    fn needs_model(&self) -> bool {
        false
    }
}
