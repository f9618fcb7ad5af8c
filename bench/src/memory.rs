//! How much memory this process holds at most.

use std::fs;

/// What the process holds now, in MB; its peak begins anew from here.
pub(crate) fn peak_now() -> Option<u64> {
    // Forgets the peak (`clear_refs` of proc_pid_clear_refs(5)). Where that does not work, there is
    // no figure either.
    let _ = fs::write("/proc/self/clear_refs", "5");
    peak()
}

/// By how many MB the peak exceeds what there was `before`.
pub(crate) fn grown_since(before: Option<u64>) -> Option<u64> {
    peak().zip(before).map(|(peak, before)| peak.saturating_sub(before))
}

/// The peak of the resident set, in MB; none where the kernel does not say (`VmHWM` of
/// proc_pid_status(5)).
fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? / 1024)
}
