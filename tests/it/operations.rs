//! The server while it runs: reload and drain.

#![cfg(unix)]

use std::{fs, time::Duration};

use crate::support::{
    self, Backend, Server, TempFile, Wire, config_for, nobody, post, response, soon,
};

fn start(config: &TempFile, arguments: &[&str]) -> Server {
    let mut command = Server::command();
    command.arg("--config").arg(&config.path).args(arguments);
    Server::spawn(&mut command)
}

async fn get(server: &Server, path: &str) -> support::Message {
    let mut client = Wire::connect(server.address).await;
    client
        .send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .await;
    client.response().await
}

/// The names of the backends in health.
async fn backends(server: &Server) -> String {
    let health = get(server, "/health").await.json();
    let names = health["backends"].as_array().expect("a list").iter();
    let names: Vec<_> = names
        .map(|backend| backend["name"].as_str().unwrap())
        .collect();
    names.join(",")
}

/// Waits until health shows these backends.
async fn until_backends(server: &Server, names: &str) {
    soon("the reload", async {
        while backends(server).await != names {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

fn config(name: &str, url: &str) -> String {
    format!(r#"{{"primary_backends":[{{"name":"{name}","url":"{url}"}}]}}"#)
}

#[tokio::test]
async fn a_hangup_reloads_and_what_is_in_flight_stays_where_it_began() {
    let (old, new) = (Backend::start().await, Backend::start().await);
    let file = TempFile::new("config.json", &config("old", &old.url()));
    let server = start(&file, &[]);
    let mut before = Wire::connect(server.address).await;
    before.send(post("{\"n\":1}")).await;
    let mut old_wire = old.accept().await;
    old_wire.request().await;

    fs::write(&file.path, config("new", &new.url())).unwrap();
    server.signal("HUP");
    until_backends(&server, "new").await;

    let mut after = Wire::connect(server.address).await;
    after.send(post("{\"n\":2}")).await;
    let mut new_wire = new.accept().await;
    assert_eq!(new_wire.request().await.body, b"{\"n\":2}");
    new_wire.send(response("200 OK", "new")).await;
    assert_eq!(after.response().await.body, b"new");
    old_wire.send(response("200 OK", "old")).await;
    assert_eq!(before.response().await.body, b"old");
    server.logged("configuration reloaded").await;
}

#[tokio::test]
async fn connections_that_were_there_before_get_the_new_configuration() {
    let old = Backend::start().await;
    let file = TempFile::new("config.json", &config("old", &old.url()));
    let server = start(&file, &[]);
    old.answer_all(response("200 OK", "old"));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    assert_eq!(client.response().await.body, b"old");

    let nowhere = format!("http://{}/v1", nobody().await);
    fs::write(&file.path, config("nowhere", &nowhere)).unwrap();
    server.signal("HUP");
    until_backends(&server, "nowhere").await;

    client.send(post("{}")).await;
    assert_eq!(client.response().await.error_code(), "connection_refused");
}

#[tokio::test]
async fn a_reload_keeps_the_connections_to_a_backend_that_did_not_change() {
    let backend = Backend::start().await;
    let file = TempFile::new("config.json", &config("one", &backend.url()));
    let server = start(&file, &[]);
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send(response("200 OK", "1")).await;
    client.response().await;

    fs::write(&file.path, config("renamed", &backend.url())).unwrap();
    server.signal("HUP");
    until_backends(&server, "renamed").await;

    client.send(post("{\"n\":2}")).await;
    assert_eq!(wire.request().await.body, b"{\"n\":2}"); // on the same connection
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_reported_as_at_the_start_and_the_old_one_stays() {
    let backend = Backend::start().await;
    let file = TempFile::new("config.json", &config("old", &backend.url()));
    let server = start(&file, &[]);
    fs::write(&file.path, "{\n  \"primary_backends\": 1\n}").unwrap();
    let at_start = Server::command()
        .arg("--config")
        .arg(&file.path)
        .output()
        .unwrap();
    assert_eq!(at_start.status.code(), Some(2));

    server.signal("HUP");
    server.logged("the old configuration stays").await;

    let message = String::from_utf8(at_start.stderr).unwrap();
    assert!(server.log().contains(message.trim_end()), "{message}");
    assert_eq!(backends(&server).await, "old");
}

#[tokio::test]
async fn a_missing_file_is_reported_and_the_old_one_stays() {
    let backend = Backend::start().await;
    let file = TempFile::new("config.json", &config("old", &backend.url()));
    let server = start(&file, &["--watch"]);
    fs::remove_file(&file.path).unwrap();
    server.logged("the old configuration stays").await;
    assert_eq!(backends(&server).await, "old");

    fs::write(&file.path, config("new", &backend.url())).unwrap();
    until_backends(&server, "new").await;
}

#[tokio::test]
async fn a_watched_file_is_reloaded_when_it_changes_and_no_other_is() {
    let backend = Backend::start().await;
    let watched = TempFile::new("config.json", &config("old", &backend.url()));
    let server = start(&watched, &["--watch"]);
    let other = TempFile::new("config.json", &config("old", &backend.url()));
    let unwatched = start(&other, &[]);
    fs::write(&other.path, config("new", &backend.url())).unwrap();

    fs::write(&watched.path, config("new", &backend.url())).unwrap();
    until_backends(&server, "new").await;
    assert_eq!(backends(&unwatched).await, "old");
}

#[tokio::test]
async fn what_is_in_flight_ends_by_itself_and_new_work_is_refused_meanwhile() {
    for end in ["TERM", "INT"] {
        let backend = Backend::start().await;
        let mut server = Server::start(&config_for(&backend));
        // One waits for its head, one streams.
        let mut waiting = Wire::connect(server.address).await;
        waiting.send(post("{\"n\":1}")).await;
        let mut first = backend.accept().await;
        first.request().await;
        let mut streaming = Wire::connect(server.address).await;
        streaming.send(post("{\"n\":2}")).await;
        let mut second = backend.accept().await;
        second.request().await;
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
        second.send(head).await;
        streaming.until("one\r\n").await;
        let mut idle = Wire::connect(server.address).await;
        idle.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
        idle.response().await;

        server.signal(end);
        idle.closed().await;
        let health = get(&server, "/health").await;
        assert_eq!(health.status(), 503);
        assert_eq!(health.json()["status"], "draining");
        for path in ["/v1/chat/completions", "/elsewhere"] {
            let refused = get(&server, path).await;
            assert_eq!(refused.status(), 503);
            assert_eq!(refused.error_code(), "destination_unavailable");
            assert_eq!(refused.field("connection").as_deref(), Some("close"));
        }
        assert!(server.is_running());

        first.send(response("200 OK", "late")).await;
        assert_eq!(waiting.response().await.body, b"late");
        second.send("3\r\ntwo\r\n0\r\n\r\n").await;
        assert!(streaming.until("0\r\n\r\n").await.contains("two"));
        drop((waiting, streaming));
        assert_eq!(soon("the end", server.ended()).await, Some(0));
    }
}

#[tokio::test]
async fn draining_ends_when_its_time_is_over() {
    let backend = Backend::start().await;
    let mut server = Server::start_with(&config_for(&backend), &["--drain-timeout", "0.2"], &[]);
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;

    server.signal("TERM");
    assert_eq!(soon("the end", server.ended()).await, Some(0));
    client.closed().await;
    wire.closed().await;
}

#[tokio::test]
async fn a_server_without_work_ends_at_once() {
    let backend = Backend::start().await;
    let mut server = Server::start(&config_for(&backend));
    server.signal("TERM");
    assert_eq!(soon("the end", server.ended()).await, Some(0));
}

#[tokio::test]
async fn connections_that_have_said_nothing_yet_do_not_hold_up_the_end() {
    let backend = Backend::start().await;
    let mut server = Server::start(&config_for(&backend));
    let mut silent = Wire::connect(server.address).await;
    let mut begun = Wire::connect(server.address).await;
    begun.send("PRI * HTTP/2.0").await;
    // It has been accepted after them.
    assert_eq!(get(&server, "/health").await.status(), 200);

    server.signal("TERM");
    silent.closed().await;
    begun.closed().await;
    assert_eq!(soon("the end", server.ended()).await, Some(0));
}

// Warnings.

/// Waits until it was reloaded so many times, and gives the lines of the log that are warnings.
async fn warnings(server: &Server, reloads: usize) -> Vec<String> {
    soon("the reload", async {
        while server.log().matches("configuration reloaded").count() < reloads {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let log = server.log();
    let warnings = log.lines().filter(|line| line.contains(" WARN "));
    warnings.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_risky_configuration_is_warned_of_at_the_start_and_at_each_reload() {
    let risky = r#"{"primary_backends":[
        {"name":"one","url":"http://192.0.2.1/v1?key=sk-one"},
        {"name":"two","url":"http://192.0.2.2/v1?key=sk-two"}]}"#;
    let file = TempFile::new("config.json", risky);
    let server = start(&file, &[]);
    for (reloads, config, expected) in [
        (1, risky, 4), // those of the start, too
        (2, &config("one", "http://127.0.0.1/v1"), 4),
        (3, risky, 6),
    ] {
        fs::write(&file.path, config).unwrap();
        server.signal("HUP");
        let warnings = warnings(&server, reloads).await;
        assert_eq!(warnings.len(), expected, "{warnings:#?}");
        for pair in warnings.chunks(2) {
            assert!(pair[0].contains("credentials go to different hosts: `one`, `two`"));
            assert!(pair[1].contains("unencrypted, by http, to `one`, `two`"));
            assert!(!pair.concat().contains("192.0.2") && !pair.concat().contains("sk-"));
        }
    }
}

#[tokio::test]
async fn what_is_shipped_is_not_warned_of() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/config.json");
    let two_hosts = config("one", "http://192.0.2.1/v1")
        .replace("]}", r#",{"name":"two","url":"http://192.0.2.2"}]}"#);
    let two_hosts = TempFile::new("config.json", &two_hosts);
    let demo = two_hosts.path.to_str().expect("UTF-8");
    let mut commands = vec![vec!["--demo", "--config", demo]];
    if cfg!(any(feature = "native-tls", feature = "rustls")) {
        commands.push(vec!["--config", shipped]);
        commands.push(vec!["--demo", "--config", shipped]);
    }
    for arguments in commands {
        let server = Server::spawn(Server::command().args(&arguments));
        server.signal("HUP");
        let warnings = warnings(&server, 1).await;
        assert!(warnings.is_empty(), "{arguments:?}: {warnings:#?}");
    }
}
