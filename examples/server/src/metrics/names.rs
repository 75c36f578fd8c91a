//! Which names of models become labels.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use http::StatusCode;

use super::facts::Labels;

/// In place of a name that is no label.
const OTHER: &str = "_OTHER";

/// Where there is no name.
pub(super) const UNKNOWN: &str = "unknown";

/// How many names from requests, and how many from responses, may become labels, so that made-up names
/// can't make series without end.
const MAX_NAMES: usize = 100;

const MAX_LENGTH: usize = 128;

/// The names from messages that are labels. Those from the configuration always are.
#[derive(Debug, Default)]
pub(super) struct Models {
    request: Names,
    response: Names,
}

/// The models of an exchange as labels show them.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShownModels<'a> {
    pub(super) request: &'a str,
    pub(super) response: &'a str,
}

impl ShownModels<'_> {
    /// Whether the same models will always be shown so: a name that isn't shown yet may be later.
    pub(super) fn are_settled(&self) -> bool {
        self.request != OTHER && self.response != OTHER
    }
}

impl Models {
    pub(super) fn shown<'a>(&self, labels: &Labels<'a>) -> ShownModels<'a> {
        let is_success = labels.status.as_ref().is_some_and(StatusCode::is_success);
        let shown = |name: &'a str, is_configured, names: &Names| match name {
            "" => UNKNOWN,
            name if is_configured || names.admit(name, is_success) => name,
            _ => OTHER,
        };
        ShownModels {
            request: shown(labels.request_model, labels.is_configured, &self.request),
            response: shown(labels.response_model, false, &self.response),
        }
    }
}

#[derive(Debug, Default)]
struct Names(Mutex<HashSet<Box<str>>>);

impl Names {
    /// Whether this name is a label. It becomes one when a backend has answered it with success.
    fn admit(&self, name: &str, is_success: bool) -> bool {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.contains(name)
            || is_success
                && is_presentable(name)
                && names.len() < MAX_NAMES
                && names.insert(name.into())
    }
}

/// Whether it is short, printable ASCII.
fn is_presentable(name: &str) -> bool {
    let is_printable = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    (1..=MAX_LENGTH).contains(&name.len()) && name.bytes().all(is_printable)
}
