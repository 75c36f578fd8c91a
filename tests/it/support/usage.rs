//! The resources of a process, as reported by Linux.

use std::{fs, path::PathBuf, time::Duration};

use tokio::time::{sleep, timeout};

use super::{PATIENCE, Server};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    /// Resident memory, in KiB.
    pub(crate) memory: usize,
}

impl Usage {
    pub(crate) fn of(server: &Server) -> Self {
        let process = PathBuf::from(format!("/proc/{}", server.id()));
        let entries = |name| fs::read_dir(process.join(name)).expect("a process").count();
        Self {
            descriptors: entries("fd"),
            threads: entries("task"),
            memory: memory(server, "VmRSS:"),
        }
    }
}

/// The most resident memory that the server has had, in KiB.
pub(crate) fn peak_memory(server: &Server) -> usize {
    memory(server, "VmHWM:")
}

fn memory(server: &Server, name: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).expect("a process");
    let memory = status.lines().find_map(|line| line.strip_prefix(name));
    let memory = memory.and_then(|memory| memory.trim().strip_suffix(" kB"));
    memory.and_then(|memory| memory.parse().ok()).expect("kB")
}

/// Waits until the server has at most this many descriptors.
pub(crate) async fn until_descriptors(server: &Server, most: usize, what: &str) {
    let fallen = async {
        while Usage::of(server).descriptors > most {
            sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(PATIENCE, fallen).await.is_err() {
        let left = Usage::of(server).descriptors;
        panic!("{what}: {left} descriptors are open, {most} were before");
    }
}

/// The server's usage once the number of its descriptors has settled.
pub(crate) async fn usage_at_rest(server: &Server) -> Usage {
    let mut last = Usage::of(server);
    let mut same = 0;
    while same < 10 {
        sleep(Duration::from_millis(20)).await;
        let usage = Usage::of(server);
        same = if usage.descriptors == last.descriptors {
            same + 1
        } else {
            0
        };
        last = usage;
    }
    last
}
