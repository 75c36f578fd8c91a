//! The clients of a configuration, found by the digest of a key or by name.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use super::limit::Usage;
use crate::{
    client::{ClientName, Grant, Limits},
    config::Config,
    digest::Digest,
};

/// The clients of a configuration.
pub(super) struct Table {
    by_key: HashMap<Digest, Arc<Client>>,
    by_name: HashMap<ClientName, Arc<Client>>,
}

pub(super) struct Client {
    pub(super) name: ClientName,
    pub(super) grant: Option<Arc<Grant>>,
    pub(super) limits: Limits,
    pub(super) usage: Arc<Usage>,
    expires: Option<SystemTime>,
}

impl Table {
    /// `None` where the configuration has no clients. Those whose names are among `previous` keep
    /// what they use.
    pub(super) fn new(config: &Config, previous: Option<&Self>) -> Option<Self> {
        if config.clients.is_empty() {
            return None;
        }
        let count = config.clients.len();
        let mut table = Self {
            by_key: HashMap::with_capacity(count),
            by_name: HashMap::with_capacity(count),
        };
        for settings in &*config.clients {
            let known = previous.and_then(|previous| previous.named(&settings.name));
            let usage = known.map(|known| {
                known.usage.settle(known.limits);
                known.usage.clone()
            });
            let client = Arc::new(Client {
                name: settings.name.clone(),
                grant: settings.grant.clone(),
                limits: settings.limits,
                usage: usage.unwrap_or_default(),
                expires: settings.expires,
            });
            if let Some(key) = settings.key {
                table.by_key.insert(key, client.clone());
            }
            table.by_name.insert(client.name.clone(), client);
        }
        Some(table)
    }

    /// Whether requests need a key.
    pub(super) fn has_keys(&self) -> bool {
        !self.by_key.is_empty()
    }

    pub(super) fn named(&self, name: &ClientName) -> Option<&Arc<Client>> {
        self.by_name.get(name)
    }

    /// The client with this key, unless that has expired.
    pub(super) fn with_key(&self, key: &[u8]) -> Option<&Arc<Client>> {
        let client = self.by_key.get(&Digest::of(key))?;
        let has_expired = |at: SystemTime| SystemTime::now() >= at;
        (!client.expires.is_some_and(has_expired)).then_some(client)
    }
}
