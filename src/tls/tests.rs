use std::{fs, path::Path};

use super::*;

fn pem(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    fs::read(folder.join(name)).unwrap()
}

/// With these authorities, so that the system's don't count.
fn client(certificates: &str, key: &str) -> Result<Client, Unusable> {
    Client::new(Credentials {
        authorities: Some(pem("authority.pem")),
        identity: Some(Identity {
            certificates: pem(certificates),
            key: pem(key),
        }),
    })
}

fn trusting(authorities: Vec<u8>) -> Result<Client, Unusable> {
    Client::new(Credentials {
        authorities: Some(authorities),
        identity: None,
    })
}

#[test]
fn keys_may_have_any_form_but_a_passphrase() {
    for (certificates, key) in [
        ("client.pem", "client.key"),
        ("client.pem", "client.sec1.key"),
        ("chained.pem", "leaf.key"),
        ("rsa.pem", "rsa.pkcs1.key"),
    ] {
        // Elsewhere the platform's library takes one form.
        if key == "client.key" || cfg!(any(feature = "rustls", target_os = "linux")) {
            let client = client(certificates, key);
            assert!(client.is_ok(), "{certificates}, {key}: {:?}", client.err());
        }
    }
    for key in ["encrypted.key", "good.pem", "make"] {
        let client = client("good.pem", key);
        assert!(matches!(client, Err(Unusable::Key)), "{key}: {client:?}");
    }
}

#[test]
fn a_key_must_be_the_certificates() {
    for (certificates, key) in [("client.pem", "leaf.key"), ("good.pem", "rsa.pkcs1.key")] {
        let client = client(certificates, key);
        assert!(matches!(client, Err(Unusable::Mismatch)), "{client:?}");
    }
}

#[test]
fn certificates_must_be_there_and_well_formed() {
    let text = String::from_utf8(pem("client.pem")).unwrap();
    let cut: String = text
        .lines()
        .take(3)
        .map(|line| format!("{line}\n"))
        .collect();
    let cut = format!("{cut}-----END CERTIFICATE-----\n");
    for bad in [b"".to_vec(), pem("leaf.key"), cut.into_bytes()] {
        let client = Client::new(Credentials {
            authorities: Some(pem("authority.pem")),
            identity: Some(Identity {
                certificates: bad.clone(),
                key: pem("client.key"),
            }),
        });
        assert!(matches!(client, Err(Unusable::Certificates)), "{client:?}");
        assert!(matches!(trusting(bad), Err(Unusable::Authorities)));
    }
    assert!(trusting([pem("authority.pem"), pem("clients.pem")].concat()).is_ok());
}

#[test]
fn clients_with_the_same_credentials_are_equal() {
    let trusting = |name| trusting(pem(name)).unwrap();
    assert!(trusting("authority.pem") == trusting("authority.pem"));
    assert!(trusting("authority.pem") != trusting("clients.pem"));
    let with_key = client("client.pem", "client.key").unwrap();
    assert!(trusting("authority.pem") != with_key);
    assert_eq!(format!("{with_key:?}"), "Sensitive");
}
