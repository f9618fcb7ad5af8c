//! Measures the peak memory of this process.

use std::fs;

/// Resets the peak to the memory in use, and returns it, in MB.
///
/// Source: proc_pid_clear_refs(5).
pub(crate) fn reset_peak() -> Option<u64> {
    // Where this fails, `peak` returns `None` as well.
    let _ = fs::write("/proc/self/clear_refs", "5");
    peak()
}

/// Returns by how many MB the peak exceeds `before`, which [`reset_peak`] returned.
pub(crate) fn peak_growth(before: Option<u64>) -> Option<u64> {
    peak().zip(before).map(|(peak, before)| peak.saturating_sub(before))
}

/// Returns the peak of the resident set, in MB; `None` if the kernel does not report it.
///
/// Source: `VmHWM` in proc_pid_status(5).
fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? / 1024)
}
