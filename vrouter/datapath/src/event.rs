//! Events: the ring buffer the programs write and the agent drains.

use crate::abi::{from_bytes, ip_from_abi, types};
use crate::{Datapath, DropReason, Error, Event, Result};
use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};
use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

/// A ring and what came out of it. One thread uses it, so the queue is a plain cell.
pub(crate) struct Ring {
    ring: RingBuffer<'static>,
    map: MapHandle,
    queue: Rc<RefCell<Vec<Event>>>,
}

// SAFETY: the queue is shared by `ring`'s callback and `queue` alone; both move together with this struct and are only
// used through `&mut Ring`, on whichever one thread owns it.
unsafe impl Send for Ring {}

impl Ring {
    pub(crate) fn open(map: &MapHandle) -> Result<Self> {
        let queue = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&queue);
        let failed = || Error::kernel("to open the event ring");
        let map = MapHandle::try_from(map).map_err(failed())?;
        let mut builder = RingBufferBuilder::new();
        builder
            .add(&map, move |bytes| {
                if let Some(event) = from_bytes(bytes).and_then(|raw| decode(&raw)) {
                    sink.borrow_mut().push(event);
                }
                0
            })
            .map_err(failed())?;
        let ring = builder.build().map_err(failed())?;
        Ok(Self { ring, map, queue })
    }
}

fn decode(raw: &types::event) -> Option<Event> {
    let family = u32::from(raw.family);
    Some(Event {
        time_ns: raw.time,
        reason: DropReason::from_number(raw.reason)?,
        vif: raw.vif,
        rule: raw.rule,
        direction: crate::flow::direction(raw.direction),
        local: ip_from_abi(family, &raw.local),
        remote: ip_from_abi(family, &raw.remote),
        protocol: raw.protocol,
        local_port: raw.local_port,
        remote_port: raw.remote_port,
    })
}

impl Datapath {
    /// Hands over all events that wait, without blocking. Returns how many.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn poll_events(&mut self, visit: impl FnMut(Event)) -> Result<usize> {
        self.events.ring.consume().map_err(Error::kernel("to read the event ring"))?;
        let events = self.events.queue.take();
        let count = events.len();
        events.into_iter().for_each(visit);
        Ok(count)
    }

    /// Becomes readable when events wait; for epoll or `AsyncFd`.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.events.map.as_fd()
    }
}
