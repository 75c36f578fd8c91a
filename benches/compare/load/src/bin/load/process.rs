//! CPU time and memory of other processes.

use std::{fs, time::Duration};

use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

/// A process and its descendants, as they were when it was made.
pub struct ProcessTree {
    pids: Vec<i32>,
}

#[derive(Clone, Copy, Default)]
pub struct Memory {
    pub rss_kb: u64,
    pub peak_kb: u64,
}

impl ProcessTree {
    pub fn of(root: i32) -> Self {
        let mut pids = vec![root];
        let parents = parents();
        let mut next = 0;
        while next < pids.len() {
            let parent = pids[next];
            pids.extend(
                parents
                    .iter()
                    .filter(|(_, p)| *p == parent)
                    .map(|(pid, _)| *pid),
            );
            next += 1;
        }
        Self { pids }
    }

    pub fn from_pids(pids: Vec<i32>) -> Self {
        Self { pids }
    }

    /// User and system time so far.
    pub fn cpu_ns(&self) -> u64 {
        self.pids
            .iter()
            .map(|pid| cpu_clock_ns(*pid).unwrap_or(0))
            .sum()
    }

    pub fn memory(&self) -> Memory {
        self.pids.iter().fold(Memory::default(), |sum, pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let field = |name| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|text| text.split_whitespace().next()?.parse().ok())
                    .unwrap_or(0u64)
            };
            Memory {
                rss_kb: sum.rss_kb + field("VmRSS:"),
                peak_kb: sum.peak_kb + field("VmHWM:"),
            }
        })
    }
}

/// The process's CPU clock: user and system time of all its threads.
fn cpu_clock_ns(pid: i32) -> Option<u64> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).ok()?;
    Some(Duration::from(clock_gettime(clock).ok()?).as_nanos() as u64)
}

fn parents() -> Vec<(i32, i32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| Some((pid, stat_fields(pid)?.get(1)?.parse().ok()?)))
        .collect()
}

/// The fields of /proc/PID/stat that follow the command: state, parent, and so on.
fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(
        stat.rsplit_once(')')?
            .1
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
    )
}
