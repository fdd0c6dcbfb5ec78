//! The replicas of an API: which one is asked next, and how new its answers have to be.
//!
//! Order is preference: the first one that is not put aside is asked. One that failed is put
//! aside, longer each time; then a single call tries it again while the others go on elsewhere.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{ClientError, tls::CONNECT_ONE_OF_SEVERAL};

/// First and longest time for which a replica that failed is not asked. A host without power costs the call that tries it
/// again the time to connect: of 30 s, one.
const ASIDE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Pause between two replicas when a client meets them for the first time.
const STAGGER: Duration = Duration::from_millis(150);

/// When a replica may be asked again, and for how long it was put aside.
#[derive(Debug, Clone, Copy, Default)]
struct Aside {
    until: Option<Instant>,
    wait: Duration,
}

/// Where the replicas are and what is known of them. Shared by the clones of a client.
#[derive(Debug)]
pub(crate) struct Replicas {
    /// `scheme://HOST:PORT`, in order of preference.
    bases: Vec<String>,
    /// All of them, for people.
    text: String,
    aside: Mutex<Vec<Aside>>,
    /// Newest revision that an answer spoke of: none may be older.
    revision: AtomicU64,
    /// The first call has found out who is there.
    met: tokio::sync::OnceCell<()>,
}

impl Replicas {
    /// Reads a list of addresses with commas or blanks in between.
    pub(crate) fn parse(list: &str) -> Result<Self, ClientError> {
        let mut bases: Vec<String> = Vec::new();
        for address in list.split([',', ' ', '\n']).filter(|address| !address.is_empty()) {
            let base = base(address)?;
            if !bases.contains(&base) {
                bases.push(base);
            }
        }
        if bases.is_empty() {
            return Err(ClientError::Address(list.to_owned()));
        }
        let aside = Mutex::new(vec![Aside::default(); bases.len()]);
        let (text, revision) = (bases.join(","), AtomicU64::new(0));
        Ok(Self { text, bases, aside, revision, met: tokio::sync::OnceCell::new() })
    }

    /// Before the first call: connects to one after the other, a moment apart, until one is there, and puts those aside that
    /// were before it. A command that is run once would else wait for a preferred host without power each time.
    pub(crate) async fn meet(self: &Arc<Self>) {
        self.met.get_or_init(|| self.find_first()).await;
    }

    async fn find_first(&self) {
        let mut calling = tokio::task::JoinSet::new();
        for (index, base) in self.bases.iter().enumerate() {
            let Some(address) = address(base) else { continue };
            calling.spawn(async move {
                tokio::time::sleep(STAGGER * u32::try_from(index).unwrap_or(0)).await;
                (index, tokio::net::TcpStream::connect(address).await.is_ok())
            });
        }
        let first = tokio::time::timeout(CONNECT_ONE_OF_SEVERAL, async {
            while let Some(met) = calling.join_next().await {
                if let Ok((index, true)) = met {
                    return Some(index);
                }
            }
            None
        });
        // Whoever is nowhere met is asked in order, with patience.
        if let Ok(Some(first)) = first.await {
            let now = Instant::now();
            (0..first).for_each(|index| self.failed(index, now));
        }
    }

    pub(crate) fn bases(&self) -> &[String] {
        &self.bases
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whom to ask, best first. Those that are put aside come last, the one that may be back soonest first among them.
    /// One whose time is over is offered to this caller alone until the same time has passed again.
    pub(crate) fn order(&self, now: Instant) -> Vec<usize> {
        let mut all = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order: Vec<(Option<Instant>, usize)> = Vec::with_capacity(all.len());
        for (index, one) in all.iter_mut().enumerate() {
            match one.until {
                Some(until) if until > now => order.push((Some(until), index)),
                Some(_) => {
                    one.until = Some(now + one.wait);
                    order.push((None, index));
                }
                None => order.push((None, index)),
            }
        }
        order.sort_unstable();
        order.into_iter().map(|(_, index)| index).collect()
    }

    /// A replica answered.
    pub(crate) fn answered(&self, index: usize) {
        self.set(index, |one| *one = Aside::default());
    }

    /// A replica is not there, or not able to serve.
    pub(crate) fn failed(&self, index: usize, now: Instant) {
        self.set(index, |one| {
            one.wait = (one.wait * 2).clamp(ASIDE.0, ASIDE.1);
            one.until = Some(now + one.wait);
        });
    }

    fn set(&self, index: usize, change: impl FnOnce(&mut Aside)) {
        let mut all = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(one) = all.get_mut(index) {
            change(one);
        }
    }

    /// The revision that answers have to know; 0: any.
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// Something of this revision was seen.
    pub(crate) fn saw(&self, revision: u64) {
        self.revision.fetch_max(revision, Ordering::Relaxed);
    }

    /// No replica knows the revision any more, as after a restore of a backup: begin anew.
    pub(crate) fn forget_revision(&self) {
        self.revision.store(0, Ordering::Relaxed);
    }
}

/// `HOST:PORT` of a base.
fn address(base: &str) -> Option<String> {
    let uri: hyper::Uri = base.parse().ok()?;
    let port = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    Some(format!("{}:{}", uri.host()?, uri.port_u16().unwrap_or(port)))
}

fn base(address: &str) -> Result<String, ClientError> {
    let base = address.trim_end_matches('/');
    let base = if base.contains("://") { base.to_owned() } else { format!("http://{base}") };
    let good = base.parse::<hyper::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some()
            && uri.path() == "/"
    });
    if good { Ok(base) } else { Err(ClientError::Address(address.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read() {
        let replicas = Replicas::parse("https://a:8182, b:8082/,https://a:8182").unwrap();
        assert_eq!(replicas.bases(), ["https://a:8182", "http://b:8082"]);
        assert_eq!(replicas.text(), "https://a:8182,http://b:8082");
        for bad in ["", ",", "ftp://a", "http://a/b", "a:1,http://a/b"] {
            assert!(Replicas::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_have_ports() {
        assert_eq!(address("https://a").as_deref(), Some("a:443"));
        assert_eq!(address("https://[fd00::1]:8182").as_deref(), Some("[fd00::1]:8182"));
    }

    #[test]
    fn one_that_failed_comes_last_and_is_tried_again_by_one_caller() {
        let replicas = Replicas::parse("a:1,b:1,c:1").unwrap();
        let start = Instant::now();
        assert_eq!(replicas.order(start), [0, 1, 2]);
        replicas.failed(0, start);
        assert_eq!(replicas.order(start), [1, 2, 0]);
        let later = start + ASIDE.0;
        assert_eq!(replicas.order(later), [0, 1, 2], "its time is over");
        assert_eq!(replicas.order(later), [1, 2, 0], "somebody tries it already");
        replicas.failed(0, later);
        assert_eq!(replicas.order(later + ASIDE.0), [1, 2, 0], "longer each time");
        replicas.answered(0);
        assert_eq!(replicas.order(later), [0, 1, 2]);
        (0..3).for_each(|index| replicas.failed(index, start));
        replicas.failed(0, start);
        assert_eq!(replicas.order(start), [1, 2, 0], "nobody is left out");
    }
}
