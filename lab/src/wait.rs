//! Waiting for conditions with a deadline and a useful message.

use crate::LabError;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Every patience is multiplied by this: `LAB_SLOWNESS=10` for a machine in an emulator.
static SLOWNESS: LazyLock<u32> = LazyLock::new(|| {
    std::env::var("LAB_SLOWNESS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
});

/// A patience as this machine needs it.
pub(crate) fn on_this_machine(patience: Duration) -> Duration {
    patience.saturating_mul(*SLOWNESS)
}

const STEP: Duration = Duration::from_millis(5);

/// Calls `condition` until it gives a value; its errors are what is reported when time is up.
///
/// # Errors
/// [`LabError::Timeout`] with the last error of the condition.
pub fn wait_for<T, E: std::fmt::Display>(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> Result<T, E>,
) -> Result<T, LabError> {
    let start = Instant::now();
    let timeout = on_this_machine(timeout);
    loop {
        let last = match condition() {
            Ok(value) => return Ok(value),
            Err(error) => error.to_string(),
        };
        if start.elapsed() >= timeout {
            let seconds = start.elapsed().as_secs_f64();
            return Err(LabError::Timeout { what: what.to_owned(), seconds, last });
        }
        std::thread::sleep(STEP);
    }
}

/// Calls `condition` until it is true.
///
/// # Errors
/// [`LabError::Timeout`].
pub fn wait_until(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<(), LabError> {
    wait_for(what, timeout, || if condition() { Ok(()) } else { Err("not yet") })
}
