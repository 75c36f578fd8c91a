use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::{JoinHandle, yield_now},
    time::{sleep, timeout},
};

use super::*;

const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A tunnel whose pipes hold this much. The backend has sent `early` behind its 101.
fn tunnel(
    size: usize,
    early: &'static str,
    deadline: Option<Instant>,
) -> (DuplexStream, DuplexStream, JoinHandle<Ended>) {
    let (client, client_side) = duplex(size);
    let (backend, backend_side) = duplex(size);
    let task = tokio::spawn(async move {
        let mut sides = Sides {
            client: client_side,
            backend: backend_side,
            up: Direction::default(),
            down: Direction::beginning_with(Bytes::from(early)),
            idle_timeout: IDLE_TIMEOUT,
            active_at: Instant::now(),
            half_closed_at: None,
            probe_at: None,
            deadline,
            timer: Timer::default(),
        };
        let cause = poll_fn(|cx| sides.poll(cx)).await;
        assert!(sides.up.pending.is_empty() || cause != Cause::Closed);
        Ended {
            cause,
            request_bytes: sides.up.bytes,
            response_bytes: sides.down.bytes,
            response_chunks: sides.down.chunks,
        }
    });
    (client, backend, task)
}

async fn read(stream: &mut DuplexStream, length: usize) -> String {
    let mut read = vec![0; length];
    stream.read_exact(&mut read).await.unwrap();
    String::from_utf8(read).unwrap()
}

#[tokio::test(start_paused = true)]
async fn both_directions_are_forwarded_to_their_ends() {
    let (mut client, mut backend, task) = tunnel(1024, "early", None);
    assert_eq!(read(&mut client, 5).await, "early");
    client.write_all(b"up").await.unwrap();
    assert_eq!(read(&mut backend, 2).await, "up");

    client.shutdown().await.unwrap();
    assert_eq!(backend.read(&mut [0]).await.unwrap(), 0);
    backend.write_all(b"down").await.unwrap();
    backend.shutdown().await.unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "down");

    let ended = task.await.unwrap();
    assert_eq!(ended.cause, Cause::Closed);
    assert_eq!((ended.request_bytes, ended.response_bytes), (2, 9));
    assert_eq!(ended.response_chunks, 2);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_slows_the_sender_down_and_loses_nothing() {
    let (mut client, mut backend, _task) = tunnel(1000, "", None);
    let noise: String = (0..10_000).map(|number| number.to_string() + ",").collect();
    let sent = noise.clone();
    let sending = tokio::spawn(async move {
        backend.write_all(sent.as_bytes()).await.unwrap();
        backend
    });
    for _ in 0..100 {
        yield_now().await;
    }
    assert!(!sending.is_finished());
    assert_eq!(read(&mut client, noise.len()).await, noise);
    sending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_direction_has_10_s_after_the_end_of_the_other() {
    let (mut client, mut backend, task) = tunnel(1024, "", None);
    let start = Instant::now();
    client.shutdown().await.unwrap();
    assert_eq!(backend.read(&mut [0]).await.unwrap(), 0);
    sleep(HALF_CLOSED_TIMEOUT / 2).await;
    // Which it doesn't get anew with what it sends.
    backend.write_all(b"down").await.unwrap();
    assert_eq!(read(&mut client, 4).await, "down");
    assert_eq!(task.await.unwrap().cause, Cause::Closed);
    assert_eq!(start.elapsed().as_secs(), HALF_CLOSED_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_byte_in_either_direction_puts_the_idle_timeout_off() {
    let (mut client, mut backend, task) = tunnel(1024, "", None);
    for _ in 0..3 {
        sleep(IDLE_TIMEOUT - Duration::from_secs(1)).await;
        client.write_all(b"u").await.unwrap();
        assert_eq!(read(&mut backend, 1).await, "u");
        sleep(IDLE_TIMEOUT - Duration::from_secs(1)).await;
        backend.write_all(b"d").await.unwrap();
        assert_eq!(read(&mut client, 1).await, "d");
    }
    let start = Instant::now();
    assert_eq!(task.await.unwrap().cause, Cause::Idle);
    assert_eq!(start.elapsed().as_secs(), IDLE_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_ends_at_the_deadline_of_its_exchange() {
    let start = Instant::now();
    let period = Duration::from_secs(30);
    let (mut client, mut backend, task) = tunnel(1024, "", Some(start + period));
    while !task.is_finished() {
        // Until then it isn't idle.
        let _ = client.write_all(b"u").await;
        let _ = backend.read(&mut [0]).await;
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(task.await.unwrap().cause, Cause::Deadline);
    assert!(start.elapsed() >= period);
}

#[tokio::test(start_paused = true)]
async fn a_side_that_is_gone_is_found_when_something_is_written_to_it() {
    let (mut client, backend, task) = tunnel(1024, "", None);
    drop(backend);
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    client.write_all(b"up").await.unwrap();
    assert_eq!(task.await.unwrap().cause, Cause::BackendReset);
}

#[tokio::test(start_paused = true)]
async fn a_side_that_is_gone_is_found_while_the_other_does_not_read() {
    let (_client, mut backend, task) = tunnel(1024, "", None);
    let noise = [b'x'; 10_000];
    // More than what the pipes and the tunnel itself take.
    let sending = timeout(Duration::from_millis(1), backend.write_all(&noise));
    assert!(sending.await.is_err());
    assert!(!task.is_finished());
    let start = Instant::now();
    drop(backend);
    assert_eq!(task.await.unwrap().cause, Cause::BackendReset);
    assert!(start.elapsed() <= PROBE_INTERVAL);
}
