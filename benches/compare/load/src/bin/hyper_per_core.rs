//! About the least that hyper can cost: a runtime, a listener and a pool of hyper's bare client
//! connections for each thread, with nothing shared.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use clap::Parser;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};

#[derive(Parser)]
struct Args {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long, default_value = "127.0.0.1:9100")]
    upstream: SocketAddr,
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

type Sender = SendRequest<Incoming>;
type Pool = Rc<RefCell<Vec<Sender>>>;

fn main() {
    let args: &'static Args = Box::leak(Box::new(Args::parse()));
    let workers: Vec<_> = (0..args.threads)
        .map(|_| std::thread::spawn(move || work(args).expect("listen")))
        .collect();
    workers
        .into_iter()
        .for_each(|worker| worker.join().expect("worker runs"));
}

fn work(args: &'static Args) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        socket.bind(args.listen)?;
        let listener = socket.listen(4096)?;
        let pool = Pool::default();
        let host: &'static HeaderValue = Box::leak(Box::new(
            args.upstream.to_string().try_into().expect("valid header"),
        ));
        loop {
            let Ok((connection, _)) = listener.accept().await else {
                continue;
            };
            connection.set_nodelay(true)?;
            let pool = pool.clone();
            tokio::task::spawn_local(hyper::server::conn::http1::Builder::new().serve_connection(
                TokioIo::new(connection),
                service_fn(move |request| forward(request, pool.clone(), args.upstream, host)),
            ));
        }
    })
}

async fn forward(
    mut request: Request<Incoming>,
    pool: Pool,
    upstream: SocketAddr,
    host: &HeaderValue,
) -> Result<Response<PooledBody>, Box<dyn std::error::Error + Send + Sync>> {
    request.headers_mut().remove(CONNECTION);
    request.headers_mut().insert(HOST, host.clone());
    let mut sender = idle_connection(&pool, upstream).await?;
    let mut response = sender.send_request(request).await?;
    response.headers_mut().remove(CONNECTION);
    Ok(response.map(|inner| PooledBody {
        inner,
        sender: Some(sender),
        pool,
    }))
}

async fn idle_connection(
    pool: &Pool,
    upstream: SocketAddr,
) -> Result<Sender, Box<dyn std::error::Error + Send + Sync>> {
    loop {
        let pooled = pool.borrow_mut().pop();
        let Some(mut sender) = pooled else { break };
        if sender.ready().await.is_ok() {
            return Ok(sender);
        }
    }
    let socket = TcpStream::connect(upstream).await?;
    socket.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(socket)).await?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

/// An answer's body that gives its connection back to the pool at its end.
struct PooledBody {
    inner: Incoming,
    sender: Option<Sender>,
    pool: Pool,
}

impl PooledBody {
    fn give_back(&mut self) {
        self.pool.borrow_mut().extend(self.sender.take());
    }
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || self.inner.is_end_stream() {
            self.give_back();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
