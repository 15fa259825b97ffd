//! A TCP proxy in front of a server, to cut a client off from it or to let it wait for ever.

use std::{io, net::SocketAddr};
use tokio::{
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// Bytes pass.
    Open,
    /// Connections stay and can be made, and no byte passes.
    Frozen,
    /// Every connection is closed at once.
    Cut,
}

#[derive(Clone, Copy)]
struct State {
    mode: Mode,
    /// How often connections were cut: older ones than the last cut are dead, even if it is over.
    cuts: u64,
}

/// A proxy on a loopback port, for as long as it lives. Its tasks are of the runtime it is made on.
pub struct Proxy {
    addr: SocketAddr,
    state: watch::Sender<State>,
    listener: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of `target`: `nats://127.0.0.1:4222`, `http://…`, or address and port alone.
    pub async fn start(target: &str) -> Self {
        let target = target.split_once("://").map_or(target, |(_, addr)| addr);
        let target: SocketAddr = target.trim_end_matches('/').parse().expect("an address and a port");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (state, of_clients) = watch::channel(State {
            mode: Mode::Open,
            cuts: 0,
        });
        let listener = tokio::spawn(async move {
            loop {
                // An accepted client that is gone already is no reason to take no others.
                let Ok((client, _)) = listener.accept().await else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let state = of_clients.clone();
                let cuts = state.borrow().cuts;
                if state.borrow().mode != Mode::Cut {
                    tokio::spawn(connection(client, target, state, cuts));
                }
            }
        });
        Self { addr, state, listener }
    }

    /// Where NATS clients connect to.
    pub fn url(&self) -> String {
        format!("nats://{}", self.addr)
    }

    /// Closes all connections, and new ones as they come, until [`Proxy::restore`]. No byte passes any
    /// more once this returns.
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            state.mode = Mode::Cut;
            state.cuts += 1;
        });
    }

    /// Takes connections again.
    pub fn restore(&self) {
        self.set(Mode::Open);
    }

    /// Lets connections stay open and be made, with no byte passing either way, until [`Proxy::thaw`].
    /// Neither side is told that the other is gone.
    pub fn freeze(&self) {
        self.set(Mode::Frozen);
    }

    /// Lets bytes pass again, with those that were held back first.
    pub fn thaw(&self) {
        self.set(Mode::Open);
    }

    fn set(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.listener.abort();
    }
}

/// Carries bytes both ways until either side closes or the connection is cut.
async fn connection(client: TcpStream, target: SocketAddr, mut state: watch::Receiver<State>, cuts: u64) {
    let (mut up, mut down) = (state.clone(), state.clone());
    let carry = async {
        let server = TcpStream::connect(target).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::try_join!(
            pump(from_client, to_server, &mut up, cuts),
            pump(from_server, to_client, &mut down, cuts)
        )
    };
    tokio::select! {
        _ = carry => {}
        _ = state.wait_for(|state| state.cuts != cuts) => {}
    }
}

/// Carries bytes one way. Ends with an error when either side is closed: NATS and HTTP never close one
/// direction alone, and mean it.
async fn pump(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    state: &mut watch::Receiver<State>,
    cuts: u64,
) -> io::Result<()> {
    let gone = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        from.readable().await?;
        state.wait_for(|state| state.mode == Mode::Open).await.map_err(gone)?;
        let read = match from.try_read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::ConnectionAborted.into()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            to.writable().await?;
            // While this is held the state can't change: what is written was written before the change.
            let now = state.wait_for(|state| state.mode == Mode::Open).await.map_err(gone)?;
            if now.cuts != cuts {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            match to.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
