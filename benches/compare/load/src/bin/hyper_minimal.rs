//! A proxy with nothing in it but hyper's server and hyper-util's client: what is built on these in
//! the usual way doesn't get below it.

use std::net::SocketAddr;

use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::http::uri::{Authority, Scheme};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};

#[derive(Parser)]
struct Args {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long, default_value = "127.0.0.1:9100")]
    upstream: Authority,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Rewrite the request's model, the plain way: parse, set, print
    #[arg(long)]
    model: Option<String>,
}

type Forwarded = Either<Incoming, Full<Bytes>>;
type Pool = Client<HttpConnector, Forwarded>;

fn main() -> std::io::Result<()> {
    let args: &'static Args = Box::leak(Box::new(Args::parse()));
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.threads)
        .enable_all()
        .build()?
        .block_on(async { tokio::spawn(serve(args)).await.expect("server runs") })
}

async fn serve(args: &'static Args) -> std::io::Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let pool: Pool = Client::builder(TokioExecutor::new()).build(connector);
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(args.listen)?;
    let listener = socket.listen(4096)?;
    loop {
        let Ok((connection, _)) = listener.accept().await else {
            continue;
        };
        connection.set_nodelay(true)?;
        let pool = pool.clone();
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(
            TokioIo::new(connection),
            service_fn(move |request| forward(request, pool.clone(), args)),
        ));
    }
}

async fn forward(
    request: Request<Incoming>,
    pool: Pool,
    args: &'static Args,
) -> Result<Response<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
    let (mut parts, body) = request.into_parts();
    let mut uri = parts.uri.into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(args.upstream.clone());
    parts.uri = uri.try_into()?;
    parts.headers.remove(CONNECTION);
    parts
        .headers
        .insert(HOST, HeaderValue::from_str(args.upstream.as_str())?);
    let body = match &args.model {
        None => Either::Left(body),
        Some(model) => {
            parts.headers.remove(CONTENT_LENGTH);
            parts.headers.remove(TRANSFER_ENCODING);
            let bytes = body.collect().await?.to_bytes();
            let mut json: serde_json::Value = serde_json::from_slice(&bytes)?;
            json["model"] = model.as_str().into();
            Either::Right(Full::new(serde_json::to_vec(&json)?.into()))
        }
    };
    let mut response = pool.request(Request::from_parts(parts, body)).await?;
    response.headers_mut().remove(CONNECTION);
    Ok(response)
}
