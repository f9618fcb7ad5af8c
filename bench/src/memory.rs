//! How much memory this process holds at most.

use std::fs;

/// The peak of the resident set since the last [`reset`], in MB; none where the kernel does not
/// say (`VmHWM` of proc_pid_status(5)).
pub(crate) fn peak_mb() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? / 1024)
}

/// Forgets the peak (`clear_refs` of proc_pid_clear_refs(5)).
pub(crate) fn reset() {
    // Where that does not work, there is no figure either.
    let _ = fs::write("/proc/self/clear_refs", "5");
}
