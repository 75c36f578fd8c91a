//! What the process itself takes, under the names that Prometheus's clients give it.

use std::{
    fs, io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    param::page_size,
    time::{ClockId, clock_gettime},
};

/// CPU time, memory and descriptors of this process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) cpu: Duration,
    pub(super) resident_bytes: u64,
    pub(super) open_descriptors: u64,
}

impl Process {
    /// As of now. Fails where there is no `/proc`.
    pub(super) fn read() -> io::Result<Self> {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        // The pages in memory are the second number.
        let pages = fs::read_to_string("/proc/self/statm")?;
        let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok());
        let pages: u64 = pages.ok_or(io::ErrorKind::InvalidData)?;
        let descriptors = fs::read_dir("/proc/self/fd")?.count() as u64;
        Ok(Self {
            cpu: Duration::new(cpu.tv_sec as u64, cpu.tv_nsec as u32),
            resident_bytes: pages * page_size() as u64,
            open_descriptors: descriptors.saturating_sub(1), // the folder itself
        })
    }
}

/// Seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}
