//! The metrics of a server that runs with `--metrics 127.0.0.1:0`.

use std::{net::SocketAddr, time::Duration};

use tokio::time::{sleep, timeout};

use super::{PATIENCE, Server, Wire};

/// Where a server is scraped.
pub(crate) struct Metrics {
    pub(crate) address: SocketAddr,
}

impl Metrics {
    /// Finds the address in the server's log.
    pub(crate) async fn of(server: &Server) -> Self {
        let log = server.logged("/metrics").await;
        let address = log.split("metrics on http://").nth(1);
        let address = address.and_then(|rest| rest.split("/metrics").next());
        let address = address.and_then(|address| address.parse().ok());
        Self {
            address: address.unwrap_or_else(|| panic!("no address in {log}")),
        }
    }

    pub(crate) async fn scrape(&self) -> Scrape {
        let mut wire = Wire::connect(self.address).await;
        wire.send("GET /metrics HTTP/1.1\r\nHost: metrics.test\r\n\r\n")
            .await;
        let response = wire.response().await;
        assert_eq!(response.status(), 200);
        Scrape(String::from_utf8(response.content()).expect("UTF-8"))
    }

    /// Scrapes until the sum of these samples is `value`.
    pub(crate) async fn reach(&self, name: &str, labels: &[(&str, &str)], value: f64) -> Scrape {
        let reached = async {
            loop {
                let scrape = self.scrape().await;
                if scrape.sum(name, labels) == value {
                    return scrape;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        match timeout(PATIENCE, reached).await {
            Ok(scrape) => scrape,
            Err(_) => panic!("{name}{labels:?} isn't {value}:\n{}", self.scrape().await.0),
        }
    }
}

/// One exposition.
pub(crate) struct Scrape(pub(crate) String);

impl Scrape {
    /// The sum of the samples with this name and at least these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let values = self.samples(name, labels);
        values.iter().map(|(_, value)| value).sum()
    }

    /// The labels, as they stand, and the value of each of these samples.
    pub(crate) fn samples(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(String, f64)> {
        let mut samples = Vec::new();
        for line in self.0.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (found, found_labels) = series.split_once('{').unwrap_or((series, ""));
            let has = |(label, value): &(&str, &str)| {
                let pair = format!("{label}=\"{value}\"");
                found_labels
                    .trim_end_matches('}')
                    .split(',')
                    .any(|it| it == pair)
            };
            if found == name && labels.iter().all(has) {
                let value = value.parse().expect("a number");
                samples.push((found_labels.trim_end_matches('}').to_owned(), value));
            }
        }
        samples
    }
}
