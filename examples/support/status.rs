//! What Linux knows of this process.

/// KiB under a key of its status: `VmRSS` is its memory now, `VmHWM` the most that it has had.
pub fn kib(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}
