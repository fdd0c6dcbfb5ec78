//! Connections that are busy while something happens, which must not notice.

use crate::PATIENCE;
use skein_lab::kubernetes::{Stream, StreamReport};
use skein_lab::wait_for;

/// So many more echoes show that a connection goes on.
const MORE: u64 = 40;
/// Nothing that happens is in a packet's way; this much its load may cost, in milliseconds.
const LONGEST_PAUSE: f64 = 3000.0;

/// Waits until a connection has carried more.
pub(crate) fn goes_on(stream: &Stream) {
    let echoes = || stream.echoes().unwrap_or_else(|error| panic!("{error}"));
    let before = echoes();
    wait_for(&format!("connection {} to go on", stream.name()), PATIENCE, || match echoes() {
        now if now >= before + MORE => Ok(()),
        now => Err(format!("{before} echoes before, {now} now")),
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

/// It goes on to its end, was with this pod all the time, and had no long pause.
pub(crate) fn unnoticed(stream: Stream, pod: &str) -> StreamReport {
    goes_on(&stream);
    let report = stream.finish().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((&report.error, report.pod.as_str()), (&None, pod), "{report:?}");
    assert!(report.longest_gap < LONGEST_PAUSE, "{report:?}");
    report
}
