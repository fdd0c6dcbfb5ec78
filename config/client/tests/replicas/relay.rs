//! A door to a server that fails as networks and hosts do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What a door does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Everything passes.
    Open,
    /// Connections end, new ones too.
    Closed,
    /// Requests pass; the connection ends in place of the answer.
    LosesAnswers,
    /// Requests do not pass; the connection ends in their place.
    LosesRequests,
    /// "Not now", as a replica says that does not follow its store.
    Busy,
}

/// A relay in front of one server.
pub struct Door {
    pub address: SocketAddr,
    mood: watch::Sender<Mood>,
    /// Requests that passed.
    passed: Arc<AtomicUsize>,
}

impl Door {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mood, moods) = watch::channel(Mood::Open);
        let passed = Arc::new(AtomicUsize::new(0));
        let count = passed.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, server, moods.clone(), count.clone()));
            }
        });
        Self { address, mood, passed }
    }

    pub fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub fn passed(&self) -> usize {
        self.passed.load(Ordering::SeqCst)
    }
}

async fn relay(
    mut client: TcpStream,
    server: SocketAddr,
    mut moods: watch::Receiver<Mood>,
    passed: Arc<AtomicUsize>,
) {
    let mood = *moods.borrow_and_update();
    if mood == Mood::Closed {
        return;
    }
    let mut server = TcpStream::connect(server).await.unwrap();
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(n @ 1..) = read else { return };
                let mood = *moods.borrow();
                match mood {
                    Mood::Closed | Mood::LosesRequests => return,
                    Mood::Busy => {
                        let text = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 7\r\n\r\nnot now";
                        client.write_all(text.as_bytes()).await.unwrap();
                        continue;
                    }
                    Mood::Open | Mood::LosesAnswers => {}
                }
                passed.fetch_add(1, Ordering::SeqCst);
                if server.write_all(&up[..n]).await.is_err() { return }
            }
            read = server.read(&mut down) => {
                let Ok(n @ 1..) = read else { return };
                if *moods.borrow() == Mood::LosesAnswers { return }
                if client.write_all(&down[..n]).await.is_err() { return }
            }
            changed = moods.changed() => {
                if changed.is_err() || *moods.borrow() == Mood::Closed { return }
            }
        }
    }
}
