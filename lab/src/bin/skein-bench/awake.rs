//! Keeps the machine's cores from halting while throughput is measured.
//!
//! A core of a virtual machine that runs out of work halts, and the next packet's receiver waits for the hypervisor to wake it.
//! One TCP stream over two cores then measures these waits, which all paths have alike: a bare veth pair itself is hardly
//! faster than a bridge with VXLAN. Processes that run only when nobody else wants the core take nothing from what is measured.

use std::process::{Child, Command, Stdio};

/// One idle-priority process a core; ended when dropped.
pub(crate) struct Awake(Vec<Child>);

impl Awake {
    /// Starts them. Where `chrt` (util-linux) is missing the cores halt as they please.
    pub(crate) fn all_cores() -> Awake {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spin = || {
            let mut command = Command::new("chrt");
            command.args(["--idle", "0", "sh", "-c", "while :; do :; done"]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
        };
        Awake((0..cores).map_while(|_| spin().ok()).collect())
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that ended by itself needs neither.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
