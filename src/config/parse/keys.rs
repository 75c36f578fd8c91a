//! The keys file.

use super::{ConfigError, Field, Kind, allowed, read};
use crate::{
    config::client::{ClientConfig, Clients},
    timestamp,
};

/// Reads the keys file and adds its keys. Errors point to the line and column.
pub(in crate::config) fn keys(text: &str, clients: &mut Clients<'_>) -> Result<(), ConfigError> {
    const KEYS_FILE: Kind = Kind {
        name: "keys file",
        content: "a JSON object with `keys`",
    };
    read(text, KEYS_FILE, |document| {
        let mut is_empty = true;
        for (name, field) in document.members()? {
            if name != "keys" {
                return Err(field.unknown("`keys`"));
            }
            for item in field.items("a list of keys")? {
                clients.add(client(&item)?)?;
                is_empty = false;
            }
        }
        if is_empty {
            let problem =
                "has no keys; `server --new-key NAME` prints an entry for its list `keys`";
            return Err(document.error(problem));
        }
        Ok(())
    })
}

fn client(item: &Field<'_>) -> Result<ClientConfig, ConfigError> {
    let (mut name, mut hash) = (None, None);
    let mut client = ClientConfig::new("");
    for (key, field) in item.members()? {
        match key {
            "name" => name = Some(field.string()?),
            "hash" => hash = Some(field.string()?),
            "models" => client = client.models(field.strings(allowed::MODEL_PATTERNS)?),
            "paths" => client = client.paths(field.strings(allowed::PATHS)?),
            "backends" => client = client.backends(field.strings(allowed::BACKENDS)?),
            "requests_per_minute" => {
                client = client.requests_per_minute(field.whole_number(allowed::REQUESTS)?);
            }
            "max_in_flight" => {
                client = client.max_in_flight(field.whole_number(allowed::REQUESTS)?);
            }
            "expires" => {
                let time = timestamp::parse(field.string()?);
                let time = time.ok_or_else(|| field.must_be(timestamp::ALLOWED))?;
                client = client.expires(time);
            }
            "key" => {
                return Err(field.error(
                    "must not be in the file; put its `hash` there, as `server --hash-key` prints it",
                ));
            }
            _ => {
                return Err(field.unknown(
                    "`name`, `hash`, `models`, `paths`, `backends`, `requests_per_minute`, \
                     `max_in_flight` and `expires`",
                ));
            }
        }
    }
    client.name = name.ok_or_else(|| item.error("needs a `name`"))?.into();
    let hash = hash
        .ok_or_else(|| item.error("needs a `hash`, as `server --hash-key` prints it for a key"))?;
    Ok(client.hash(hash))
}
