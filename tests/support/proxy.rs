//! A TCP proxy on 127.0.0.1 that makes the way to a server slow, stalls it, cuts it, or loses something on it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes read at once.
const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Chunks of one direction of a connection that are on their way.
const CHUNKS_MAX: usize = 256;

/// How the way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    /// What each direction takes longer; what is on its way overtakes nothing.
    delay: Duration,
    /// Nothing arrives by connections from this number on, and they stay open.
    stalled_from: usize,
    /// New connections end at once.
    is_refusing: bool,
    /// Connections of an earlier number are cut.
    cuts: u64,
}

/// One proxy, which ends with its value.
pub struct Proxy {
    address: SocketAddr,
    way: watch::Sender<Way>,
    to_lose: ToLose,
    accepting: JoinHandle<()>,
}

/// What is lost where it comes by next, and not again.
type ToLose = Arc<Mutex<Option<Vec<u8>>>>;

impl Proxy {
    /// Starts one to a server's `host:port`, as fast as can be.
    pub async fn start(to: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, seen) = watch::channel(Way {
            delay: Duration::ZERO,
            stalled_from: usize::MAX,
            is_refusing: false,
            cuts: 0,
        });
        let to = to.to_owned();
        let to_lose = ToLose::default();
        let losing = to_lose.clone();
        let accepting = tokio::spawn(async move {
            for number in 0.. {
                let (client, _) = listener.accept().await.unwrap();
                if !seen.borrow().is_refusing {
                    tokio::spawn(connect(number, client, to.clone(), seen.clone(), losing.clone()));
                }
            }
        });
        Proxy {
            address,
            way,
            to_lose,
            accepting,
        }
    }

    /// Loses the next chunk of bytes from the server that contains these. Where little is on the way, that is one message.
    pub fn lose(&self, containing: &[u8]) {
        *self.to_lose.lock().unwrap() = Some(containing.to_vec());
    }

    /// Whether what was to be lost is.
    pub fn has_lost(&self) -> bool {
        self.to_lose.lock().unwrap().is_none()
    }

    /// `host:port` of the proxy.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Makes each direction take so much longer from now on.
    pub fn delay(&self, delay: Duration) {
        self.way.send_modify(|way| way.delay = delay);
    }

    /// Lets nothing arrive, or lets everything that was held back arrive.
    pub fn stall(&self, is_stalled: bool) {
        self.stall_from(if is_stalled { 0 } else { usize::MAX });
    }

    /// Lets nothing arrive by connections from this number on, counted from 0 as they were made.
    pub fn stall_from(&self, number: usize) {
        self.way.send_modify(|way| way.stalled_from = number);
    }

    /// Cuts every connection, and for as long as `is_refusing` each new one.
    pub fn cut(&self, is_refusing: bool) {
        self.way.send_modify(|way| {
            way.cuts += 1;
            way.is_refusing = is_refusing;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One connection, until either side or a cut ends it.
async fn connect(number: usize, client: TcpStream, to: String, way: watch::Receiver<Way>, to_lose: ToLose) {
    let mut cut = way.clone();
    let cuts = cut.borrow().cuts;
    let Ok(server) = TcpStream::connect(to).await else {
        return;
    };
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    tokio::select! {
        () = pump(number, client_reads, server_writes, way.clone(), ToLose::default()) => {}
        () = pump(number, server_reads, client_writes, way, to_lose) => {}
        _ = cut.wait_for(|way| way.cuts != cuts) => {}
    }
}

/// One direction, until its sender ends.
async fn pump(
    number: usize,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut way: watch::Receiver<Way>,
    to_lose: ToLose,
) {
    let (send, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let seen = way.clone();
    let reading = async move {
        let mut chunk = vec![0; CHUNK_BYTES_MAX];
        while let Ok(read @ 1..) = from.read(&mut chunk).await {
            if is_lost(&to_lose, &chunk[..read]) {
                continue;
            }
            let due = Instant::now() + seen.borrow().delay;
            if send.send((due, chunk[..read].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, chunk)) = arriving.recv().await {
            tokio::time::sleep_until(due).await;
            let open = way.wait_for(|way| number < way.stalled_from).await.is_ok();
            if !open || to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}

fn is_lost(to_lose: &ToLose, chunk: &[u8]) -> bool {
    let mut to_lose = to_lose.lock().unwrap();
    let is_it = to_lose
        .as_ref()
        .is_some_and(|lost| chunk.windows(lost.len()).any(|window| window == lost));
    if is_it {
        *to_lose = None;
    }
    is_it
}
