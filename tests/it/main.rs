//! The proxy from outside, over real sockets on the loopback address: the server as a process, and
//! the layers in apps of these tests.

mod api;
mod async_openai;
mod axum;
mod backends;
mod clocks;
mod composition;
mod demo;
mod errors;
mod faults;
mod hostile_clients;
mod http2_backend;
mod hyper;
mod in_flight;
mod keys;
mod lifecycle;
mod limits;
mod listeners;
mod models;
mod no_duplicates;
mod operations;
mod own_fields;
mod pings;
mod requests;
mod responses;
mod routes;
mod secrets;
mod server;
mod server_edges;
mod server_tls;
mod stack;
mod support;
mod tls;
mod tls_identity;
mod tonic;
mod websocket;
