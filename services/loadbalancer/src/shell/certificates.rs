//! Where certificates come from: somebody who is told which are wanted and says what was found.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use uuid::Uuid;

/// How often a folder is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Certificates and their private key, in one text. It is shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem(Arc<str>);

impl Pem {
    /// Joins certificates and key; the error says what is missing.
    ///
    /// # Errors
    /// There is no certificate, or no key.
    pub fn new(certificates: &str, key: &str) -> Result<Self, String> {
        let text = format!("{}\n{}\n", certificates.trim(), key.trim());
        if !text.contains("-----BEGIN CERTIFICATE-----") {
            return Err("it holds no certificate in PEM form".into());
        }
        if !text.contains("PRIVATE KEY-----") {
            return Err("it holds no private key in PEM form".into());
        }
        Ok(Self(text.into()))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pem(..)")
    }
}

/// What was found, by name; the error says why not. A name that is absent is still being looked for.
pub type Found = BTreeMap<String, Result<Pem, String>>;

/// What is wrong with certificates of a load balancer that this node carries: its name, and why by the certificate's.
pub type Complaints = BTreeMap<Uuid, (String, BTreeMap<String, String>)>;

/// A source of certificates.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// To be told which names are wanted.
    pub wanted: watch::Sender<BTreeSet<String>>,
    /// What was found.
    pub found: watch::Receiver<Found>,
    /// To be told what cannot be used, found or not: for those who can tell its owner.
    pub complaints: watch::Sender<Complaints>,
}

impl Certificates {
    /// Files `NAME.pem` of a folder, which may change at any time. Must be called in a runtime.
    #[must_use]
    pub fn folder(folder: PathBuf) -> Self {
        let (wanted, names) = watch::channel(BTreeSet::new());
        let (sender, found) = watch::channel(Found::new());
        tokio::spawn(look(folder, names, sender));
        Self { wanted, found, complaints: watch::Sender::default() }
    }
}

async fn look(
    folder: PathBuf,
    mut names: watch::Receiver<BTreeSet<String>>,
    found: watch::Sender<Found>,
) {
    loop {
        let wanted = names.borrow_and_update().clone();
        let mut now = Found::new();
        for name in wanted {
            let read = read(&folder, &name);
            now.insert(name, read);
        }
        found.send_if_modified(|before| {
            let differs = *before != now;
            *before = now;
            differs
        });
        let changed = tokio::time::timeout(LOOK, names.changed()).await;
        if changed.is_ok_and(|changed| changed.is_err()) || found.is_closed() {
            return;
        }
    }
}

fn read(folder: &Path, name: &str) -> Result<Pem, String> {
    if name.contains('/') || name.starts_with('.') {
        return Err("it is not called like a file".into());
    }
    let path = folder.join(format!("{name}.pem"));
    let text =
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Pem::new(&text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_shown() {
        let pem = Pem::new("-----BEGIN CERTIFICATE-----\nx", "-----BEGIN PRIVATE KEY-----\nsecret");
        assert_eq!(format!("{pem:?}"), "Ok(Pem(..))");
        assert!(Pem::new("nothing", "").is_err());
        assert!(Pem::new("-----BEGIN CERTIFICATE-----", "").is_err());
    }
}
