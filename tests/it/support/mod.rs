//! Shared by all tests: the server as a process, scripted backends, and clients, all over real
//! sockets on the loopback address.

mod backend;
mod config;
pub(crate) mod frames;
pub(crate) mod http2;
#[cfg(not(any(windows, target_vendor = "apple")))]
pub(crate) mod https;
mod message;
mod metrics;
mod server;
#[cfg(target_os = "linux")]
pub(crate) mod usage;
pub(crate) mod wire;

use std::time::Duration;

use tokio::time::timeout;

pub(crate) use self::{
    backend::{Backend, Record, Unreachable, nobody},
    config::{DEMO_CONFIG, TempFile, config_for, config_of, config_with, entry},
    message::{Message, chunked, dechunk, post, post_with, response},
    metrics::{Metrics, Scrape},
    server::{Server, example},
    wire::{Wire, write_until_stopped},
};

/// The deadline for anything a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Awaits `future`, and fails the test after [`PATIENCE`].
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    let Ok(output) = timeout(PATIENCE, future).await else {
        panic!("{what}: not within {PATIENCE:?}");
    };
    output
}

/// Locked by each test that opens hundreds of connections: all tests share one process, and its
/// limit of file descriptors may be 1024.
pub(crate) static MANY_CONNECTIONS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Pseudorandom bytes, the same in every run.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = length as u64 | 1;
    let mut noise = Vec::with_capacity(length + 8);
    while noise.len() < length {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(length);
    noise
}

pub(crate) fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}
