//! BPF_PROG_TEST_RUN: a packet through a program, without a wire. For tests, measurements and the sweep.

use crate::abi::{bytes_of_mut, types};
use crate::{Datapath, DropReason, Error, Hook, Result};
use libbpf_rs::libbpf_sys;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// A packet to run.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// The frame, Ethernet header first.
    pub frame: &'a [u8],
    /// Interface it enters by; it must exist in the caller's network namespace.
    pub ifindex: u32,
    /// Segment size of a GSO super-packet; 0: an ordinary packet.
    pub gso_size: u32,
    /// How often; the kernel gives the mean time. More than once only for programs that leave the packet as it is.
    pub repeat: u32,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The program's verdict.
    pub outcome: Outcome,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// 802.1Q tag it is to leave with, which the kernel keeps beside the frame; 0: none.
    pub tag: u16,
    /// Mean time of one run.
    pub duration: Duration,
}

/// Verdict of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Left to the host's stack.
    Host,
    /// Dropped without an answer.
    Dropped(DropReason),
    /// Sent into a workload; with a reason if it is an ICMP error that tells why the packet was dropped.
    ToWorkload {
        /// Its host end.
        ifindex: u32,
        /// Why the original was dropped.
        answer_to: Option<DropReason>,
    },
    /// Encapsulated and sent by an uplink.
    ToTunnel {
        /// The uplink.
        uplink: u32,
    },
    /// Sent by an uplink without a tunnel: from the node's own address or one of the underlay.
    Outside {
        /// The uplink.
        uplink: u32,
    },
    /// A verdict no program of ours should give.
    Unknown(u32),
}

const TC_ACT_OK: u32 = 0;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

impl Datapath {
    /// Runs one packet. It has every effect a real one has, except that it goes nowhere.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the kernel does not take the frame (shorter than 14 bytes, unknown interface).
    pub fn run(&self, hook: Hook, run: &Run<'_>) -> Result<Ran> {
        // SAFETY: __sk_buff is integers and unions of a pointer with a u64; zero is valid for all of them.
        let mut context: types::__sk_buff = unsafe { std::mem::zeroed() };
        context.ifindex = run.ifindex;
        context.ingress_ifindex = run.ifindex;
        context.gso_size = run.gso_size;
        let mut frame = vec![0; run.frame.len() + 256];
        // The kernel's structure grows; it wants room for all of its own.
        let mut context_out = [0_u64; 64];
        // SAFETY: an option block of integers and pointers; zero means "not given".
        let mut options: libbpf_sys::bpf_test_run_opts = unsafe { std::mem::zeroed() };
        options.sz = size_of::<libbpf_sys::bpf_test_run_opts>() as _;
        options.ctx_in = std::ptr::from_mut(&mut context).cast();
        options.ctx_size_in = size_of::<types::__sk_buff>() as u32;
        options.ctx_out = context_out.as_mut_ptr().cast();
        options.ctx_size_out = size_of_val(&context_out) as u32;
        options.data_in = run.frame.as_ptr().cast();
        options.data_size_in = run.frame.len() as u32;
        options.data_out = frame.as_mut_ptr().cast();
        options.data_size_out = frame.len() as u32;
        options.repeat = run.repeat.max(1) as i32;
        test_run(self.program(hook)?, &mut options)?;
        frame.truncate(options.data_size_out as usize);
        // SAFETY: the buffer is larger than the type and aligned for it; every pattern of its integers is valid.
        context = unsafe { std::ptr::read(context_out.as_ptr().cast()) };
        let [kind, ifindex, reason, tag, _] = context.cb;
        let reason = DropReason::from_number(reason);
        let outcome = match (options.retval, kind, reason) {
            (TC_ACT_OK, ..) => Outcome::Host,
            (TC_ACT_SHOT, _, Some(reason)) => Outcome::Dropped(reason),
            (TC_ACT_REDIRECT, 1, answer_to) => Outcome::ToWorkload { ifindex, answer_to },
            (TC_ACT_REDIRECT, 2, _) => Outcome::ToTunnel { uplink: ifindex },
            (TC_ACT_REDIRECT, 3, _) => Outcome::Outside { uplink: ifindex },
            (other, ..) => Outcome::Unknown(other),
        };
        Ok(Ran {
            outcome,
            frame,
            tag: tag as u16,
            duration: Duration::from_nanos(options.duration.into()),
        })
    }

    /// Gives [`Hook::Bench`] its frame: 64 bytes, IPv4 without options and UDP. Ports start again after `spread` packets;
    /// 0: after 2^32.
    ///
    /// # Errors
    /// [`Error::Argument`] for a frame of another length.
    pub fn set_bench_frame(&self, frame: &[u8], spread: u32) -> Result<()> {
        let frame = frame.try_into().map_err(|_| Error::Argument {
            field: "frame",
            reason: format!("{} bytes long; must be 64", frame.len()),
        })?;
        self.bench_state.set(&0, &types::bench { frame, count: 0, spread })
    }

    pub(crate) fn run_sweep(&self, sweep: &mut types::sweep) -> Result<()> {
        use std::os::fd::AsFd;
        let bytes = bytes_of_mut(sweep);
        // SAFETY: as above.
        let mut options: libbpf_sys::bpf_test_run_opts = unsafe { std::mem::zeroed() };
        options.sz = size_of::<libbpf_sys::bpf_test_run_opts>() as _;
        // The kernel writes the argument of a syscall program back.
        options.ctx_in = bytes.as_mut_ptr().cast();
        options.ctx_size_in = bytes.len() as u32;
        test_run(self.sweep.as_fd(), &mut options)
    }
}

fn test_run(program: BorrowedFd<'_>, options: &mut libbpf_sys::bpf_test_run_opts) -> Result<()> {
    // SAFETY: the pointers in `options` come from live borrows of the caller, with their lengths beside them.
    let code = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), options) };
    if code == 0 {
        return Ok(());
    }
    Err(Error::Kernel {
        what: "to run a program".into(),
        source: libbpf_rs::Error::from_raw_os_error(-code),
    })
}
