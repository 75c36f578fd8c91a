//! Client keys: `--new-key` and `--hash-key`.

use std::io::{self, Read};

use lexopt::Error;
use tower_openai_proxy::{BackendConfig, ClientConfig, Config, keys};

use crate::print;

/// The digits of base64url (RFC 4648, section 5).
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Prints a new random key, and the entry of a keys file for it.
pub(crate) fn print_new(name: &str) -> Result<(), Error> {
    let key = random_key().map_err(|error| Error::Custom(error.into()))?;
    let hash = keys::hash(&key);
    let client = ClientConfig::new(name).hash(&hash);
    // The rules for names are those of a configuration; builds without TLS take http only.
    let any = BackendConfig::new("any", "http://any.invalid");
    let checked = Config::builder().backend(any).client(client).build();
    checked.map_err(
        |_| "`--new-key` must be followed by a name of 1 to 64 letters, digits, `.`, `_` and `-`",
    )?;
    print::output(key);
    print::output(format_args!(r#"{{"name":"{name}","hash":"{hash}"}}"#));
    Ok(())
}

/// Prints the digest of the key on standard input. A line end behind the key is no part of it.
pub(crate) fn print_hash() -> Result<(), Error> {
    let mut input = Vec::new();
    let read = io::stdin().read_to_end(&mut input);
    read.map_err(|error| Error::Custom(error.into()))?;
    let key = input.strip_suffix(b"\n").unwrap_or(&input);
    let key = key.strip_suffix(b"\r").unwrap_or(key);
    let is_sent = !key.is_empty() && key.trim_ascii() == key;
    if !is_sent || key.iter().any(u8::is_ascii_control) {
        return Err("`--hash-key` reads a key from standard input: \
            not empty, without control characters and blanks at its ends"
            .into());
    }
    print::output(keys::hash(key));
    Ok(())
}

/// `sk-proxy-` and 43 characters, from 256 random bits.
fn random_key() -> Result<String, getrandom::Error> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    let mut key = String::from("sk-proxy-");
    let (mut bits, mut count) = (0, 0);
    // The last digit has the last four bits.
    for byte in random.into_iter().chain([0]) {
        bits = bits << 8 | u32::from(byte);
        count += 8;
        while count >= 6 && key.len() < "sk-proxy-".len() + 43 {
            count -= 6;
            key.push(DIGITS[(bits >> count) as usize & 63].into());
        }
    }
    Ok(key)
}
